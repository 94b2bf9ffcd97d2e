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

#include "zo_optim/direction/kernel_body.inc"

}  // namespace

const Kernels kNeonKernels = {Words, FillNormal, AddNormal, FillRademacher, AddRademacher};

}  // namespace heddle::zo
