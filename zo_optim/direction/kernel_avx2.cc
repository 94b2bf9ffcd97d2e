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

// The 16-bit entries that the low five bits of each 16-bit lane name: their bytes come from four tables of 16 bytes.
inline __m256i Entries(__m256i index) {
  const __m256i first = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kNormalTable)));
  const __m256i second =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kNormalTable + 8)));
  const __m256i third =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kNormalTable + 16)));
  const __m256i fourth =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kNormalTable + 24)));
  // Of eight entries: bytes 2 i and 2 i + 1, i being the low three bits.
  const __m256i low = _mm256_and_si256(index, _mm256_set1_epi16(7));
  const __m256i twice = _mm256_slli_epi16(low, 1);
  const __m256i bytes = _mm256_or_si256(_mm256_or_si256(twice, _mm256_slli_epi16(twice, 8)), _mm256_set1_epi16(0x0100));
  // Bits 3 and 4 choose among the four, as the top bits of both bytes.
  const __m256i bit3 = _mm256_srai_epi16(_mm256_slli_epi16(index, 12), 15);
  const __m256i bit4 = _mm256_srai_epi16(_mm256_slli_epi16(index, 11), 15);
  const __m256i lower = _mm256_blendv_epi8(_mm256_shuffle_epi8(first, bytes), _mm256_shuffle_epi8(second, bytes), bit3);
  const __m256i upper = _mm256_blendv_epi8(_mm256_shuffle_epi8(third, bytes), _mm256_shuffle_epi8(fourth, bytes), bit3);
  return _mm256_blendv_epi8(lower, upper, bit4);
}
// 1, or -1 where bit 5 of the 16-bit lane is set.
inline __m256i Signs(__m256i words) {
  return _mm256_or_si256(_mm256_srai_epi16(_mm256_slli_epi16(words, 10), 15), _mm256_set1_epi16(1));
}
inline Lanes NormalSums(Lanes words) {
  const __m256i later = _mm256_srli_epi16(words.v, 6);
  return {_mm256_add_epi32(_mm256_madd_epi16(Entries(words.v), Signs(words.v)),
                           _mm256_madd_epi16(Entries(later), Signs(later)))};
}
inline __m256 Scaled(Lanes sums) { return _mm256_mul_ps(_mm256_cvtepi32_ps(sums.v), _mm256_set1_ps(0x1p-13F)); }
inline void StoreScaled(float* out, Lanes sums) { _mm256_storeu_ps(out, Scaled(sums)); }
inline void AddScaled(float* weights, Lanes sums, float scale) {
  const __m256 product = _mm256_mul_ps(_mm256_set1_ps(scale), Scaled(sums));
  _mm256_storeu_ps(weights, _mm256_add_ps(_mm256_loadu_ps(weights), product));
}

inline __m256 Rounded(float scale, __m256 z, __m256 magic) {
  return _mm256_sub_ps(_mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(scale), z), magic), magic);
}
inline void MoveScaled(float* weights, Lanes sums, const float* from, const float* to, size_t moves, float magic) {
  const __m256 z = Scaled(sums), m = _mm256_set1_ps(magic);
  __m256 moved = _mm256_setzero_ps();
  for (size_t i = 0; i < moves; ++i) {
    moved = _mm256_add_ps(moved, _mm256_sub_ps(Rounded(to[i], z, m), Rounded(from[i], z, m)));
  }
  _mm256_storeu_ps(weights, _mm256_add_ps(_mm256_loadu_ps(weights), moved));
}

#include "zo_optim/direction/kernel_body.inc"

}  // namespace

const Kernels kAvx2Kernels = {Words, FillNormal, AddNormal, FillRademacher, AddRademacher, MoveNormal};

}  // namespace heddle::zo
