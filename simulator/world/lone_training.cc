#include "simulator/world/lone_training.h"

#include <algorithm>

#include "aggregation/device_rules.h"
#include "client/worker/train_plan.h"
#include "common/file.h"
#include "common/random.h"
#include "peft/adapter/adapter.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;

// initial + update, as a PEFT folder.
Status SaveTrained(const fs::path& initial, const StateDict& update, const fs::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(const peft::Adapter adapter, peft::ReadAdapter(initial));
  StateDict trained;
  for (const auto& [name, tensor] : adapter.tensors) {
    const auto found = update.find(name);
    if (found == update.end() && name.starts_with(aggregation::kOwnPrefix)) {  // not trained
      trained.emplace(name, tensor);
      continue;
    }
    if (found == update.end()) return Internal("the update lacks " + name);
    std::span<std::byte> bytes;
    Tensor sum = Tensor::Allocate(tensor.spec(), &bytes);
    auto* out = reinterpret_cast<float*>(bytes.data());
    const auto before = tensor.values<float>(), change = found->second.values<float>();
    for (size_t i = 0; i < before.size(); ++i) out[i] = before[i] + change[i];
    trained.emplace(name, std::move(sum));
  }
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  return peft::WriteAdapter(folder, adapter.config, trained);
}

}  // namespace

Status TrainAlone(const coordinator::Recipe& recipe, const LoneTraining& training, client::TaskResources& resources,
                  const client::ProgressCallback& progress) {
  HEDDLE_ASSIGN_OR_RETURN(const auto task, client::FindLocalTask(recipe.local_task));
  client::TaskInput input;
  input.train = client::ToTrainSettings(recipe.train);
  input.train.local_steps = static_cast<uint32_t>(recipe.StepsOfADevice());
  // As several batches and not as a large one, which would need the memory of all of them.
  input.train.gradient_accumulation_steps =
      std::max(1U, input.train.gradient_accumulation_steps) * std::max(1U, training.batches);
  if (recipe.learning_rate_schedule == "cosine") input.train.lr_scheduler_type = "cosine";
  input.train.rules.frozen = {"heddle.dense"};  // the sparse part of a first stage: one machine has no stages
  input.seed = DeriveSeed(recipe.seed, "baseline", training.name);
  input.base_model_dir = training.base_model;
  input.adapter_dir = training.initial_adapter;
  input.data_path = training.data;
  input.device = recipe.simulation.device;
  auto output = task->Run(input, resources, progress);
  HEDDLE_RETURN_IF_ERROR(output.status().Annotate(training.name));
  return SaveTrained(training.initial_adapter, output->update, training.adapter);
}

}  // namespace heddle::simulator
