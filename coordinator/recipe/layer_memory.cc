#include "coordinator/recipe/layer_memory.h"

#include <algorithm>
#include <limits>

#include "aggregation/layer_groups.h"
#include "model/quant/weight_type.h"
#include "peft/adapter/memory_need.h"
#include "protocol/limits.h"

namespace heddle::coordinator {

static_assert(kMostLayers >= protocol::kMaxLayers, "the engine takes the layers of any model");

Result<std::vector<uint64_t>> LayerMemory(const Recipe& recipe, const model::ModelSpec& base,
                                          const StateDict& initial) {
  std::vector<uint64_t> needs;
  if (!recipe.layers_by_memory) return needs;
  const v1::TrainPlan& train = recipe.train;
  model::MemorySettings settings;
  settings.batch = train.batch_size();
  settings.length = train.sequence_length();
  settings.base = model::WeightTypeFromName(train.base_dtype()).value();
  settings.bf16 = train.bf16();
  settings.checkpoint = train.gradient_checkpointing();
  for (uint32_t layers = 1; layers <= static_cast<uint32_t>(base.num_hidden_layers); ++layers) {
    const aggregation::SubModel part = recipe.PartFor(DeviceId(""), /*round=*/1, layers);
    const StateDictSpec given = SpecOf(aggregation::GivenTo(part, initial));
    const bool tuned = std::any_of(given.begin(), given.end(),
                                   [](const auto& item) { return aggregation::LayerOfKey(item.first).has_value(); });
    model::ModelSpec spec = base;
    spec.part.layers.assign(part.layers.begin(), part.layers.end());
    needs.push_back(tuned ? peft::TrainingBytes(spec, settings, given) + recipe.worker_memory_bytes
                          : std::numeric_limits<uint64_t>::max());
  }
  if (needs.back() == std::numeric_limits<uint64_t>::max()) {
    return InvalidArgument(
        "strategy.layers_by_memory: the recipe tunes nothing of the model's layers; remove it, or tune some");
  }
  return needs;
}

}  // namespace heddle::coordinator
