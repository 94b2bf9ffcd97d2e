// Which BLAS does LibTorch's matrix products? The distribution's reference BLAS is some fifty times slower than
// OpenBLAS, and which of them is loaded is decided outside the program, so every program that links LibTorch looks at
// start-up and says so. And how fast is bfloat16 on this processor?
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

// From the text of /proc/cpuinfo: whether the processor lacks instructions for bfloat16, so that LibTorch computes with
// it some twenty times slower than with float32. False where the text does not say what the processor has.
bool IsBfloat16Slow(std::string_view cpu_info);
// Logs a warning, once a process, when this one's processor is such a one. For before computing in bfloat16 on it.
void WarnOfSlowBfloat16();

}  // namespace heddle::model
