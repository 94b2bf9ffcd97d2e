#include "client/worker/ruled_training.h"

#include <cstring>

#include "aggregation/device_rules.h"
#include "common/logging.h"
#include "common/safetensors.h"
#include "peft/lora/lora.h"

namespace heddle::client {
namespace {

constexpr std::string_view kOwnGradient = "heddle.feddyn.";

torch::Tensor ToTorch(const Tensor& tensor, const torch::Device& device) {
  torch::Tensor out = torch::empty(tensor.shape(), torch::kFloat32);
  if (!tensor.bytes().empty()) std::memcpy(out.data_ptr<float>(), tensor.bytes().data(), tensor.bytes().size());
  return out.to(device);
}

bool Fits(const StateDict& tensors, const std::string& name, const torch::Tensor& like) {
  const auto found = tensors.find(name);
  return found != tensors.end() &&
         found->second.spec() == TensorSpec{DType::kF32, Shape(like.sizes().begin(), like.sizes().end())};
}

torch::Tensor FindOrZero(const StateDict& tensors, const std::string& name, const torch::Tensor& like) {
  if (!Fits(tensors, name, like)) return torch::zeros_like(like, torch::requires_grad(false));
  return ToTorch(tensors.find(name)->second, like.device());
}

Status CheckRules(const TrainSettings& train) {
  const TrainRules& rules = train.rules;
  if (!rules.correction.empty() && rules.correction != "scaffold" && rules.correction != "feddyn") {
    return InvalidArgument("this worker knows no correction '" + rules.correction + "'");
  }
  // Control variates are mean gradients only when steps are gradients times learning rates.
  if (rules.correction == "scaffold" && (train.optimizer != "SGD" || train.momentum != 0 || train.weight_decay != 0)) {
    return InvalidArgument("SCAFFOLD needs the optimizer SGD without momentum and weight decay");
  }
  if (rules.correction == "feddyn" && !(rules.feddyn_alpha > 0)) {
    return InvalidArgument("FedDyn needs a feddyn_alpha above 0");
  }
  return OkStatus();
}

}  // namespace

Result<RuledTraining> RuledTraining::Make(const TrainSettings& train, Parameters parameters, const StateDict& model,
                                          const StateDict& personal) {
  HEDDLE_RETURN_IF_ERROR(CheckRules(train));
  RuledTraining out;
  out.rules_ = train.rules;
  const TrainRules& rules = out.rules_;
  torch::NoGradGuard no_grad;
  for (auto& [key, value] : parameters) {
    if (aggregation::MatchesAny(rules.frozen, key)) {
      value.requires_grad_(false);
      continue;
    }
    Part part{.key = key, .value = value};
    part.kept = aggregation::MatchesAny(rules.kept, key);
    if (part.kept && Fits(personal, key, value)) value.copy_(ToTorch(personal.find(key)->second, value.device()));
    if (rules.proximal_mu > 0 || !rules.correction.empty()) part.start = value.detach().clone();
    if (rules.correction == "scaffold") {
      const std::string name = std::string(aggregation::kControlPrefix) + key;
      part.own = FindOrZero(personal, name, value);
      part.drift = FindOrZero(model, name, value) - part.own;
    } else if (rules.correction == "feddyn") {
      part.own = FindOrZero(personal, std::string(kOwnGradient) + key, value);
      part.drift = -part.own;
    }
    out.parts_.push_back(std::move(part));
  }
  if (out.parts_.empty()) return InvalidArgument("the plan's rules leave no tensor of the adapter to train");
  return out;
}

std::vector<torch::Tensor> RuledTraining::Trained() const {
  std::vector<torch::Tensor> out;
  for (const Part& part : parts_) out.push_back(part.value);
  return out;
}

void RuledTraining::Correct() {
  const double pull = rules_.proximal_mu + (rules_.correction == "feddyn" ? rules_.feddyn_alpha : 0);
  torch::NoGradGuard no_grad;
  for (Part& part : parts_) {
    torch::Tensor& gradient = part.value.mutable_grad();
    if (!gradient.defined()) continue;
    if (part.drift.defined()) gradient.add_(part.drift);
    if (pull > 0) gradient.add_(part.value, pull).sub_(part.start, pull);
  }
}

void RuledTraining::Finish(const StateDict& model, TaskOutput* output) const {
  torch::NoGradGuard no_grad;
  for (const Part& part : parts_) {
    const Tensor value = peft::ToStateTensor(part.value);
    if (part.kept) {
      output->personal.insert_or_assign(part.key, value);
    } else {
      const std::span<const float> after = value.values<float>(), before = model.find(part.key)->second.values<float>();
      std::vector<float> difference(after.size());
      for (size_t i = 0; i < after.size(); ++i) difference[i] = after[i] - before[i];
      output->update.insert_or_assign(part.key, Tensor::FromFloats(value.shape(), difference));
    }
    if (rules_.correction == "scaffold") {
      const std::string name = std::string(aggregation::kControlPrefix) + part.key;
      const torch::Tensor change = (part.start - part.value.detach()) / learning_rates_ - (part.drift + part.own);
      output->personal.insert_or_assign(name, peft::ToStateTensor(part.own + change));
      if (!part.kept) output->update.insert_or_assign(name, peft::ToStateTensor(change));
    } else if (rules_.correction == "feddyn") {
      const torch::Tensor own = part.own - rules_.feddyn_alpha * (part.value.detach() - part.start);
      output->personal.insert_or_assign(std::string(kOwnGradient) + part.key, peft::ToStateTensor(own));
    }
  }
}

Result<StateDict> ReadPersonal(const std::filesystem::path& path) {
  std::error_code error;
  if (path.empty() || !std::filesystem::exists(path, error)) return StateDict{};
  Result<SafetensorsFile> file = ReadSafetensors(path);
  if (file.ok()) return std::move(file->tensors);
  if (file.status().code() != Code::kInvalidArgument && file.status().code() != Code::kDataLoss) return file.status();
  // A damaged file must not keep the device from ever training again.
  Log(Severity::kWarning,
      "what this device kept of the run cannot be read and is begun anew: " + file.status().message());
  return StateDict{};
}

}  // namespace heddle::client
