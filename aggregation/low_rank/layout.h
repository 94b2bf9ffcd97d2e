// Which tensors of a model are low-rank factors: pairs lora_A [r, k] and lora_B [d, r] of one module, and what has been
// folded into the module's base (heddle.base_delta.*). Found by name, never by shape: a side may equal the rank.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "aggregation/aggregator.h"
#include "aggregation/low_rank/matrix.h"
#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::aggregation::low_rank {

struct FactorPair {
  std::string path;          // of the module in the base model: "model.layers.0.self_attn.q_proj"
  std::string a_key, b_key;  // in the model
  Tensor a, b;               // of the parent
  size_t d = 0, k = 0, rank = 0;
  Tensor base_a, base_b;  // what the base already has beside W0, base_b base_a; with base_rank 0 nothing
  size_t base_rank = 0;
};

// kBaseDeltaPrefix + path + ".lora_A.weight" and so on.
std::string BaseDeltaA(std::string_view path);
std::string BaseDeltaB(std::string_view path);
// The module's path in a key "base_model.model.<path>.lora_A.weight"; without PEFT's prefix the whole stem.
std::string ModulePath(std::string_view factor_key);

// The factor pairs of a model, in the order of their names. All tensors F32. Errors: kInvalidArgument when there are
// none, one has no partner, a shape does not fit its partner's, or a base delta does not fit its module or belongs to
// none.
Result<std::vector<FactorPair>> FactorPairs(const StateDict& model);

// What an update of a device with info.rank must hold, see UpdateSpec. Where the rules let devices prune their rank, a
// pair may have fewer rows of A and columns of B, at least one: the spec then has as many as this update.
StateDictSpec ExpectedUpdate(const StateDictSpec& model, const DeviceRules& rules, const std::vector<FactorPair>& pairs,
                             const StateDict& update, const UpdateInfo& info);

// The columns of a product from row-major factors: left(i, n) = b[i, n], right(j, n) = a[n, j].
Product ProductOf(const Tensor& b, const Tensor& a);
// And back, rounded to float: B [d, rank], A [rank, k].
Tensor LeftTensor(const Product& product);
Tensor RightTensor(const Product& product);

}  // namespace heddle::aggregation::low_rank
