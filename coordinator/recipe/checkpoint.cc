#include "coordinator/recipe/checkpoint.h"

#include <cmath>

#include "aggregation/growing/trials.h"
#include "aggregation/low_rank/export.h"
#include "aggregation/low_rank/layout.h"
#include "peft/adapter/adapter_config.h"
#include "peft/adapter/prompt_projection.h"

namespace heddle::coordinator {
namespace {

namespace low_rank = aggregation::low_rank;

// Patterns are expressions that fit several modules, so all modules get their own.
Result<std::string> Widened(const peft::AdapterConfig& config, const low_rank::ExportedAdapter& exported,
                            const StateDict& model) {
  HEDDLE_ASSIGN_OR_RETURN(const auto pairs, low_rank::FactorPairs(model));
  peft::AdapterConfig out = config;
  out.rank_pattern.clear();
  out.alpha_pattern.clear();
  out.init_lora_weights = "true";
  for (const low_rank::FactorPair& pair : pairs) {
    const auto grown = exported.ranks.find(pair.path);
    const int64_t rank = grown == exported.ranks.end() ? static_cast<int64_t>(pair.rank) : grown->second;
    const auto size = static_cast<double>(rank);
    out.rank_pattern[pair.path] = rank;
    out.alpha_pattern[pair.path] = config.ScalingOf(pair.path) * (config.use_rslora ? std::sqrt(size) : size);
  }
  return out.ToJson();
}

}  // namespace

Result<Checkpoint> GroupAdapter(const StateDict& model, std::string_view adapter_config_json, uint32_t group) {
  HEDDLE_ASSIGN_OR_RETURN(peft::AdapterConfig config, peft::AdapterConfig::FromJson(adapter_config_json));
  Checkpoint out{{}, aggregation::GroupModel(model, group)};
  const auto size = aggregation::SizeOfAdapters(out.tensors);
  if (!size) return InvalidArgument("the model of a trial has no bottleneck adapters");
  config.layers_to_transform = size->layers;
  config.bottleneck_size = size->width;
  out.adapter_config_json = config.ToJson();
  return out;
}

Result<Checkpoint> MakeCheckpoint(const StateDict& model, std::string_view adapter_config_json) {
  const auto reserve = model.lower_bound(aggregation::kReservePrefix);
  if (reserve != model.end() && reserve->first.starts_with(aggregation::kReservePrefix)) {
    return GroupAdapter(model, adapter_config_json, 0);
  }
  HEDDLE_ASSIGN_OR_RETURN(const peft::AdapterConfig config, peft::AdapterConfig::FromJson(adapter_config_json));
  HEDDLE_ASSIGN_OR_RETURN(const StateDict whole, peft::WithPrompt(model));
  HEDDLE_ASSIGN_OR_RETURN(
      low_rank::ExportedAdapter exported,
      low_rank::ExportAdapter(whole, [&](std::string_view path) { return config.ScalingOf(path); }));
  Checkpoint out{std::string(adapter_config_json), {}};
  if (!exported.ranks.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(out.adapter_config_json, Widened(config, exported, model));
  }
  out.tensors = std::move(exported.tensors);
  return out;
}

}  // namespace heddle::coordinator
