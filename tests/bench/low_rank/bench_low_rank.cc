// heddle_bench_low_rank: one low-rank merge of many updates of a model of 1.1 billion parameters (the shapes of
// TinyLlama: 22 layers, 2 048 wide, keys and values 256, inner width 5 632, LoRA on all linear layers), timed, and the
// peak of this process's memory. Updates are made one after the other, as they come from the network.
#include <time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "aggregation/aggregator.h"
#include "common/random.h"
#include "common/subprocess.h"

namespace heddle::bench {
namespace {

using aggregation::Aggregator;

struct Options {
  std::string method = "FlexLoRA";
  int layers = 1, updates = 64;
  int64_t rank = 16;
  unsigned threads = std::max(1U, std::thread::hardware_concurrency());
  std::string scratch;
};

struct Linear {
  const char* name;
  int64_t out, in;
};
constexpr Linear kLinears[] = {{"self_attn.q_proj", 2048, 2048}, {"self_attn.k_proj", 256, 2048},
                               {"self_attn.v_proj", 256, 2048},  {"self_attn.o_proj", 2048, 2048},
                               {"mlp.gate_proj", 5632, 2048},    {"mlp.up_proj", 5632, 2048},
                               {"mlp.down_proj", 2048, 5632}};

void Require(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

// Of all threads.
double ProcessorSeconds() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
}

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

Tensor Random(Shape shape, double size, uint64_t seed) {
  const PhiloxStream random(seed);
  std::span<std::byte> bytes;
  Tensor out = Tensor::Allocate({DType::kF32, std::move(shape)}, &bytes);
  auto* values = reinterpret_cast<float*>(bytes.data());
  const auto scale = static_cast<float>(2 * size);
  for (int64_t i = 0; i < out.numel(); ++i) {
    values[i] = (random.UniformAt(static_cast<uint64_t>(i)) - 0.5F) * scale;
  }
  return out;
}

// Factors of all layers; `of_a` and `of_b` bound their elements.
StateDict Factors(const Options& options, double of_a, double of_b, uint64_t seed) {
  StateDict out;
  for (int layer = 0; layer < options.layers; ++layer) {
    for (const Linear& linear : kLinears) {
      const std::string stem =
          "base_model.model.model.layers." + std::to_string(layer) + "." + std::string(linear.name) + ".";
      out.emplace(stem + "lora_A.weight", Random({options.rank, linear.in}, of_a, seed++));
      out.emplace(stem + "lora_B.weight", Random({linear.out, options.rank}, of_b, seed++));
    }
  }
  return out;
}

struct Figures {
  double fold_seconds = 0, merge_seconds = 0, merge_processor = 0, update_mb = 0, result_mb = 0, peak_mb = 0;
};

Figures Measure(const Options& options) {
  const StateDict parent = Factors(options, 0.02, 0, 1);
  aggregation::AggregatorOptions of_round;
  of_round.threads = options.threads;
  of_round.scaling = 2;
  of_round.scratch = options.scratch;
  of_round.fresh_adapter = [&](uint32_t) -> Result<StateDict> { return Factors(options, 0.02, 0, 2); };
  auto made = aggregation::MakeAggregator(options.method, parent, of_round);
  Require(made.status());
  std::unique_ptr<Aggregator> aggregator = *std::move(made);
  Figures figures;
  for (int i = 0; i < options.updates; ++i) {
    const StateDict update = Factors(options, 0.01, 0.01, 1000 * static_cast<uint64_t>(i + 1));
    figures.update_mb = static_cast<double>(TotalBytes(update)) / 1e6;
    const auto start = std::chrono::steady_clock::now();
    Require(aggregator->Fold(
        update, {.num_examples = 100 + static_cast<uint64_t>(i), .device = "device-" + std::to_string(100 + i)}));
    figures.fold_seconds += Seconds(start);
  }
  const auto start = std::chrono::steady_clock::now();
  const double processor = ProcessorSeconds();
  auto next = std::move(*aggregator).Finish();
  figures.merge_seconds = Seconds(start);
  figures.merge_processor = ProcessorSeconds() - processor;
  Require(next.status());
  figures.result_mb = static_cast<double>(TotalBytes(next->model)) / 1e6;
  auto memory = ReadProcessMemory(::getpid());
  Require(memory.status());
  figures.peak_mb = static_cast<double>(memory->peak_rss_bytes) / 1e6;
  return figures;
}

}  // namespace

int Main(int argc, char** argv) {
  Options options;
  bool json = false;
  CLI::App app("One low-rank merge of the updates of many devices");
  app.add_option("--method", options.method, "FLoRA, FlexLoRA, FedEx-LoRA or another of the family");
  app.add_option("--layers", options.layers, "of the 22")->check(CLI::Range(1, 22));
  app.add_option("--updates", options.updates, "how many")->check(CLI::Range(1, 1000));
  app.add_option("--rank", options.rank, "of each update")->check(CLI::Range(1, 256));
  app.add_option("--threads", options.threads, "modules merged at a time")->check(CLI::Range(1, 64));
  app.add_option("--scratch", options.scratch, "folder for what waits on disk");
  app.add_flag("--json", json, "print [{id,value,unit}]");
  CLI11_PARSE(app, argc, argv);
  const Figures figures = Measure(options);
  if (json) {
    std::printf(
        "[{\"id\":\"merge.seconds\",\"value\":%.4f,\"unit\":\"s\"},\n"
        " {\"id\":\"merge.processor_seconds\",\"value\":%.4f,\"unit\":\"s\"},\n"
        " {\"id\":\"merge.fold_seconds\",\"value\":%.4f,\"unit\":\"s\"},\n"
        " {\"id\":\"merge.peak\",\"value\":%.4f,\"unit\":\"MB\"},\n"
        " {\"id\":\"merge.result\",\"value\":%.4f,\"unit\":\"MB\"}]\n",
        figures.merge_seconds, figures.merge_processor, figures.fold_seconds, figures.peak_mb, figures.result_mb);
    return 0;
  }
  std::printf("%s: %d updates of rank %ld and %.1f MB, %d of 22 layers, %u threads\n", options.method.c_str(),
              options.updates, static_cast<long>(options.rank), figures.update_mb, options.layers, options.threads);
  std::printf("folded in %.2f s, merged in %.2f s (%.2f s of processors), peak %.0f MB, the model is %.0f MB\n",
              figures.fold_seconds, figures.merge_seconds, figures.merge_processor, figures.peak_mb, figures.result_mb);
  return 0;
}

}  // namespace heddle::bench

int main(int argc, char** argv) {
  try {
    return heddle::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "heddle_bench_low_rank: %s\n", error.what());
    return 1;
  }
}
