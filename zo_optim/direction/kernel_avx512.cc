// Compiled with -mavx512f.
#include <immintrin.h>

#include "zo_optim/direction/kernels.h"

namespace heddle::zo {
namespace {

struct Lanes {
  __m512i v;
  friend Lanes operator^(Lanes a, Lanes b) { return {_mm512_xor_si512(a.v, b.v)}; }
};
constexpr size_t kLanes = 16;
inline Lanes Load(const uint32_t* from) { return {_mm512_loadu_si512(from)}; }
inline void Store(uint32_t* to, Lanes value) { _mm512_storeu_si512(to, value.v); }
inline Lanes Set(uint32_t value) { return {_mm512_set1_epi32(static_cast<int>(value))}; }
inline void MulWide(Lanes value, uint32_t constant, Lanes* low, Lanes* high) {
  const __m512i factor = _mm512_set1_epi32(static_cast<int>(constant));
  const __m512i even = _mm512_mul_epu32(value.v, factor);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(value.v, 32), factor);
  low->v = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
  high->v = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
}

#include "zo_optim/direction/kernel_body.inc"

}  // namespace

const Kernels kAvx512Kernels = {Words, FillNormal, AddNormal, FillRademacher, AddRademacher};

}  // namespace heddle::zo
