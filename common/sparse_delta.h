// A change of some of a weight's elements, as models carry it: the sparse first stage of SLoRA.
//   heddle.dense.<module path> F32 [n]   what is added at n places of the weight [out, in], in the order of the places
//   heddle.dense_seed U8 [8]             of all their places, little-endian
// Places count row by row. They are MaskPlaces(DeriveSeed(seed, "sparse mask", module path), out * in, n), so only
// values travel. Pure functions; they may throw std::bad_alloc.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"

namespace heddle {

inline constexpr std::string_view kDensePrefix = "heddle.dense.", kDenseSeedName = "heddle.dense_seed";

struct SparseDelta {
  std::string path;
  Tensor values;                 // shares its bytes with the model
  int64_t out = 0, in = 0;       // of the weight
  std::vector<uint32_t> places;  // ascending
};

// Those of a model, by module path in order. `shape_of` gives a module's weight as out and in; nothing: there is no
// such module. Errors: kInvalidArgument for a module that is not there, values that are not F32 [n] with 1 <= n <= out
// * in, a weight of 2^32 elements or more, a seed that is missing or not U8 [8].
using ShapeOfModule = std::function<std::optional<std::pair<int64_t, int64_t>>(std::string_view module_path)>;
Result<std::vector<SparseDelta>> FindSparseDeltas(const StateDict& model, const ShapeOfModule& shape_of);

// The tensor heddle.dense_seed.
Tensor DenseSeedTensor(uint64_t seed);

}  // namespace heddle
