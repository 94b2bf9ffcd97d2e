// What operator new holds in this program, counted: std::vector, std::string and the like, where counting_allocator.h
// sees LibTorch's tensors. A program that links counting_new.cc has its operators for the whole process; thread-safe.
#pragma once

#include <cstdint>

namespace heddle {

struct CountingNew {
  static int64_t live_bytes();
  // The most that was held at one time since the last ForgetPeak.
  static int64_t peak_bytes();
  static void ForgetPeak();
};

}  // namespace heddle
