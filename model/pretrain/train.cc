#include "model/pretrain/train.h"

#include <torch/nn/utils/clip_grad.h>
#include <torch/optim.h>
#include <torch/serialize.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <future>
#include <numbers>

#include "common/file.h"
#include "common/logging.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "model/architectures/architectures.h"
#include "model/transformer/transformer.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

namespace fs = std::filesystem;
using SteadyClock = std::chrono::steady_clock;

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

Tensor ToTensor(const torch::Tensor& tensor, DType dtype) {
  const auto values = tensor.detach().to(dtype == DType::kBF16 ? at::kBFloat16 : at::kFloat).contiguous();
  std::span<std::byte> bytes;
  Tensor out = Tensor::Allocate({dtype, values.sizes().vec()}, &bytes);
  std::memcpy(bytes.data(), values.data_ptr(), bytes.size());
  return out;
}

struct Batch {
  torch::Tensor ids, targets;
};

Batch MakeBatch(const TextDataset& data, std::span<const int64_t> windows) {
  const auto rows = static_cast<int64_t>(windows.size());
  Batch batch{at::empty({rows, data.sequence_length()}, at::kLong),
              at::empty({rows, data.sequence_length()}, at::kLong)};
  for (int64_t row = 0; row < rows; ++row) {
    const auto ids = data.Sequence(windows[row]);
    std::copy(ids.begin(), ids.end() - 1, batch.ids.data_ptr<int64_t>() + row * data.sequence_length());
    std::copy(ids.begin() + 1, ids.end(), batch.targets.data_ptr<int64_t>() + row * data.sequence_length());
  }
  return batch;
}

// Matrices decay, norms do not.
torch::optim::AdamW MakeOptimizer(Transformer& model, const PretrainSettings& s) {
  std::vector<torch::Tensor> matrices, vectors;
  for (const auto& parameter : model->parameters()) (parameter.dim() > 1 ? matrices : vectors).push_back(parameter);
  const auto options = [&](double decay) {
    return std::make_unique<torch::optim::AdamWOptions>(
        torch::optim::AdamWOptions(s.learning_rate).betas({s.beta1, s.beta2}).weight_decay(decay));
  };
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(matrices, options(s.weight_decay));
  groups.emplace_back(vectors, options(0.0));
  return torch::optim::AdamW(std::move(groups), torch::optim::AdamWOptions(s.learning_rate));
}

Status SaveCheckpoint(Transformer& model, torch::optim::AdamW& optimizer, const PretrainProgress& progress,
                      const fs::path& folder) {
  StateDict tensors;
  for (const auto& item : model->named_parameters()) tensors.emplace(item.key(), ToTensor(item.value(), DType::kF32));
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(folder / "config.json", LlamaConfigJson(model->spec())));
  torch::save(optimizer, (folder / "optimizer.new").string());
  HEDDLE_RETURN_IF_ERROR(WriteSafetensors(folder / "model.safetensors", tensors));
  HEDDLE_RETURN_IF_ERROR(RenameDurably(folder / "optimizer.new", folder / "optimizer.pt"));
  const json::object object = {
      {"step", progress.step}, {"seconds", progress.seconds}, {"recent_loss", progress.recent_loss}};
  return WriteFileAtomically(folder / "progress.json", json::serialize(object) + "\n");
}

Status LoadCheckpoint(Transformer& model, torch::optim::AdamW& optimizer, const fs::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(const auto base, BaseWeights::Load(folder));
  if (base->spec.WeightSpec() != model->spec().WeightSpec()) {
    return InvalidArgument("the checkpoint in " + folder.string() +
                           " is of another model: delete it or change the settings");
  }
  torch::NoGradGuard no_grad;
  for (auto& item : model->named_parameters()) item.value().copy_(base->tensors.at(item.key()));
  torch::load(optimizer, (folder / "optimizer.pt").string());
  return OkStatus();
}

// Copies of a model on the same weights, each with gradients of its own: one a thread. Threads meet once a step, so
// they scale better than threads inside each matrix product, above all on a machine that has other work too.
class Replicas {
 public:
  Replicas(Transformer model, const PretrainSettings& s) : models_{std::move(model)} {
    for (int64_t i = 1; i < s.threads; ++i) {
      Transformer replica(s.model, s.seed);
      const auto to = replica->parameters(), from = models_[0]->parameters();
      for (size_t p = 0; p < to.size(); ++p) to[p].set_data(from[p].detach());
      models_.push_back(std::move(replica));
    }
  }

  // Leaves the mean gradient of the batch in the first model; returns the mean loss.
  double LossAndGradient(const Batch& batch) {
    const auto count = static_cast<int64_t>(models_.size());
    const int64_t rows = batch.ids.size(0) / count;
    std::vector<std::future<double>> others;
    for (int64_t i = 1; i < count; ++i) {
      others.push_back(std::async(std::launch::async, [this, &batch, i, rows] { return Part(i, batch, rows); }));
    }
    double loss = Part(0, batch, rows);
    for (auto& other : others) loss += other.get();
    const auto into = models_[0]->parameters();
    for (int64_t i = 1; i < count; ++i) {
      const auto from = models_[static_cast<size_t>(i)]->parameters();
      for (size_t p = 0; p < into.size(); ++p) into[p].mutable_grad().add_(from[p].grad());
    }
    for (const auto& parameter : into) parameter.mutable_grad().div_(static_cast<double>(count));
    return loss / static_cast<double>(count);
  }

 private:
  double Part(int64_t index, const Batch& batch, int64_t rows) {
    at::set_num_threads(1);
    Transformer& model = models_[static_cast<size_t>(index)];
    model->zero_grad();
    torch::Tensor loss = model->Loss(batch.ids.slice(0, index * rows, (index + 1) * rows),
                                     batch.targets.slice(0, index * rows, (index + 1) * rows));
    loss.backward();
    return loss.item<double>();
  }

  std::vector<Transformer> models_;
};

// One optimizer step; returns the loss.
double TrainStep(Replicas& replicas, Transformer& model, torch::optim::AdamW& optimizer, const Batch& batch,
                 const PretrainSettings& s, int64_t step) {
  for (auto& group : optimizer.param_groups()) {
    static_cast<torch::optim::AdamWOptions&>(group.options()).lr(LearningRateAt(s, step));
  }
  const double loss = replicas.LossAndGradient(batch);
  torch::nn::utils::clip_grad_norm_(model->parameters(), s.max_grad_norm);
  optimizer.step();
  return loss;
}

Result<PretrainProgress> Run(const PretrainSettings& s, const TextDataset& data, const fs::path& folder) {
  Transformer model(s.model, s.seed);
  auto optimizer = MakeOptimizer(model, s);
  PretrainProgress progress;
  if (fs::exists(folder / "progress.json")) {
    HEDDLE_ASSIGN_OR_RETURN(progress, ReadProgress(folder));
    HEDDLE_RETURN_IF_ERROR(LoadCheckpoint(model, optimizer, folder));
  }
  Replicas replicas(model, s);
  SampleOrder order(data.num_sequences(), DeriveSeed(s.seed, "pretrain_order", ""));
  for (int64_t i = 0; i < progress.step * s.batch_size; ++i) order.Next();
  std::vector<int64_t> windows(static_cast<size_t>(s.batch_size));
  auto last_checkpoint = SteadyClock::now(), last_line = last_checkpoint, step_start = last_checkpoint;
  int64_t line_step = progress.step;
  while (progress.step < s.steps) {
    for (int64_t& window : windows) window = order.Next();
    const double loss = TrainStep(replicas, model, optimizer, MakeBatch(data, windows), s, progress.step);
    if (!std::isfinite(loss)) return Internal("the loss is not finite at step " + std::to_string(progress.step));
    progress.recent_loss = progress.step == 0 ? loss : 0.98 * progress.recent_loss + 0.02 * loss;
    ++progress.step;
    progress.seconds += SecondsSince(step_start);
    step_start = SteadyClock::now();
    const bool last = progress.step == s.steps;
    if (const double seconds = SecondsSince(last_line); seconds > 10 || last) {
      const double tokens = static_cast<double>((progress.step - line_step) * s.batch_size * s.sequence_length);
      Log(Severity::kInfo, "pretraining",
          {{"step", progress.step},
           {"of", s.steps},
           {"loss", progress.recent_loss},
           {"tokens_per_second", tokens / seconds},
           {"seconds", progress.seconds}});
      last_line = SteadyClock::now();
      line_step = progress.step;
    }
    if (SecondsSince(last_checkpoint) > static_cast<double>(s.checkpoint_seconds) || last) {
      HEDDLE_RETURN_IF_ERROR(SaveCheckpoint(model, optimizer, progress, folder));
      last_checkpoint = SteadyClock::now();
    }
  }
  return progress;
}

}  // namespace

double LearningRateAt(const PretrainSettings& s, int64_t step) {
  if (step < s.warmup_steps)
    return s.learning_rate * static_cast<double>(step + 1) / static_cast<double>(s.warmup_steps);
  const double done =
      static_cast<double>(step - s.warmup_steps) / static_cast<double>(std::max<int64_t>(s.steps - s.warmup_steps, 1));
  return s.final_learning_rate +
         0.5 * (s.learning_rate - s.final_learning_rate) * (1 + std::cos(std::numbers::pi * std::min(done, 1.0)));
}

Result<PretrainProgress> Pretrain(const PretrainSettings& settings, const TextDataset& data, const fs::path& folder) {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  try {
    return Run(settings, data, folder);
  } catch (const std::exception& e) {
    return Internal(std::string("pretraining failed in LibTorch: ") + e.what());
  }
}

Result<PretrainProgress> ReadProgress(const fs::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(folder / "progress.json", 4096));
  json::error_code error;
  const json::value value = json::parse(text, error);
  const json::object* object = error ? nullptr : value.if_object();
  const auto number = [object](const char* key) {
    const json::value* member = object == nullptr ? nullptr : object->if_contains(key);
    return member != nullptr && member->is_number() ? member->to_number<double>() : -1.0;
  };
  PretrainProgress progress{static_cast<int64_t>(number("step")), number("seconds"), number("recent_loss")};
  if (progress.step < 0) return InvalidArgument((folder / "progress.json").string() + " does not hold a step");
  return progress;
}

Status ExportBf16(const fs::path& checkpoint, const fs::path& out) {
  HEDDLE_ASSIGN_OR_RETURN(const auto base, BaseWeights::Load(checkpoint));
  StateDict tensors;
  for (const auto& [name, tensor] : base->tensors) tensors.emplace(name, ToTensor(tensor, DType::kBF16));
  ModelSpec config = base->spec;
  config.torch_dtype = "bfloat16";
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(out));
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(out / "config.json", LlamaConfigJson(config)));
  return WriteSafetensors(out / "model.safetensors", tensors);
}

Result<double> EvaluateLoss(const fs::path& folder, const TextDataset& data, int64_t* num_tokens) {
  HEDDLE_ASSIGN_OR_RETURN(const auto base, BaseWeights::Load(folder));
  try {
    torch::NoGradGuard no_grad;
    Transformer model(base);
    double total = 0;
    constexpr int64_t kBatch = 16;
    for (int64_t begin = 0; begin < data.num_sequences(); begin += kBatch) {
      std::vector<int64_t> windows;
      for (int64_t i = begin; i < std::min(begin + kBatch, data.num_sequences()); ++i) windows.push_back(i);
      const Batch batch = MakeBatch(data, windows);
      total += model->Loss(batch.ids, batch.targets).item<double>() * static_cast<double>(windows.size());
    }
    *num_tokens = data.num_sequences() * data.sequence_length();
    return total / static_cast<double>(data.num_sequences());
  } catch (const std::exception& e) {
    return Internal(std::string("evaluation failed in LibTorch: ") + e.what());
  }
}

}  // namespace heddle::model
