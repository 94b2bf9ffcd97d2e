#include <arm_neon.h>

#include "zo_optim/direction/kernels.h"

namespace heddle::zo {
namespace {

struct Lanes {
  uint32x4_t v;
  friend Lanes operator^(Lanes a, Lanes b) { return {veorq_u32(a.v, b.v)}; }
};
constexpr size_t kLanes = 4;
inline Lanes Load(const uint32_t* from) { return {vld1q_u32(from)}; }
inline void Store(uint32_t* to, Lanes value) { vst1q_u32(to, value.v); }
inline Lanes Set(uint32_t value) { return {vdupq_n_u32(value)}; }
inline void MulWide(Lanes value, uint32_t constant, Lanes* low, Lanes* high) {
  const uint32x2_t factor = vdup_n_u32(constant);
  const uint64x2_t first = vmull_u32(vget_low_u32(value.v), factor);
  const uint64x2_t second = vmull_u32(vget_high_u32(value.v), factor);
  low->v = vcombine_u32(vmovn_u64(first), vmovn_u64(second));
  high->v = vcombine_u32(vshrn_n_u64(first, 32), vshrn_n_u64(second, 32));
}

// Sums of pairs of signed entries, which the low six bits of each 16-bit lane name.
inline int32x4_t PairSums(uint16x8_t words) {
  uint8x16x4_t table;
  for (int i = 0; i < 4; ++i) table.val[i] = vreinterpretq_u8_s16(vld1q_s16(kNormalTable + 8 * i));
  // Bytes 2 i and 2 i + 1 of the table.
  const uint16x8_t twice = vshlq_n_u16(vandq_u16(words, vdupq_n_u16(31)), 1);
  const uint16x8_t bytes = vorrq_u16(vorrq_u16(twice, vshlq_n_u16(twice, 8)), vdupq_n_u16(0x0100));
  const int16x8_t entries = vreinterpretq_s16_u8(vqtbl4q_u8(table, vreinterpretq_u8_u16(bytes)));
  const int16x8_t negative = vshrq_n_s16(vreinterpretq_s16_u16(vshlq_n_u16(words, 10)), 15);
  return vpaddlq_s16(vsubq_s16(veorq_s16(entries, negative), negative));
}
inline int32x4_t NormalSums(Lanes words) {
  const uint16x8_t halves = vreinterpretq_u16_u32(words.v);
  return vaddq_s32(PairSums(halves), PairSums(vshrq_n_u16(halves, 6)));
}
inline float32x4_t Scaled(int32x4_t sums) { return vmulq_n_f32(vcvtq_f32_s32(sums), 0x1p-13F); }
inline void StoreScaled(float* out, int32x4_t sums) { vst1q_f32(out, Scaled(sums)); }
inline void AddScaled(float* weights, int32x4_t sums, float scale) {
  vst1q_f32(weights, vaddq_f32(vld1q_f32(weights), vmulq_n_f32(Scaled(sums), scale)));
}

inline float32x4_t Rounded(float scale, float32x4_t z, float32x4_t magic) {
  return vsubq_f32(vaddq_f32(vmulq_n_f32(z, scale), magic), magic);
}
inline void MoveScaled(float* weights, int32x4_t sums, const float* from, const float* to, size_t moves, float magic) {
  const float32x4_t z = Scaled(sums), m = vdupq_n_f32(magic);
  float32x4_t moved = vdupq_n_f32(0);
  for (size_t i = 0; i < moves; ++i) {
    moved = vaddq_f32(moved, vsubq_f32(Rounded(to[i], z, m), Rounded(from[i], z, m)));
  }
  vst1q_f32(weights, vaddq_f32(vld1q_f32(weights), moved));
}

#include "zo_optim/direction/kernel_body.inc"

}  // namespace

const Kernels kNeonKernels = {Words, FillNormal, AddNormal, FillRademacher, AddRademacher, MoveNormal};

}  // namespace heddle::zo
