// A round of one device of a SplitWorld as training of the whole model, without a cut and without frames: what the
// split round must come to.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <vector>

#include "client/worker/head_data.h"
#include "common/random.h"
#include "model/training/gradient_accumulator.h"
#include "peft/adapter/initial.h"
#include "tests/unit/split/split_world.h"

namespace heddle {

// One device, one round, without clipping, so that the two sides together are one optimizer.
inline const Settings kAlone = {{"devices_per_round", "1"},
                                {"rounds", "1"},
                                {"device.max_grad_norm", "0"},
                                {"server.max_grad_norm", "0"},
                                {"device.lora_dropout", "0"},
                                {"server.lora_dropout", "0"},
                                {"device.r", "3"},
                                {"device.lora_alpha", "16"}};

struct UnsplitRun {
  StateDict start, adapter;
  double first_loss = 0;                // of the first step
  bool packed = false, padded = false;  // whether there was a batch of several segments a row, of rows with padding
};

// The same steps on the whole model: data of the session's seed, the server's optimizer on the union of both adapters.
inline UnsplitRun Unsplit(const SplitWorld& world) {
  const protocol::SplitPlan& plan = world.plan;
  UnsplitRun run;
  client::TaskResources resources;
  const auto base = *resources.GetBase(plan.base_model);
  const peft::AdapterConfig config = *peft::SideConfig(plan.server);
  StateDict weights;
  for (const auto& [name, tensor] : base.weights->tensors) weights.emplace(name, peft::ToStateTensor(tensor));
  run.start = *peft::MakeInitialAdapter(base.weights->spec, config, weights, plan.seed);
  model::Transformer network(base.weights);
  const peft::Tuning tuning = *peft::Tuning::Inject(network, config, run.start);
  network->train();
  std::vector<torch::Tensor> parameters;
  for (const auto& one : tuning.parameters()) parameters.push_back(one.tensor);
  const auto optimizer = model::MakeOptimizer(*model::OptimizerKindFromName(plan.server.optimizer), parameters, {});
  model::GradientAccumulator accumulator(parameters, plan.gradient_accumulation_steps);
  client::TaskInput input;
  input.train.batch_size = plan.batch_size;
  input.train.sequence_length = plan.sequence_length;
  const auto own = world.data_files.find("device-0");
  input.data_path = own != world.data_files.end() ? own->second : world.folder() / "device-0.txt";
  const uint64_t session = DeriveSeed(plan.seed, "split session", "1/device-0");
  input.seed = DeriveSeed(session, "split data", "");
  const auto batches = *client::TrainingBatches(input, base, resources);
  for (uint32_t step = 0; step < plan.local_steps; ++step) {
    for (uint32_t micro = 0; micro < plan.gradient_accumulation_steps; ++micro) {
      const auto batch = **batches->Next();
      const auto &mask = batch.input.mask, &segments = batch.input.segments;
      run.packed = run.packed || (segments.defined() && segments.max().item<int64_t>() > 1);
      run.padded = run.padded || (mask.defined() && mask.eq(0).any().item<bool>());
      accumulator.Add(network->Loss(batch.input, batch.targets), batch.counted);
    }
    const double loss = accumulator.Finish().loss;
    if (step == 0) run.first_loss = loss;
    optimizer->Step(plan.server.learning_rate);
  }
  // The server's merge of one update: start + (trained - start).
  const StateDict moved = peft::Difference(tuning.Extract(), run.start);
  for (const auto& [key, tensor] : moved) {
    const auto first = run.start.find(key)->second.values<float>();
    std::vector<float> values(first.begin(), first.end());
    for (size_t i = 0; i < values.size(); ++i) values[i] += tensor.values<float>()[i];
    run.adapter.emplace(key, heddle::Tensor::FromFloats(tensor.shape(), values));
  }
  return run;
}

}  // namespace heddle
