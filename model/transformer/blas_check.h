// Which BLAS does LibTorch's matrix products? The distribution's reference BLAS is some fifty times slower than
// OpenBLAS, and which of them is loaded is decided outside the program, so every program that links LibTorch looks at
// start-up and says so.
#pragma once

#include <string>
#include <string_view>

namespace heddle::model {

struct BlasCheck {
  std::string library;  // path of the loaded BLAS, or "built in" when none is seen among the mapped files
  bool slow = false;    // the reference implementation
  // One line for people: what is loaded, and the cure when it is slow.
  std::string Describe() const;
};

// From the text of /proc/self/maps and of LibTorch's build configuration: pure, for tests.
BlasCheck CheckBlas(std::string_view process_maps, std::string_view torch_config);
// Of this process. Thread-safe.
BlasCheck CheckLoadedBlas();
// Logs a warning with the cure when this process has the reference BLAS. For the start of a program.
void WarnOfSlowBlas();

}  // namespace heddle::model
