// heddle_bench_training: a step of the local task lora_sft against the same step in a bare LibTorch loop
// (bare_llama.h), on the same model, batches and threads. The two take turns step by step in one run, both from the
// same initial adapter, and their losses are compared; figures are medians.
#include <torch/types.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "bare_llama.h"
#include "client/worker/local_task.h"
#include "client/worker/task_resources.h"
#include "common/random.h"
#include "model/data/text_dataset.h"
#include "model/transformer/blas_check.h"
#include "peft/adapter/adapter.h"
#include "tests/unit/model/tiny_model.h"
#include "tests/unit/tasks/counting_allocator.h"

namespace heddle::bench {
namespace {

using model::Require;

struct Options {
  std::string shape = "tiny";
  uint32_t steps = 30, warmup = 5;
  client::TrainSettings train;
  int64_t rank = 16;
};

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

template <typename T>
T Need(Result<T> result) {
  Require(result.status());
  return *std::move(result);
}

// The shape of the base model that Heddle brings, or of a fifteen-million-parameter model with a large vocabulary.
model::ModelSpec Shape(const std::string& name) {
  model::ModelSpec c = model::TinyConfig();
  const bool tiny = name == "tiny";
  c.hidden_size = tiny ? 160 : 288;
  c.intermediate_size = tiny ? 432 : 768;
  c.num_hidden_layers = tiny ? 4 : 6;
  c.num_attention_heads = tiny ? 4 : 6;
  c.num_key_value_heads = tiny ? 2 : 6;
  c.head_dim = c.hidden_size / c.num_attention_heads;
  c.vocab_size = tiny ? 2048 : 32000;
  c.max_position_embeddings = 1024;
  return c;
}

torch::Tensor Leaf(const Tensor& tensor) {
  torch::Tensor out = torch::empty(tensor.shape(), torch::kFloat);
  std::memcpy(out.data_ptr(), tensor.bytes().data(), tensor.bytes().size());
  return out;
}

struct Outcome {
  std::vector<double> heddle, bare;  // seconds a step
  // Of LibTorch's allocator: most bytes that a step left allocated, and allocations of the last step.
  int64_t kept_bytes = 0, heddle_allocations = 0, bare_allocations = 0;
  double largest_loss_difference = 0;
  double last_loss = 0;
};

Outcome Measure(const Options& options, const std::filesystem::path& folder) {
  const std::filesystem::path base_dir = folder / "base", adapter_dir = folder / "adapter";
  model::WriteModelFolder(base_dir, Shape(options.shape), 1, 0.02F);
  const std::filesystem::path data_path = folder / "data.txt";
  Require(WriteFileAtomically(data_path, model::SampleText(400'000, 3)));
  peft::AdapterConfig adapter_config;
  adapter_config.r = options.rank;
  adapter_config.lora_alpha = 2.0 * static_cast<double>(options.rank);
  adapter_config.target_modules_regex = "all-linear";
  const auto targets = Need(peft::FindTargets(Shape(options.shape).LinearModules(), adapter_config));
  const StateDict initial = peft::MakeInitialAdapter(targets, adapter_config, 5);
  Require(peft::WriteAdapter(adapter_dir, adapter_config, initial));

  auto resources = client::MakeTaskResources();
  client::TaskInput input;
  input.train = options.train;
  input.train.local_steps = options.steps + options.warmup;
  input.seed = 7;
  input.base_model_dir = base_dir;
  input.adapter_dir = adapter_dir;
  input.data_path = data_path;

  const auto base = Need(resources->GetBase(base_dir));
  const auto data = Need(resources->GetData(data_path, base, input.train.sequence_length));
  std::map<std::string, std::pair<torch::Tensor, torch::Tensor>> factors;
  for (const auto& target : targets) {
    factors[target.path] = {Leaf(initial.at(peft::LoraAKey(target.path))),
                            Leaf(initial.at(peft::LoraBKey(target.path)))};
  }
  const client::TrainSettings& t = input.train;
  BareTrainer bare(
      base.weights, std::move(factors),
      {t.learning_rate, t.beta1, t.beta2, t.epsilon, t.weight_decay, t.max_grad_norm, adapter_config.scaling()});
  model::SampleOrder order(data->num_sequences(), DeriveSeed(input.seed, "samples", ""));
  const auto bare_step = [&] {  // batch and all, as the task does
    torch::Tensor ids = torch::empty({t.batch_size, t.sequence_length}, torch::kLong), shifted = torch::empty_like(ids);
    for (int64_t row = 0; row < ids.size(0); ++row) {
      const auto window = data->Sequence(order.Next());
      for (int64_t i = 0; i < ids.size(1); ++i) {
        ids.data_ptr<int64_t>()[row * ids.size(1) + i] = window[static_cast<size_t>(i)];
        shifted.data_ptr<int64_t>()[row * ids.size(1) + i] = window[static_cast<size_t>(i) + 1];
      }
    }
    return bare.Step(ids, shifted);
  };

  Outcome outcome;
  CountingAllocator& counter = CountingAllocator::Install();
  CountingAllocator::Counts begun;
  double started = 0;  // of the task's present step; the first counts as warm-up, so loading is not in it
  const auto task = Need(client::FindLocalTask("lora_sft"));
  auto done = task->Run(input, *resources, [&](uint32_t step, uint32_t, double loss) {
    const double between = Now();
    const CountingAllocator::Counts stepped = counter.now();
    const double bare_loss = bare_step();
    const double after = Now();
    const CountingAllocator::Counts bare_stepped = counter.now();
    if (step > options.warmup) {
      outcome.kept_bytes = std::max(outcome.kept_bytes, stepped.live_bytes - begun.live_bytes);
      outcome.heddle_allocations = stepped.allocations - begun.allocations;
      outcome.bare_allocations = bare_stepped.allocations - stepped.allocations;
      outcome.heddle.push_back(between - started);
      outcome.bare.push_back(after - between);
    }
    outcome.largest_loss_difference = std::max(outcome.largest_loss_difference, std::abs(loss - bare_loss));
    outcome.last_loss = loss;
    begun = bare_stepped;
    started = Now();
    return true;
  });
  Require(done.status());
  if (!(outcome.largest_loss_difference < 0.02)) {
    throw std::runtime_error("the two loops do not do the same: losses differ by " +
                             std::to_string(outcome.largest_loss_difference));
  }
  return outcome;
}

}  // namespace

int Main(int argc, char** argv) {
  Options options;
  options.train.batch_size = 8;
  options.train.sequence_length = 128;
  options.train.learning_rate = 5e-4;
  options.train.max_grad_norm = 1.0;
  bool json = false;
  CLI::App app("A fine-tuning step of the local task lora_sft against the same step in a bare LibTorch loop");
  app.add_option("--shape", options.shape, "tiny (heddle-tiny) or 15m")->check(CLI::IsMember({"tiny", "15m"}));
  app.add_option("--steps", options.steps, "measured steps of each, taken in turns")->check(CLI::Range(1, 10000));
  app.add_option("--warmup", options.warmup, "steps before, not measured")->check(CLI::Range(1, 1000));
  app.add_option("--batch", options.train.batch_size, "sequences a step")->check(CLI::Range(1, 1024));
  app.add_option("--length", options.train.sequence_length, "tokens a sequence")->check(CLI::Range(1, 1024));
  app.add_option("--rank", options.rank, "LoRA rank")->check(CLI::Range(1, 1024));
  app.add_option("--threads", options.train.threads, "compute threads, both")->check(CLI::Range(1, 64));
  app.add_flag("--json", json, "print [{id,value,unit,target,better,pass}]");
  CLI11_PARSE(app, argc, argv);
  const model::BlasCheck blas = model::CheckLoadedBlas();
  std::fprintf(stderr, "%s\n", blas.Describe().c_str());
  const auto folder = std::filesystem::temp_directory_path() / ("heddle-bench-training-" + std::to_string(::getpid()));
  struct Cleaner {
    std::filesystem::path path;
    ~Cleaner() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  } cleaner{folder};
  const Outcome outcome = Measure(options, folder);
  const double heddle = Median(outcome.heddle), bare = Median(outcome.bare), ratio = heddle / bare;
  if (json) {
    std::printf(
        "[{\"id\":\"training.step_to_bare\",\"value\":%.4f,\"unit\":\"ratio\",\"target\":1.03,\"better\":\"lower\","
        "\"pass\":%s},\n"
        " {\"id\":\"training.step_seconds\",\"value\":%.5f,\"unit\":\"s\",\"target\":null,\"better\":\"lower\","
        "\"pass\":true},\n"
        " {\"id\":\"training.bare_seconds\",\"value\":%.5f,\"unit\":\"s\",\"target\":null,\"better\":\"lower\","
        "\"pass\":true},\n"
        " {\"id\":\"training.step_kept_bytes\",\"value\":%lld,\"unit\":\"B\",\"target\":0,\"better\":\"lower\","
        "\"pass\":%s}]\n",
        ratio, ratio <= 1.03 ? "true" : "false", heddle, bare, static_cast<long long>(outcome.kept_bytes),
        outcome.kept_bytes <= 0 ? "true" : "false");
    return 0;
  }
  std::printf("%s, batch %u x %u tokens, rank %lld, %u threads: median of %u steps each in turns\n",
              options.shape.c_str(), options.train.batch_size, options.train.sequence_length,
              static_cast<long long>(options.rank), options.train.threads, options.steps);
  std::printf("bare LibTorch   %.2f ms a step\nlora_sft        %.2f ms a step\nratio           %.3f  (target 1.03)\n",
              1e3 * bare, 1e3 * heddle, ratio);
  std::printf("a step keeps    %lld bytes of what it allocates (%lld allocations of tensors, bare %lld)\n",
              static_cast<long long>(outcome.kept_bytes), static_cast<long long>(outcome.heddle_allocations),
              static_cast<long long>(outcome.bare_allocations));
  std::printf("largest difference of losses %.2g (last loss %.3f)\n", outcome.largest_loss_difference,
              outcome.last_loss);
  return 0;
}

}  // namespace heddle::bench

int main(int argc, char** argv) {
  try {
    return heddle::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "heddle_bench_training: %s\n", error.what());
    return 1;
  }
}
