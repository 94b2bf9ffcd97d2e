// heddle_bench_robust: one round of a robust rule in a process of its own: seconds of it, and the process's peak
// memory, which holds the parent, an update at a time, the block of columns and the next model. Prints
// [{id, value, unit}] of "seconds" (of Finish), "fold_seconds" and "peak_mb".
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "aggregation/aggregator.h"
#include "common/random.h"
#include "common/subprocess.h"

namespace heddle::bench {
namespace {

template <typename T>
T Need(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().ToString());
  return *std::move(result);
}

// Pairs of factors of rank 16, `bytes` in all.
StateDict MakeUpdate(size_t bytes, uint64_t seed) {
  constexpr int64_t kRank = 16, kWidth = 4096;
  const PhiloxStream random(seed);
  std::vector<float> values(kRank * kWidth);
  StateDict update;
  uint64_t index = 0;
  for (size_t i = 0; i < std::max<size_t>(1, bytes / (values.size() * sizeof(float))); ++i) {
    for (float& value : values) value = (random.UniformAt(index++) - 0.5F) * 0.01F;
    update.emplace("factor." + std::to_string(i), Tensor::FromFloats({kRank, kWidth}, values));
  }
  return update;
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int Main(int argc, char** argv) {
  std::string method = "CoordinateMedian";
  size_t updates = 100, megabytes = 16;
  aggregation::AggregatorOptions options;
  options.threads = std::max(1U, std::thread::hardware_concurrency());
  CLI::App app("One round of a robust rule: seconds and peak memory");
  app.add_option("--method", method, "of the registry");
  app.add_option("--updates", updates, "in the round")->check(CLI::Range(1, 100'000));
  app.add_option("--mb", megabytes, "MiB an update")->check(CLI::Range(1, 1024));
  app.add_option("--threads", options.threads, "of the rule")->check(CLI::Range(1, 64));
  app.add_option("--scratch", options.scratch, "folder for the updates; the system's for temporary files");
  CLI11_PARSE(app, argc, argv);

  auto aggregator = Need(aggregation::MakeAggregator(method, MakeUpdate(megabytes << 20, 1), options));
  double fold_seconds = 0;
  for (size_t k = 0; k < updates; ++k) {
    const StateDict update = MakeUpdate(megabytes << 20, 2 + k);
    const auto start = std::chrono::steady_clock::now();
    const aggregation::UpdateInfo info{.num_examples = 500, .num_steps = 10, .device = "device-" + std::to_string(k)};
    if (const Status status = aggregator->Fold(update, info); !status.ok()) throw std::runtime_error(status.ToString());
    fold_seconds += SecondsSince(start);
  }
  const auto start = std::chrono::steady_clock::now();
  const auto made = Need(std::move(*aggregator).Finish());
  const double seconds = SecondsSince(start);
  const ProcessMemory memory = Need(ReadProcessMemory(::getpid()));
  std::printf(
      "[{\"id\":\"seconds\",\"value\":%.3f,\"unit\":\"s\"},\n "
      "{\"id\":\"fold_seconds\",\"value\":%.3f,\"unit\":\"s\"},\n",
      seconds, fold_seconds);
  std::printf(" {\"id\":\"peak_mb\",\"value\":%.1f,\"unit\":\"MB\"}]\n",
              static_cast<double>(memory.peak_rss_bytes) / 1e6);
  return made.model.empty() ? 1 : 0;
}

}  // namespace heddle::bench

int main(int argc, char** argv) {
  try {
    return heddle::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "heddle_bench_robust: %s\n", error.what());
    return 1;
  }
}
