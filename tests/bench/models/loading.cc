#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "bench_models.h"
#include "common/file.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "common/subprocess.h"
#include "model/architectures/architectures.h"
#include "model/weights/base_weights.h"

namespace heddle::bench {
namespace {

// A Llama of about so many bytes.
model::ModelSpec SpecOf(int64_t bytes, DType dtype) {
  model::ModelSpec spec = DecoderSpec(2048);
  spec.hidden_size = 1024;
  spec.intermediate_size = 2816;
  spec.num_attention_heads = spec.num_key_value_heads = 16;
  for (spec.num_hidden_layers = 1; static_cast<int64_t>(DTypeSize(dtype)) * spec.NumParameters() < bytes &&
                                   spec.num_hidden_layers < model::kMaxLayers;) {
    ++spec.num_hidden_layers;
  }
  return spec;
}

// `dtype`: kBF16 or kF32.
void WriteCheckpoint(const std::filesystem::path& folder, const model::ModelSpec& spec, DType dtype) {
  Need(MakeDirectories(folder));
  StateDict weights;
  for (const auto& [name, tensor] : spec.WeightSpec()) {
    std::span<std::byte> bytes;
    Tensor values = Tensor::Allocate({dtype, tensor.shape}, &bytes);
    uint64_t state = DeriveSeed(1, "bench weights", name);
    const size_t size = DTypeSize(dtype);
    for (size_t i = size; i <= bytes.size(); i += size) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      bytes[i - 2] = static_cast<std::byte>(state >> 40);
      bytes[i - 1] = static_cast<std::byte>(0x3c | (state >> 63 << 7));  // 0.008 to 0.03, of either sign
    }
    weights.emplace(name, std::move(values));
  }
  Need(WriteFileAtomically(folder / "config.json", model::LlamaConfigJson(spec)));
  Need(WriteSafetensors(folder / "model.safetensors", weights));
}

// Seconds that reading the whole file into fresh memory takes.
double ReadWhole(const std::filesystem::path& path) {
  const double started = Now();
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) throw std::runtime_error("cannot open " + path.string());
  const auto size = static_cast<size_t>(std::filesystem::file_size(path));
  const std::unique_ptr<char, void (*)(void*)> memory(static_cast<char*>(std::malloc(size)), std::free);
  for (size_t used = 0; used < size;) {
    const ssize_t n = ::read(fd.get(), memory.get() + used, std::min(size - used, size_t{8} << 20));
    if (n <= 0) throw std::runtime_error("cannot read " + path.string());
    used += static_cast<size_t>(n);
  }
  return Now() - started;
}

// Seconds that filling `bytes` of fresh memory takes, by LibTorch's threads: what no way to make so many weights of a
// file goes below.
double FillFresh(size_t bytes) {
  at::empty({1 << 16}).add_(1);  // the threads
  const double started = Now();
  const std::unique_ptr<char, void (*)(void*)> memory(static_cast<char*>(std::malloc(bytes)), std::free);
  at::parallel_for(0, static_cast<int64_t>(bytes), int64_t{1} << 20, [&](int64_t first, int64_t last) {
    std::memset(memory.get() + first, 1, static_cast<size_t>(last - first));
  });
  if (*(static_cast<const volatile char*>(memory.get()) + bytes / 2) != 1) throw std::runtime_error("not filled");
  return Now() - started;
}

}  // namespace

void LoadOnce(const std::filesystem::path& folder, const std::string& form, int threads) {
  at::set_num_threads(threads);
  if (form == "read") {
    std::printf("%.6f\n", ReadWhole(folder / "model.safetensors"));
    return;
  }
  if (form == "fresh") {
    std::printf("%.6f\n", FillFresh(2 * std::filesystem::file_size(folder / "model.safetensors")));
    return;
  }
  at::empty({1 << 16}).add_(1);  // LibTorch's own threads and tables
  const uint64_t before = Need(ReadProcessMemory(::getpid())).rss_bytes;
  const double started = Now();
  const auto base = Need(model::BaseWeights::Load(folder, {Need(model::WeightTypeFromName(form)), torch::kCPU}));
  // What is used in place has been read when each of its pages has.
  unsigned sum = 0;
  for (const auto& [name, tensor] : base->tensors) {
    const auto* bytes = static_cast<const volatile unsigned char*>(tensor.data_ptr());
    for (size_t i = 0; i < tensor.nbytes(); i += 4096) sum += bytes[i];
  }
  const double seconds = Now() - started;
  const uint64_t peak = Need(ReadProcessMemory(::getpid())).peak_rss_bytes;
  std::printf("%.6f %.0f %.0f %u\n", seconds, static_cast<double>(peak - before), static_cast<double>(base->bytes()),
              sum);
}

std::vector<Row> MeasureLoading(const ModelsOptions& options, const std::filesystem::path& self) {
  struct Load {
    std::string id, folder, form;
  };
  // A file as it is; one that takes less memory afterwards; one that takes more.
  const std::vector<Load> loads = {{"same", "float32", "float32"},      {"bfloat16", "bfloat16", "bfloat16"},
                                   {"narrowed", "float32", "bfloat16"}, {"float32", "bfloat16", "float32"},
                                   {"int8", "bfloat16", "int8"},        {"nf4", "bfloat16", "nf4"}};
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    const std::string name = dtype == DType::kBF16 ? "bfloat16" : "float32";
    WriteCheckpoint(options.work / name, SpecOf(options.megabytes * 1'000'000, dtype), dtype);
  }
  std::map<std::string, std::vector<double>> seconds, memory, reading;
  std::vector<double> fresh;
  const std::string threads = std::to_string(options.threads);
  for (int turn = 0; turn <= options.turns; ++turn) {
    for (const Load& load : loads) {
      const std::string folder = options.work / load.folder;
      const auto read = NumbersOf(self, {"load-once", folder, "--form", "read", "--threads", threads});
      const auto figures = NumbersOf(self, {"load-once", folder, "--form", load.form, "--threads", threads});
      if (turn == 0) continue;  // the files come into the system's cache
      reading[load.id].push_back(read.at(0));
      if (load.id == "float32") {
        fresh.push_back(NumbersOf(self, {"load-once", folder, "--form", "fresh", "--threads", threads}).at(0) /
                        read.at(0));
      }
      seconds[load.id].push_back(figures.at(0));
      memory[load.id].push_back(figures.at(1) / figures.at(2));
    }
  }
  std::vector<Row> rows;
  for (const Load& load : loads) {
    const double took = MedianOf(seconds[load.id]), read = MedianOf(reading[load.id]);
    char note[120];
    std::snprintf(note, sizeof note, "median of %d; %.3f s beside %.3f s of read(), file in the system's cache",
                  options.turns, took, read);
    rows.push_back({"load-" + load.id, took / read, note, false});
    rows.push_back({"load-memory-" + load.id, *std::max_element(memory[load.id].begin(), memory[load.id].end()),
                    "largest of " + std::to_string(options.turns), false});
  }
  rows.push_back({"load-float32-floor", MedianOf(fresh), "median of " + std::to_string(options.turns), false});
  return rows;
}

}  // namespace heddle::bench
