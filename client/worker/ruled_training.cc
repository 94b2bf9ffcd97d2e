#include "client/worker/ruled_training.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "aggregation/device_rules.h"
#include "aggregation/layer_choice.h"
#include "common/logging.h"
#include "common/safetensors.h"
#include "peft/tuning/tuning.h"

namespace heddle::client {
namespace {

constexpr std::string_view kOwnGradient = "heddle.feddyn.", kOwnRank = "heddle.rank";

bool Fits(const StateDict& tensors, const std::string& name, const torch::Tensor& like) {
  const auto found = tensors.find(name);
  return found != tensors.end() &&
         found->second.spec() == TensorSpec{DType::kF32, Shape(like.sizes().begin(), like.sizes().end())};
}

torch::Tensor FindOrZero(const StateDict& tensors, const std::string& name, const torch::Tensor& like) {
  if (!Fits(tensors, name, like)) return torch::zeros_like(like, torch::requires_grad(false));
  return peft::ToTorchTensor(tensors.find(name)->second, like.device());
}

Status CheckRules(const TrainSettings& train) {
  const TrainRules& rules = train.rules;
  if (!rules.correction.empty() && rules.correction != "scaffold" && rules.correction != "feddyn") {
    return InvalidArgument("this worker knows no correction '" + rules.correction + "'");
  }
  if (rules.correction == "scaffold" && !aggregation::IsPlainSgd(train.optimizer, train.momentum, train.weight_decay)) {
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
  const aggregation::LayerChoice choice = aggregation::LayerChoiceOf(SpecOf(model));
  torch::NoGradGuard no_grad;
  for (auto& [key, value] : parameters) {
    if (aggregation::MatchesAny(rules.frozen, key)) {
      value.requires_grad_(false);
      continue;
    }
    Part part{.key = key, .value = value};
    part.kept = aggregation::MatchesAny(rules.kept, key);
    if (part.kept && Fits(personal, key, value))
      value.copy_(peft::ToTorchTensor(personal.find(key)->second, value.device()));
    if (key == aggregation::kPrefixKey && !choice.travels.empty() && value.dim() == 2) {
      part.columns = aggregation::TravellingColumns(choice, value.size(1));
      if (Fits(personal, key, value)) {
        torch::Tensor own = peft::ToTorchTensor(personal.find(key)->second, value.device()).clone();
        const torch::Tensor travels = torch::tensor(part.columns, torch::kInt64).to(value.device());
        own.index_copy_(1, travels, value.detach().index_select(1, travels));
        value.copy_(own);
      }
    }
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
  if (rules.prune_gamma > 0) out.FindTails();
  return out;
}

peft::Adapter RuledTraining::OwnPart(const TrainRules& rules, const StateDict& personal, peft::Adapter adapter) {
  const auto own = personal.find(kOwnRank);
  if (rules.prune_gamma <= 0 || own == personal.end() || own->second.spec() != TensorSpec{DType::kF32, {1}}) {
    return adapter;
  }
  const float kept = own->second.values<float>()[0];
  if (!(kept >= 1 && kept < static_cast<float>(adapter.config.r))) return adapter;
  const auto rank = static_cast<int64_t>(kept);
  const double share = static_cast<double>(rank) / static_cast<double>(adapter.config.r);
  adapter.config.lora_alpha *= adapter.config.use_rslora ? std::sqrt(share) : share;  // the scaling stays
  adapter.config.r = rank;
  adapter.tensors = aggregation::DeviceModel(adapter.tensors, rank);
  return adapter;
}

void RuledTraining::FindTails() {
  for (size_t b = 0; b < parts_.size(); ++b) {
    if (!aggregation::IsLoraB(parts_[b].key)) continue;
    std::string key = parts_[b].key;
    key.replace(key.rfind("lora_B"), 6, "lora_A");
    for (size_t a = 0; a < parts_.size(); ++a) {
      if (parts_[a].key != key) continue;
      rank_ = parts_[a].value.size(0);
      const auto begin = std::max<int64_t>(1, static_cast<int64_t>(rules_.prune_gamma * static_cast<double>(rank_)));
      if (begin < rank_) tails_.push_back({a, b, begin});
    }
  }
  tails_at_start_ = TailProducts();
}

double RuledTraining::TailProducts() const {
  double sum = 0;
  for (const Tail& tail : tails_) {
    const torch::Tensor a = parts_[tail.a].value.detach().slice(0, tail.begin);
    const torch::Tensor b = parts_[tail.b].value.detach().slice(1, tail.begin);
    sum += a.norm().item<double>() * b.norm().item<double>();
  }
  return sum;
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
  if (rules_.prune_lambda <= 0) return;
  for (const Tail& tail : tails_) {
    const torch::Tensor a = parts_[tail.a].value.detach().slice(0, tail.begin);
    const torch::Tensor b = parts_[tail.b].value.detach().slice(1, tail.begin);
    const double a_norm = a.norm().item<double>(), b_norm = b.norm().item<double>();
    if (!(a_norm > 0 && b_norm > 0)) continue;
    torch::Tensor a_gradient = parts_[tail.a].value.grad(), b_gradient = parts_[tail.b].value.grad();
    if (a_gradient.defined()) a_gradient.slice(0, tail.begin).add_(a, rules_.prune_lambda * b_norm / a_norm);
    if (b_gradient.defined()) b_gradient.slice(1, tail.begin).add_(b, rules_.prune_lambda * a_norm / b_norm);
  }
}

// Of a difference, the columns that are sent.
Tensor RuledTraining::Travelling(const Part& part, Tensor difference) {
  if (part.columns.empty()) return difference;
  const auto all = difference.values<float>();
  const auto rows = static_cast<size_t>(difference.shape()[0]), width = static_cast<size_t>(difference.shape()[1]);
  std::vector<float> sent;
  for (size_t row = 0; row < rows; ++row) {
    for (const int64_t column : part.columns) sent.push_back(all[row * width + static_cast<size_t>(column)]);
  }
  return Tensor::FromFloats({difference.shape()[0], static_cast<int64_t>(part.columns.size())}, sent);
}

void RuledTraining::Finish(const StateDict& model, TaskOutput* output) const {
  torch::NoGradGuard no_grad;
  const int64_t rank = !tails_.empty() && TailProducts() < tails_at_start_ ? tails_.front().begin : rank_;
  if (rank_ > 0) {
    const std::array<float, 1> kept = {static_cast<float>(rank)};
    output->personal.insert_or_assign(std::string(kOwnRank), Tensor::FromFloats({1}, kept));
  }
  const StateDict start = aggregation::DeviceModel(model, rank);
  for (const Part& part : parts_) {
    const Tensor value = aggregation::CutToRank(part.key, peft::ToStateTensor(part.value), rank);
    if (part.kept) {
      output->personal.insert_or_assign(part.key, value);
    } else {
      const std::span<const float> after = value.values<float>(), before = start.find(part.key)->second.values<float>();
      std::vector<float> difference(after.size());
      for (size_t i = 0; i < after.size(); ++i) difference[i] = after[i] - before[i];
      output->update.insert_or_assign(part.key, Travelling(part, Tensor::FromFloats(value.shape(), difference)));
      if (!part.columns.empty()) output->personal.insert_or_assign(part.key, value);
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
