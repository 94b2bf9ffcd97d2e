#include "zo_optim/direction/kernels.h"

namespace heddle::zo {

const int16_t kNormalTable[32] = {
#include "zo_optim/direction/normal_table.inc"
};

namespace {

using Lanes = uint32_t;
constexpr size_t kLanes = 1;
inline Lanes Load(const uint32_t* from) { return *from; }
inline void Store(uint32_t* to, Lanes value) { *to = value; }
inline Lanes Set(uint32_t value) { return value; }
inline void MulWide(Lanes value, uint32_t constant, Lanes* low, Lanes* high) {
  const uint64_t product = uint64_t{value} * constant;
  *low = static_cast<uint32_t>(product);
  *high = static_cast<uint32_t>(product >> 32);
}
inline int32_t NormalSums(uint32_t words) { return NormalUnits(words); }
inline void StoreScaled(float* out, int32_t sums) { *out = static_cast<float>(sums) * 0x1p-13F; }
inline void AddScaled(float* weights, int32_t sums, float scale) {
  *weights += scale * (static_cast<float>(sums) * 0x1p-13F);
}

inline float Rounded(float scale, float z, float magic) { return (scale * z + magic) - magic; }
inline void MoveScaled(float* weights, int32_t sums, const float* from, const float* to, size_t moves, float magic) {
  const float z = static_cast<float>(sums) * 0x1p-13F;
  float moved = 0;
  for (size_t i = 0; i < moves; ++i) moved += Rounded(to[i], z, magic) - Rounded(from[i], z, magic);
  *weights += moved;
}

#include "zo_optim/direction/kernel_body.inc"

}  // namespace

const Kernels kScalarKernels = {Words, FillNormal, AddNormal, FillRademacher, AddRademacher, MoveNormal};

}  // namespace heddle::zo
