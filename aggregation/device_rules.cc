#include "aggregation/device_rules.h"

#include <algorithm>
#include <cstring>

#include "aggregation/layer_choice.h"
#include "common/dotted_name.h"
#include "common/sparse_delta.h"

namespace heddle::aggregation {
namespace {

constexpr std::string_view kLoraA = ".lora_A.weight", kLoraB = ".lora_B.weight";

// The dimension of a factor that is its rank; -1 for other tensors.
int RankDimension(std::string_view key, const Shape& shape) {
  if (shape.size() != 2) return -1;
  return IsLoraA(key) ? 0 : IsLoraB(key) ? 1 : -1;
}

TensorSpec CutSpec(std::string_view key, TensorSpec spec, int64_t rank) {
  const int dimension = RankDimension(key, spec.shape);
  if (dimension >= 0 && rank > 0) {
    int64_t& size = spec.shape[static_cast<size_t>(dimension)];
    size = std::min(size, rank);
  }
  return spec;
}

}  // namespace

bool IsPlainSgd(std::string_view optimizer, double momentum, double weight_decay) {
  return optimizer == "SGD" && momentum == 0 && weight_decay == 0;
}

bool MatchesAny(const std::vector<std::string>& patterns, std::string_view key) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& p) { return HasComponents(key, p); });
}

bool IsLoraA(std::string_view key) { return key.ends_with(kLoraA) && !key.starts_with(kOwnPrefix); }
bool IsLoraB(std::string_view key) { return key.ends_with(kLoraB) && !key.starts_with(kOwnPrefix); }

Tensor CutToRank(std::string_view key, const Tensor& tensor, int64_t rank) {
  TensorSpec spec = CutSpec(key, tensor.spec(), rank);
  if (spec == tensor.spec()) return tensor;
  if (IsLoraA(key)) {  // the first rows
    const auto size = static_cast<size_t>(spec.shape[0] * spec.shape[1]) * DTypeSize(spec.dtype);
    return Tensor(std::move(spec), tensor.bytes().first(size), tensor.owner());
  }
  std::span<std::byte> bytes;
  const size_t row = static_cast<size_t>(tensor.shape()[1]) * DTypeSize(spec.dtype);
  const size_t cut_row = static_cast<size_t>(spec.shape[1]) * DTypeSize(spec.dtype);
  const auto rows = static_cast<size_t>(spec.shape[0]);
  Tensor out = Tensor::Allocate(std::move(spec), &bytes);
  for (size_t i = 0; i < rows; ++i) {
    std::memcpy(bytes.data() + i * cut_row, tensor.bytes().data() + i * row, cut_row);
  }
  return out;
}

StateDict DeviceModel(const StateDict& model, int64_t rank) {
  StateDict out;
  for (const auto& [key, tensor] : model) out.emplace_hint(out.end(), key, CutToRank(key, tensor, rank));
  return out;
}

StateDictSpec UpdateSpec(const StateDictSpec& model, const DeviceRules& rules, int64_t rank) {
  StateDictSpec out;
  const LayerChoice choice = LayerChoiceOf(model);
  for (const auto& [key, spec] : model) {
    if (key == kLayerScoresName && choice.scoring()) out.emplace(key, spec);
    const bool own = key.starts_with(kOwnPrefix) && !key.starts_with(kDensePrefix);
    if (own || MatchesAny(rules.frozen, key) || MatchesAny(rules.kept, key)) continue;
    TensorSpec cut = CutSpec(key, spec, rank);
    if (key == kPrefixKey && !choice.travels.empty() && spec.shape.size() == 2) {
      cut.shape[1] = static_cast<int64_t>(TravellingColumns(choice, spec.shape[1]).size());
    }
    if (rules.correction == Correction::kScaffold) out.emplace(std::string(kControlPrefix) + key, cut);
    out.emplace(key, cut);
  }
  return out;
}

}  // namespace heddle::aggregation
