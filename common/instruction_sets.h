// For files whose loops are compiled several times: which of the forms this processor can run.
// Thread-safety: pure functions.
#pragma once

#include <vector>

#if defined(__x86_64__)
#define HEDDLE_X86 1
#define HEDDLE_AVX2 __attribute__((target("avx2")))
#define HEDDLE_AVX512 __attribute__((target("avx2,avx512f,avx512dq,avx512vl,avx512bw")))
#endif

#define HEDDLE_INLINE inline __attribute__((always_inline))

namespace heddle {

#if HEDDLE_X86
// Those of the forms that this processor can run, the fastest first; never empty.
template <typename Kernels>
std::vector<Kernels> Usable(const Kernels& avx512, const Kernels& avx2, const Kernels& portable) {
  std::vector<Kernels> usable;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw")) {
    usable.push_back(avx512);
  }
  if (__builtin_cpu_supports("avx2")) usable.push_back(avx2);
  usable.push_back(portable);
  return usable;
}
#endif

}  // namespace heddle
