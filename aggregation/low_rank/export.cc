#include "aggregation/low_rank/export.h"

#include <algorithm>
#include <cmath>

#include "aggregation/low_rank/layout.h"
#include "aggregation/low_rank/merge.h"
#include "aggregation/low_rank/sparse_base.h"

namespace heddle::aggregation::low_rank {
namespace {

std::span<float> Floats(std::span<std::byte> bytes) {
  return {reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float)};
}

// [a; c]
Tensor Below(const Tensor& a, const Tensor& c) {
  std::span<std::byte> bytes;
  Tensor out = Tensor::Allocate({DType::kF32, {a.shape()[0] + c.shape()[0], a.shape()[1]}}, &bytes);
  const auto rest = std::ranges::copy(a.values<float>(), Floats(bytes).begin()).out;
  std::ranges::copy(c.values<float>(), rest);
  return out;
}

// [b | d / scaling]
Tensor Beside(const Tensor& b, const Tensor& d, double scaling) {
  const auto rows = static_cast<size_t>(b.shape()[0]);
  const auto of_b = static_cast<size_t>(b.shape()[1]), of_d = static_cast<size_t>(d.shape()[1]);
  std::span<std::byte> bytes;
  Tensor out = Tensor::Allocate({DType::kF32, {b.shape()[0], b.shape()[1] + d.shape()[1]}}, &bytes);
  auto to = Floats(bytes).begin();
  for (size_t i = 0; i < rows; ++i) {
    to = std::ranges::copy(b.values<float>().subspan(i * of_b, of_b), to).out;
    to = std::ranges::transform(d.values<float>().subspan(i * of_d, of_d), to, [&](float x) {
           return static_cast<float>(static_cast<double>(x) / scaling);
         }).out;
  }
  return out;
}

// What the layer has beside W0 and its factors: its base delta, then its sparse values.
Product BaseOf(const FactorPair& pair, const std::vector<SparseDelta>& deltas) {
  Product base{Matrix(pair.d, 0), Matrix(pair.k, 0)};
  if (pair.base_rank > 0) base = ProductOf(pair.base_b, pair.base_a);
  for (const SparseDelta& delta : deltas) {
    if (delta.path == pair.path) base = Joined(base, ProductOf(delta));
  }
  return base;
}

}  // namespace

Result<ExportedAdapter> ExportAdapter(const StateDict& model, const std::function<double(std::string_view)>& scaling) {
  ExportedAdapter out;
  bool any = false;
  for (const auto& [key, tensor] : model) {
    if (!key.starts_with(kOwnPrefix)) out.tensors.emplace_hint(out.tensors.end(), key, tensor);
    any = any || key.starts_with(kBaseDeltaPrefix) || key.starts_with(kDensePrefix);
  }
  if (!any) return out;
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(model));
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<SparseDelta> deltas, SparseDeltasOf(model, pairs));
  for (const FactorPair& pair : pairs) {
    const Product base = BaseOf(pair, deltas);
    if (base.rank() == 0) continue;
    const double s = scaling(pair.path);
    if (!(s > 0 && std::isfinite(s))) {
      return InvalidArgument("the scaling of '" + pair.path + "' is not above 0, so its adapter cannot hold its base");
    }
    out.tensors[pair.a_key] = Below(pair.a, RightTensor(base));
    out.tensors[pair.b_key] = Beside(pair.b, LeftTensor(base), s);
    out.ranks[pair.path] = static_cast<int64_t>(pair.rank + base.rank());
  }
  return out;
}

}  // namespace heddle::aggregation::low_rank
