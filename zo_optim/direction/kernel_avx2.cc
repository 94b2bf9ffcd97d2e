// Compiled with -mavx2.
#include <immintrin.h>

#include "zo_optim/direction/kernels.h"

namespace heddle::zo {
namespace {

struct Lanes {
  __m256i v;
  friend Lanes operator^(Lanes a, Lanes b) { return {_mm256_xor_si256(a.v, b.v)}; }
};
constexpr size_t kLanes = 8;
inline Lanes Load(const uint32_t* from) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))}; }
inline void Store(uint32_t* to, Lanes value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value.v); }
inline Lanes Set(uint32_t value) { return {_mm256_set1_epi32(static_cast<int>(value))}; }
inline void MulWide(Lanes value, uint32_t constant, Lanes* low, Lanes* high) {
  const __m256i factor = _mm256_set1_epi32(static_cast<int>(constant));
  const __m256i even = _mm256_mul_epu32(value.v, factor);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(value.v, 32), factor);
  low->v = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  high->v = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
}

#include "zo_optim/direction/kernel_body.inc"

}  // namespace

const Kernels kAvx2Kernels = {Words, FillNormal, AddNormal, FillRademacher, AddRademacher};

}  // namespace heddle::zo
