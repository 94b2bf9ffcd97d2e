#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "bench_models.h"
#include "common/subprocess.h"
#include "model/training/optimizer.h"
#include "model/transformer/transformer.h"
#include "peft/lora/lora.h"

namespace heddle::bench {
namespace {

using torch::Tensor;

double Mebibytes(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }
double Resident() { return Mebibytes(Need(ReadProcessMemory(::getpid())).rss_bytes); }
double Peak() { return Mebibytes(Need(ReadProcessMemory(::getpid())).peak_rss_bytes); }

// From now on Peak() is the peak since now.
void ResetPeak() {
  ::malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
}

// A base in bfloat16 that no file is behind, as loading leaves it.
std::shared_ptr<const model::BaseWeights> RandomBase(const model::ModelSpec& spec, at::ScalarType type) {
  auto base = std::make_shared<model::BaseWeights>();
  base->spec = spec;
  for (const auto& [name, tensor] : spec.WeightSpec()) {
    const bool vector = tensor.shape.size() < 2;
    base->tensors.emplace(
        name, vector ? torch::ones(tensor.shape) : torch::normal(0.0, 0.02, tensor.shape, c10::nullopt, {}).to(type));
  }
  return base;
}

}  // namespace

void TrainOnce(const std::string& kind, const ModelsOptions& options) {
  at::set_num_threads(options.threads);
  // Memory that is freed goes back at once, so that what is resident is what is in use.
  ::mallopt(M_MMAP_THRESHOLD, 64 << 10);
  ::mallopt(M_TRIM_THRESHOLD, 64 << 10);
  const bool lora = kind == "lora";
  const model::ModelSpec spec = DecoderSpec(options.length);
  const Tensor ids = torch::randint(0, spec.vocab_size, {options.batch, options.length}, torch::kLong);
  model::Transformer network{nullptr};
  std::vector<Tensor> parameters;
  uint64_t base_bytes = 0;
  if (lora) {
    const auto base = RandomBase(spec, at::kBFloat16);
    base_bytes = base->bytes();
    network = model::Transformer(base, model::ComputeOptions{.type = at::kBFloat16, .checkpoint_layers = true});
    peft::AdapterConfig config;
    config.r = 16;
    config.target_modules_regex = "all-linear";
    const auto targets = Need(peft::FindTargets(spec.LinearModules(), config));
    Need(peft::InjectLora(network, config, peft::MakeInitialAdapter(targets, config, 1)));
    for (auto& [name, tensor] : peft::LoraParameters(network)) parameters.push_back(tensor);
  } else {
    network = model::Transformer(spec, 1, model::ComputeOptions{.checkpoint_layers = kind == "full-checkpointed"});
    parameters = network->parameters();
    for (const Tensor& p : parameters) base_bytes += p.nbytes();
  }
  const auto optimizer = model::MakeOptimizer(model::OptimizerKind::kAdamW, parameters, {});
  uint64_t trained = 0;
  for (const Tensor& p : parameters) trained += p.nbytes();
  network->train();
  // LibTorch's kernels, threads and buffers come into being with a small step.
  network->Loss(ids.slice(0, 0, 1).slice(1, 0, 8), ids.slice(0, 0, 1).slice(1, 0, 8)).backward();
  for (Tensor& p : parameters) p.mutable_grad() = Tensor();
  ResetPeak();
  const double before = Resident();
  const Tensor loss = network->Loss(ids, ids);
  ::malloc_trim(0);
  // What the forward pass leaves to the backward pass, without the gradient of the output weights, which the loss makes
  // on the way.
  const uint64_t head = lora ? 0 : static_cast<uint64_t>(spec.vocab_size * spec.hidden_size) * sizeof(float);
  const double kept = Resident() - before - Mebibytes(head);
  loss.backward();
  const double backward = Peak() - before;
  optimizer->Step(1e-4);
  // MiB: base, trained parameters, optimizer; activations that are kept; what a step adds at its peak.
  std::printf("%.2f %.2f %.2f %.2f %.2f\n", Mebibytes(base_bytes), Mebibytes(trained),
              Mebibytes(optimizer->StateBytes()), kept, backward);
}

std::vector<Row> MeasureMemory(const ModelsOptions& options, const std::filesystem::path& self) {
  std::map<std::string, std::vector<double>> of;
  for (const std::string kind : {"full", "full-checkpointed", "lora"}) {
    of[kind] = NumbersOf(self, {"train-once", kind, "--threads", std::to_string(options.threads), "--batch",
                                std::to_string(options.batch), "--length", std::to_string(options.length)});
    std::fprintf(
        stderr,
        "%-18s base %7.1f MiB, trained parameters %7.1f, optimizer %7.1f; a step adds %7.1f (activations kept %.1f)\n",
        kind.c_str(), of[kind].at(0), of[kind].at(1), of[kind].at(2), of[kind].at(4), of[kind].at(3));
  }
  const double activations = of["full"].at(3);
  const std::vector<double>& lora = of["lora"];
  const double beyond_base = lora.at(1) + lora.at(2) + lora.at(4);
  const double checkpointed = of["full-checkpointed"].at(3);
  char note[240];
  std::snprintf(note, sizeof note,
                "base %.0f MiB + adapter %.1f + optimizer %.1f + step %.1f; full fine-tuning's activations %.0f MiB "
                "(with checkpointing %.1f, to which the ratio is %.2f)",
                lora.at(0), lora.at(1), lora.at(2), lora.at(4), activations, checkpointed, beyond_base / checkpointed);
  return {{"lora-memory", beyond_base / activations, note, false}};
}

}  // namespace heddle::bench
