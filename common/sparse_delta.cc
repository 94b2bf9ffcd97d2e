#include "common/sparse_delta.h"

#include <tuple>

#include "common/mask.h"
#include "common/random.h"

namespace heddle {
namespace {

constexpr int64_t kSeedBytes = 8;

Result<uint64_t> SeedOf(const StateDict& model) {
  const auto found = model.find(kDenseSeedName);
  if (found == model.end() || found->second.spec() != TensorSpec{DType::kU8, {kSeedBytes}}) {
    return InvalidArgument("the model has values under heddle.dense, but no U8 [8] '" + std::string(kDenseSeedName) +
                           "' that says where they belong");
  }
  uint64_t seed = 0;
  const auto bytes = found->second.bytes();
  for (size_t i = 0; i < bytes.size(); ++i) seed |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  return seed;
}

Status CheckShapes(const std::string& key, const TensorSpec& values, int64_t out, int64_t in) {
  if (out < 1 || in < 1 || out > int64_t{0xFFFFFFFF} / in) {
    return InvalidArgument("'" + key + "' is for a weight of " + std::to_string(out) + " by " + std::to_string(in) +
                           ", which has too many elements");
  }
  if (values.dtype == DType::kF32 && values.shape.size() == 1 && values.shape[0] >= 1 && values.shape[0] <= out * in) {
    return OkStatus();
  }
  return InvalidArgument("'" + key + "' is " + values.ToString() + "; it must be F32 with one to " +
                         std::to_string(out * in) + " values");
}

}  // namespace

Result<std::vector<SparseDelta>> FindSparseDeltas(const StateDict& model, const ShapeOfModule& shape_of) {
  std::vector<SparseDelta> found;
  for (auto it = model.lower_bound(kDensePrefix); it != model.end() && it->first.starts_with(kDensePrefix); ++it) {
    const std::string& key = it->first;
    HEDDLE_ASSIGN_OR_RETURN(const uint64_t seed, SeedOf(model));
    SparseDelta delta{.path = key.substr(kDensePrefix.size()), .values = it->second, .places = {}};
    const auto shape = shape_of(delta.path);
    if (!shape) return InvalidArgument("'" + key + "' is for a module that is not tuned here");
    std::tie(delta.out, delta.in) = *shape;
    HEDDLE_RETURN_IF_ERROR(CheckShapes(key, delta.values.spec(), delta.out, delta.in));
    const auto count = static_cast<uint64_t>(delta.out * delta.in);
    delta.places =
        MaskPlaces(DeriveSeed(seed, "sparse mask", delta.path), count, static_cast<uint64_t>(delta.values.shape()[0]));
    found.push_back(std::move(delta));
  }
  return found;
}

Tensor DenseSeedTensor(uint64_t seed) {
  std::span<std::byte> bytes;
  Tensor out = Tensor::Allocate({DType::kU8, {kSeedBytes}}, &bytes);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(seed >> (8 * i));
  return out;
}

}  // namespace heddle
