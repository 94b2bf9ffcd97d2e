#include "tests/integration/processes/arithmetic_task.h"

#include "aggregation/aggregator.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "coordinator/recipe/recipe.h"

namespace heddle {

StateDict ArithmeticUpdate(const StateDict& adapter, uint64_t seed) {
  StateDict update;
  const PhiloxStream random(seed);
  uint64_t next = 0;
  for (const auto& [name, tensor] : adapter) {
    const std::span<const float> before = tensor.values<float>();
    std::vector<float> values(before.size());
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = (random.UniformAt(next++) - 0.5F) * 0.0625F - before[i] * 0.03125F;
    }
    update.emplace(name, Tensor::FromFloats(tensor.shape(), values));
  }
  return update;
}

Result<Sha256Digest> ArithmeticModel(const std::filesystem::path& path, const std::vector<std::string>& devices) {
  HEDDLE_ASSIGN_OR_RETURN(const coordinator::Recipe recipe, coordinator::Recipe::Load(path));
  HEDDLE_ASSIGN_OR_RETURN(const coordinator::RunMaterial material, coordinator::PrepareRun(recipe));
  const uint64_t examples = uint64_t{recipe.train.local_steps()} * recipe.train.batch_size();
  StateDict model = material.initial_adapter;
  for (uint32_t round = 1; round <= recipe.spec.rounds; ++round) {
    HEDDLE_ASSIGN_OR_RETURN(const auto sum, aggregation::MakeAggregator(recipe.strategy, model, recipe.aggregator));
    for (const std::string& device : devices) {
      const uint64_t seed = DeriveSeed(recipe.seed, "train", "round=" + std::to_string(round) + " device=" + device);
      HEDDLE_RETURN_IF_ERROR(sum->Fold(ArithmeticUpdate(model, seed), {.num_examples = examples}));
    }
    HEDDLE_ASSIGN_OR_RETURN(aggregation::RoundModel made, std::move(*sum).Finish());
    model = std::move(made.model);
  }
  return Sha256(SerializeSafetensors(model));
}

}  // namespace heddle
