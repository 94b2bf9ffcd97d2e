#include "coordinator/service/update_reader.h"

#include <algorithm>
#include <utility>

#include "aggregation/compression/compressor.h"
#include "common/safetensors.h"

namespace heddle::coordinator {

UpdateReader::UpdateReader(const Recipe& recipe, uint32_t round, StateDictSpec model)
    : upload_(recipe.UploadOf(round)), run_seed_(recipe.seed), round_(round) {
  if (upload_.empty()) return;
  rules_ = recipe.RulesOf(round);
  model_ = std::move(model);
  if (rules_.prune_gamma > 0) {
    int64_t most = 0;
    for (const auto& [key, spec] : model_) {
      if (aggregation::IsLoraA(key) && spec.shape.size() == 2) most = std::max(most, spec.shape[0]);
    }
    for (int64_t rank = 1; rank <= most; ++rank) pruned_[compression::Compressor::Fingerprint(Expected(rank))] = rank;
  }
  if (aggregation::UsesSubModels(recipe.strategy)) {
    part_ = [recipe, round](const DeviceId& device, uint32_t layers) { return recipe.PartFor(device, round, layers); };
  }
}

StateDictSpec UpdateReader::Expected(int64_t rank) const { return aggregation::UpdateSpec(model_, rules_, rank); }

int64_t UpdateReader::SentRank(std::span<const std::byte> bytes, int64_t rank) const {
  const auto sent = pruned_.find(compression::Compressor(upload_, 0).FingerprintIn(bytes));
  return sent != pruned_.end() && (rank == 0 || sent->second < rank) ? sent->second : rank;
}

Result<StateDict> UpdateReader::Read(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                                     const DeviceId& device, const DeviceView& view) const {
  if (upload_.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(SafetensorsFile file, ParseSafetensors(bytes, std::move(owner)));
    return std::move(file.tensors);
  }
  const StateDictSpec expected = Expected(SentRank(bytes, view.rank));
  const auto layers = static_cast<uint32_t>(view.layers.size());
  return compression::Compressor(upload_, TaskSeed(run_seed_, round_, device))
      .Decode(bytes, part_ ? aggregation::SentBy(part_(device, layers), expected) : expected, ExtraBytes(view.rank));
}

uint64_t UpdateReader::ExtraBytes(int64_t rank) const {
  if (upload_.empty()) return 0;
  const auto size = compression::Compressor(upload_, 0).SizeOf(Expected(rank));
  return size.ok() ? size->all_values * sizeof(float) : 0;
}

}  // namespace heddle::coordinator
