#include "zo_optim/direction/kernels.h"

namespace heddle::zo {

const int32_t kNormalTable[4096] = {
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

#include "zo_optim/direction/kernel_body.inc"

}  // namespace

const Kernels kScalarKernels = {Words, FillNormal, AddNormal, FillRademacher, AddRademacher};

}  // namespace heddle::zo
