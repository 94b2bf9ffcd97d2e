// A training step on some layers of an encoder beside one on all of them: FedBFPT's sub-model of 3 of 12 layers, of
// which it trains one and the output layer, and further pre-training of the whole. Both sides in turns, processor time
// of one thread. Prints rows of {"id", "value", "note"}.
#include <time.h>
#include <torch/types.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <stdexcept>

#include "common/random.h"
#include "model/config/registry.h"
#include "model/training/optimizer.h"
#include "model/transformer/transformer.h"
#include "peft/adapter/initial.h"
#include "peft/tuning/tuning.h"

namespace heddle::bench {
namespace {

namespace json = boost::json;

constexpr int kTurns = 5;
constexpr int64_t kBatch = 4, kLength = 128;
// BERT's base model in half its width, so that a turn takes seconds.
constexpr const char* kConfig =
    R"({"architectures": ["BertForMaskedLM"], "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 12,
        "num_attention_heads": 6, "intermediate_size": 1536, "vocab_size": 8192, "max_position_embeddings": 512,
        "pad_token_id": 0})";

double Now() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <typename T>
T Need(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().ToString());
  return *std::move(result);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

StateDict Weights(const model::ModelSpec& spec) {
  StateDict weights;
  for (const auto& [name, tensor] : spec.WeightSpec()) {
    std::vector<float> values(static_cast<size_t>(Need(NumElements(tensor.shape))), 1.0F);
    if (tensor.shape.size() > 1) {
      const PhiloxStream random(DeriveSeed(1, "bench", name));
      for (size_t i = 0; i < values.size(); ++i) values[i] = 0.1F * (random.UniformAt(i) - 0.5F);
    }
    weights.emplace(name, Tensor::FromFloats(tensor.shape, values));
  }
  return weights;
}

// A model, or a part of it, that trains these layers and the output layer's dense part.
class Side {
 public:
  Side(const model::ModelSpec& spec, const StateDict& weights, std::vector<int64_t> trained) : network_(nullptr) {
    auto base = std::make_shared<model::BaseWeights>();
    base->spec = spec;
    for (const auto& [name, tensor] : spec.WeightSpec()) {
      base->tensors.emplace(name, peft::ToTorchTensor(weights.find(name)->second));
    }
    peft::AdapterConfig config;
    config.peft_type = "FULL";
    config.layers_to_transform = std::move(trained);
    config.modules_to_save = {"cls"};
    network_ = model::Transformer(std::shared_ptr<const model::BaseWeights>(base));
    const StateDict adapter = Need(peft::MakeInitialAdapter(spec, config, weights, 1));
    tuning_ = std::make_unique<peft::Tuning>(Need(peft::Tuning::Inject(network_, config, adapter)));
    std::vector<torch::Tensor> parameters;
    for (const peft::TunedParameter& one : tuning_->parameters()) parameters.push_back(one.tensor);
    optimizer_ = model::MakeOptimizer(model::OptimizerKind::kAdamW, parameters, {});
    network_->train();
  }

  double Step(const torch::Tensor& ids, const torch::Tensor& targets) {
    const double started = Now();
    const torch::Tensor loss = network_->Loss(ids, targets);
    loss.backward();
    optimizer_->Step(1e-4);
    return Now() - started;
  }

 private:
  model::Transformer network_;
  std::unique_ptr<peft::Tuning> tuning_;
  std::unique_ptr<model::Optimizer> optimizer_;
};

int Main() {
  at::set_num_threads(1);
  model::ModelSpec whole = Need(model::ParseModelConfig(kConfig));
  const StateDict weights = Weights(whole);
  model::ModelSpec part = whole;
  part.part.layers = {0, 4, 8};
  std::vector<int64_t> all;
  for (int64_t i = 0; i < whole.num_hidden_layers; ++i) all.push_back(i);
  Side small(part, weights, {0}), large(whole, weights, all);

  PhiloxStream random(3);
  torch::Tensor ids = torch::empty({kBatch, kLength}, torch::kLong);
  for (int64_t i = 0; i < ids.numel(); ++i) {
    ids.data_ptr<int64_t>()[i] = random.NextBelow(static_cast<uint32_t>(whole.vocab_size));
  }
  torch::Tensor targets = torch::full_like(ids, -100);  // a token in seven is asked for
  for (int64_t i = 0; i < ids.numel(); i += 7) targets.data_ptr<int64_t>()[i] = ids.data_ptr<int64_t>()[i];

  std::vector<double> few, many;
  for (int turn = 0; turn <= kTurns; ++turn) {
    const double a = small.Step(ids, targets), b = large.Step(ids, targets);
    if (turn == 0) continue;  // warm-up
    few.push_back(a);
    many.push_back(b);
  }
  char note[128];
  std::snprintf(note, sizeof note, "medians of %d in turns, one thread's processor time: %.3f s and %.3f s", kTurns,
                Median(few), Median(many));
  const json::array rows = {
      json::object{{"id", "submodel-step"}, {"value", Median(few) / Median(many)}, {"note", note}}};
  std::cout << json::serialize(rows) << "\n";
  return 0;
}

}  // namespace
}  // namespace heddle::bench

int main() {
  try {
    return heddle::bench::Main();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "heddle_bench_parts: %s\n", error.what());
    return 1;
  }
}
