// heddle_bench_zo: a zeroth-order step of all weights of a decoder of 110 M parameters with random weights, beside
// forward passes of the same batch. Prints [{id, value, unit}].
//   --what time      "rademacher", "normal": seconds of a two-sided step to those of two forward passes, in turns
//   --what forward   "peak_mb": the process's peak memory after two forward passes
//   --what step      "peak_mb": the same after two two-sided steps
//   --what front     "classifier": seconds of a whole forward pass of a small encoder to those of one that begins
//   behind
//                    its frozen layers, all but the last, and computes the row that its head reads
#include <torch/types.h>
#include <torch/utils.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "common/subprocess.h"
#include "model/config/registry.h"
#include "model/transformer/transformer.h"
#include "zo_optim/optimizer/zo_optimizer.h"

namespace heddle::bench {
namespace {

constexpr const char* kConfig = R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 768,
  "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 12,
  "vocab_size": 32000, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
  "hidden_act": "silu", "tie_word_embeddings": true})";

constexpr const char* kEncoder = R"({"architectures": ["BertForSequenceClassification"], "hidden_size": 384,
  "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12, "vocab_size": 2000,
  "max_position_embeddings": 512, "id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}})";
constexpr int64_t kEncoderRows = 8, kEncoderTokens = 32;

template <typename T>
T Need(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().ToString());
  return *std::move(result);
}

class FixedBatch final : public zo::Objective {
 public:
  FixedBatch(model::Transformer network, int64_t batch, int64_t length) : network_(std::move(network)) {
    torch::manual_seed(3);
    ids_ = torch::randint(0, 32000, {batch, length}, at::kLong);
  }
  Result<double> Loss() override {
    const torch::NoGradGuard no_grad;
    return network_->Loss(ids_, ids_).item<double>();
  }

 private:
  model::Transformer network_;
  torch::Tensor ids_;
};

struct Bench {
  model::Transformer network{nullptr};
  std::vector<zo::TrainedTensor> parameters;

  Bench() {
    network = model::Transformer(Need(model::ParseModelConfig(kConfig)), 1);
    network->eval();
    for (const auto& item : network->named_parameters()) {
      parameters.push_back({item.key(), {item.value().data_ptr<float>(), static_cast<size_t>(item.value().numel())}});
    }
  }
};

// One step of MeZO.
void Step(zo::TrainedWeights& weights, zo::ZoOptimizer& optimizer, zo::Objective& loss, uint64_t seed) {
  static const zo::Estimator estimator = Need(zo::Estimator::Make({.epsilon = 1e-3}));
  Need(optimizer.EstimateAndStep(estimator, weights, {&seed, 1}, loss, 1e-7));
}

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void PrintTimes(Bench& bench, zo::Objective& loss, int rounds, unsigned threads) {
  std::printf("[");
  const char* separator = "";
  for (const auto& [name, distribution] :
       {std::pair{"rademacher", zo::Distribution::kRademacher}, {"normal", zo::Distribution::kNormal}}) {
    zo::TrainedWeights weights = Need(zo::TrainedWeights::Make(bench.parameters, distribution, 1e-3));
    weights.SetThreads(threads);
    zo::ZoOptimizer optimizer = Need(zo::ZoOptimizer::Make({}, weights));
    std::vector<double> ratios, seconds;
    Need(loss.Loss());
    for (int round = 0; round < rounds; ++round) {
      seconds.push_back(Seconds([&] {
        Need(loss.Loss());
        Need(loss.Loss());
      }));
      ratios.push_back(Seconds([&] { Step(weights, optimizer, loss, static_cast<uint64_t>(round)); }) / seconds.back());
    }
    std::printf("%s{\"id\":\"%s\",\"value\":%.4f,\"unit\":\"ratio\",\"forward_seconds\":%.3f,\"parameters\":%llu}",
                separator, name, Median(ratios), Median(seconds) / 2, static_cast<unsigned long long>(weights.size()));
    separator = ",\n ";
  }
  std::printf("]\n");
}

void PrintFront(int rounds) {
  model::Transformer network(Need(model::ParseModelConfig(kEncoder)), 1);
  network->eval();
  torch::manual_seed(3);
  const torch::NoGradGuard no_grad;
  const model::ModelInput input{.ids = torch::randint(0, 2000, {kEncoderRows, kEncoderTokens}, at::kLong)};
  const torch::Tensor labels = torch::randint(0, 4, {kEncoderRows}, at::kLong);
  const int64_t frozen = network->spec().num_hidden_layers - 1;
  const torch::Tensor stream = network->Front(input, frozen);
  double sum = 0;  // so that nothing is left out
  const auto whole = [&] { sum += network->Loss(input, labels).item<double>(); };
  const auto behind = [&] {
    sum += network->TailLoss(network->Middle(stream, input, frozen), input, labels).item<double>();
  };
  constexpr int kPasses = 20;
  std::vector<double> ratios;
  for (int round = -1; round < rounds; ++round) {
    const double slow = Seconds([&] {
      for (int i = 0; i < kPasses; ++i) whole();
    });
    const double fast = Seconds([&] {
      for (int i = 0; i < kPasses; ++i) behind();
    });
    if (round >= 0) ratios.push_back(slow / fast);
  }
  std::printf("[{\"id\":\"classifier\",\"value\":%.4f,\"unit\":\"ratio\",\"loss\":%.4f}]\n", Median(ratios),
              sum / (2.0 * kPasses * (rounds + 1)));
}

}  // namespace

int Main(int argc, char** argv) {
  std::string what = "time";
  int64_t batch = 16, length = 128;
  int rounds = 3;
  unsigned threads = std::max(1U, std::thread::hardware_concurrency());
  CLI::App app("A zeroth-order step beside forward passes");
  app.add_option("--what", what, "time, forward, step, front")
      ->check(CLI::IsMember({"time", "forward", "step", "front"}));
  app.add_option("--batch", batch, "sequences")->check(CLI::Range(1, 4096));
  app.add_option("--length", length, "tokens of each")->check(CLI::Range(1, 512));
  app.add_option("--rounds", rounds, "of each, in turns")->check(CLI::Range(1, 1000));
  app.add_option("--threads", threads, "that compute")->check(CLI::Range(1, 256));
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(static_cast<int>(threads));
  if (what == "front") {
    PrintFront(rounds);
    return 0;
  }
  Bench bench;
  FixedBatch loss(bench.network, batch, length);
  if (what == "time") {
    PrintTimes(bench, loss, rounds, threads);
    return 0;
  }
  if (what == "forward") {
    for (int i = 0; i < 4; ++i) Need(loss.Loss());
  } else {
    zo::TrainedWeights weights = Need(zo::TrainedWeights::Make(bench.parameters, zo::Distribution::kRademacher, 1e-3));
    zo::ZoOptimizer optimizer = Need(zo::ZoOptimizer::Make({}, weights));
    for (uint64_t i = 0; i < 2; ++i) Step(weights, optimizer, loss, i);
  }
  const ProcessMemory memory = Need(ReadProcessMemory(::getpid()));
  std::printf("[{\"id\":\"peak_mb\",\"value\":%.1f,\"unit\":\"MB\"}]\n",
              static_cast<double>(memory.peak_rss_bytes) / 1e6);
  return 0;
}

}  // namespace heddle::bench

int main(int argc, char** argv) {
  try {
    return heddle::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "heddle_bench_zo: %s\n", error.what());
    return 1;
  }
}
