// Compiled with -mavx512f and -mavx512bw.
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

// 1, or -1 where bit 5 of the 16-bit lane is set.
inline __m512i Signs(__m512i words) {
  return _mm512_or_si512(_mm512_srai_epi16(_mm512_slli_epi16(words, 10), 15), _mm512_set1_epi16(1));
}
// The whole table is one register; of each 16-bit lane the low five bits count.
inline Lanes NormalSums(Lanes words) {
  const __m512i table = _mm512_loadu_si512(kNormalTable);
  const __m512i later = _mm512_srli_epi16(words.v, 6);
  return {_mm512_add_epi32(_mm512_madd_epi16(_mm512_permutexvar_epi16(words.v, table), Signs(words.v)),
                           _mm512_madd_epi16(_mm512_permutexvar_epi16(later, table), Signs(later)))};
}
inline __m512 Scaled(Lanes sums) { return _mm512_mul_ps(_mm512_cvtepi32_ps(sums.v), _mm512_set1_ps(0x1p-13F)); }
inline void StoreScaled(float* out, Lanes sums) { _mm512_storeu_ps(out, Scaled(sums)); }
inline void AddScaled(float* weights, Lanes sums, float scale) {
  const __m512 product = _mm512_mul_ps(_mm512_set1_ps(scale), Scaled(sums));
  _mm512_storeu_ps(weights, _mm512_add_ps(_mm512_loadu_ps(weights), product));
}

inline __m512 Rounded(float scale, __m512 z, __m512 magic) {
  return _mm512_sub_ps(_mm512_add_ps(_mm512_mul_ps(_mm512_set1_ps(scale), z), magic), magic);
}
inline void MoveScaled(float* weights, Lanes sums, const float* from, const float* to, size_t moves, float magic) {
  const __m512 z = Scaled(sums), m = _mm512_set1_ps(magic);
  __m512 moved = _mm512_setzero_ps();
  for (size_t i = 0; i < moves; ++i) {
    moved = _mm512_add_ps(moved, _mm512_sub_ps(Rounded(to[i], z, m), Rounded(from[i], z, m)));
  }
  _mm512_storeu_ps(weights, _mm512_add_ps(_mm512_loadu_ps(weights), moved));
}

#include "zo_optim/direction/kernel_body.inc"

}  // namespace

const Kernels kAvx512Kernels = {Words, FillNormal, AddNormal, FillRademacher, AddRademacher, MoveNormal};

}  // namespace heddle::zo
