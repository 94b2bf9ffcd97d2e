// heddle_bench_aggregation: how fast an update is folded into the sum, against memcpy of the same bytes by the same
// number of threads. Both rates count the bytes of the update. The two take turns in one run; figures are medians.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "aggregation/aggregator.h"
#include "aggregation/parallel.h"
#include "common/random.h"

namespace heddle::bench {
namespace {

using aggregation::Aggregator;

struct Options {
  size_t megabytes = 32;
  int runs = 15;
  unsigned threads = std::max(1U, std::thread::hardware_concurrency());
};

struct Figures {
  std::vector<double> fold, copy, validate;  // seconds
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

template <typename Work>
double Seconds(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Require(bool fine, const std::string& what) {
  if (!fine) throw std::runtime_error(what);
}

// An update shaped like an adapter: pairs of factors of rank 16, `bytes` in all.
StateDict MakeUpdate(size_t bytes, uint64_t seed) {
  constexpr int64_t kRank = 16, kWidth = 4096;
  constexpr size_t kTensorBytes = kRank * kWidth * sizeof(float);
  const PhiloxStream random(seed);
  StateDict update;
  std::vector<float> values(kRank * kWidth);
  uint64_t index = 0;
  for (size_t i = 0; i < std::max<size_t>(1, bytes / kTensorBytes); ++i) {
    for (float& value : values) value = (random.UniformAt(index++) - 0.5F) * 0.01F;
    const Shape shape = i % 2 == 0 ? Shape{kRank, kWidth} : Shape{kWidth, kRank};
    update.emplace("factor." + std::to_string(i), Tensor::FromFloats(shape, values));
  }
  return update;
}

std::unique_ptr<Aggregator> MakeFedAvg(const StateDict& parent, unsigned threads) {
  aggregation::AggregatorOptions options;
  options.threads = threads;
  auto made = aggregation::MakeAggregator("FedAvg", parent, options);
  Require(made.ok(), made.status().ToString());
  return *std::move(made);
}

// memcpy of the whole update into one buffer, split over threads as the fold is.
void CopyAll(const StateDict& update, std::vector<std::byte>* into, unsigned threads) {
  struct Part {
    size_t offset;
    std::span<const std::byte> bytes;
  };
  std::vector<Part> parts;
  size_t offset = 0;
  for (const auto& [name, tensor] : update) {
    parts.push_back({offset, tensor.bytes()});
    offset += tensor.bytes().size();
  }
  aggregation::ParallelRanges(offset / sizeof(float), threads, [&](size_t begin, size_t end) {
    begin *= sizeof(float);
    end *= sizeof(float);
    for (const Part& part : parts) {
      const size_t first = std::max(begin, part.offset), last = std::min(end, part.offset + part.bytes.size());
      if (first < last) std::memcpy(into->data() + first, part.bytes.data() + (first - part.offset), last - first);
    }
  });
}

Figures Measure(const std::vector<StateDict>& updates, int runs, unsigned threads) {
  auto aggregator = MakeFedAvg(updates[0], threads);
  std::vector<std::byte> copy(TotalBytes(updates[0]));
  Figures figures;
  for (int run = -2; run < runs; ++run) {  // two to warm up
    const StateDict& update = updates[static_cast<size_t>(run + 2) % updates.size()];
    const StateDict& other = updates[static_cast<size_t>(run + 3) % updates.size()];
    const double folded = Seconds([&] { Require(aggregator->Fold(update, {500}).ok(), "a fold failed"); });
    const double copied = Seconds([&] { CopyAll(other, &copy, threads); });
    const double validated = Seconds([&] { Require(aggregator->Validate(update, {500}).ok(), "not valid"); });
    if (run < 0) continue;
    figures.fold.push_back(folded);
    figures.copy.push_back(copied);
    figures.validate.push_back(validated);
  }
  return figures;
}

}  // namespace

int Main(int argc, char** argv) {
  Options options;
  bool json = false;
  CLI::App app("Folding updates into FedAvg's sum against memcpy of the same bytes");
  app.add_option("--mb", options.megabytes, "MiB an update; shorter ones would wait to be added together")
      ->check(CLI::Range(25, 1024));
  app.add_option("--runs", options.runs, "runs of each, taken in turns")->check(CLI::Range(1, 1000));
  app.add_option("--threads", options.threads, "threads of the parallel figures")->check(CLI::Range(1, 64));
  app.add_flag("--json", json, "print [{id,value,unit,target,better,pass}]");
  CLI11_PARSE(app, argc, argv);
  std::vector<StateDict> updates;
  for (uint64_t seed = 1; seed <= 3; ++seed) updates.push_back(MakeUpdate(options.megabytes << 20, seed));
  const auto gigabytes = static_cast<double>(TotalBytes(updates[0])) * 1e-9;
  const Figures one = Measure(updates, options.runs, 1);
  const Figures all = Measure(updates, options.runs, options.threads);
  const double ratio = Median(one.copy) / Median(one.fold), ratio_all = Median(all.copy) / Median(all.fold);
  if (json) {
    const auto line = [](const char* id, double value, const char* unit, const char* target, bool pass) {
      std::printf("{\"id\":\"%s\",\"value\":%.4f,\"unit\":\"%s\",\"target\":%s,\"better\":\"higher\",\"pass\":%s}", id,
                  value, unit, target, pass ? "true" : "false");
    };
    std::printf("[");
    line("aggregation.fold_to_memcpy", ratio, "ratio", "0.5", ratio >= 0.5);
    std::printf(",\n ");
    line("aggregation.fold_to_memcpy_threads", ratio_all, "ratio", "0.5", ratio_all >= 0.5);
    std::printf(",\n ");
    line("aggregation.fold_rate", gigabytes / Median(one.fold), "GB/s", "null", true);
    std::printf(",\n ");
    line("aggregation.memcpy_rate", gigabytes / Median(one.copy), "GB/s", "null", true);
    std::printf(",\n ");
    line("aggregation.validate_rate", gigabytes / Median(one.validate), "GB/s", "null", true);
    std::printf("]\n");
    return 0;
  }
  std::printf("update of %zu MiB, median of %d runs each in turns\n", options.megabytes, options.runs);
  const auto report = [&](const char* what, const Figures& f) {
    std::printf("%-10s memcpy %6.2f GB/s   fold %6.2f GB/s   validate %6.2f GB/s   fold/memcpy %.2f (target 0.50)\n",
                what, gigabytes / Median(f.copy), gigabytes / Median(f.fold), gigabytes / Median(f.validate),
                Median(f.copy) / Median(f.fold));
  };
  report("1 thread", one);
  report((std::to_string(options.threads) + " threads").c_str(), all);
  return 0;
}

}  // namespace heddle::bench

int main(int argc, char** argv) {
  try {
    return heddle::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "heddle_bench_aggregation: %s\n", error.what());
    return 1;
  }
}
