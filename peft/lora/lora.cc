#include "peft/lora/lora.h"

#include <cstring>
#include <map>

namespace heddle::peft {
namespace {

// A trainable copy of an F32 tensor.
torch::Tensor Leaf(const Tensor& tensor, const torch::Device& device = torch::kCPU) {
  torch::Tensor out = torch::empty(tensor.shape(), torch::kFloat32);
  if (!tensor.bytes().empty()) std::memcpy(out.data_ptr<float>(), tensor.bytes().data(), tensor.bytes().size());
  return out.to(device).requires_grad_(true);
}

bool Transposed(const model::ModelSpec& spec, const std::string& path) {
  for (const model::LinearSpec& linear : spec.LinearModules()) {
    if (linear.path == path) return linear.transposed;
  }
  return false;
}

// Of a parameter in float32, dense.
torch::Tensor DenseWeight(const model::BaseWeights& base, const std::string& name) {
  const auto packed = base.packed.find(name);
  return packed == base.packed.end() ? base.tensors.at(name) : packed->second->Dense(torch::kFloat32);
}

}  // namespace

Tensor ToStateTensor(const torch::Tensor& tensor) {
  torch::Tensor dense = tensor.detach().to(torch::kCPU, torch::kFloat32).contiguous();
  return Tensor::FromFloats(Shape(dense.sizes().begin(), dense.sizes().end()),
                            {dense.data_ptr<float>(), static_cast<size_t>(dense.numel())});
}

Status InjectLora(model::Transformer& model, const AdapterConfig& config, const StateDict& adapter) {
  HEDDLE_RETURN_IF_ERROR(config.Validate());
  std::map<std::string, model::Linear> linears = model->LinearModules();
  auto targets = FindTargets(model->spec(), config);
  if (!targets.ok()) return targets.status();
  Status same = CheckSameSpec(AdapterSpec(*targets, config), SpecOf(adapter));
  if (!same.ok()) return same.Annotate("the adapter does not fit the base model");
  for (auto& parameter : model->parameters()) parameter.requires_grad_(false);
  for (auto& [path, linear] : linears) linear->lora_A = linear->lora_B = torch::Tensor();
  for (const TargetModule& target : *targets) {
    model::Linear linear = linears.at(target.path);
    const torch::Device device = linear->device();
    linear->lora_A = Leaf(adapter.find(LoraAKey(target.path))->second, device);
    linear->lora_B = Leaf(adapter.find(LoraBKey(target.path))->second, device);
    linear->scaling = config.scaling();
    linear->dropout = config.lora_dropout;
  }
  return OkStatus();
}

std::vector<std::pair<std::string, torch::Tensor>> LoraParameters(model::Transformer& model) {
  std::map<std::string, torch::Tensor> ordered;
  for (auto& [path, linear] : model->LinearModules()) {
    if (!linear->lora_A.defined()) continue;
    ordered[LoraAKey(path)] = linear->lora_A;
    ordered[LoraBKey(path)] = linear->lora_B;
  }
  return {ordered.begin(), ordered.end()};
}

StateDict ExtractLora(model::Transformer& model) {
  StateDict out;
  for (const auto& [key, tensor] : LoraParameters(model)) out.emplace(key, ToStateTensor(tensor));
  return out;
}

Result<StateDict> MergeLora(const model::BaseWeights& base, const AdapterConfig& config, const StateDict& adapter) {
  HEDDLE_RETURN_IF_ERROR(config.Validate());
  auto targets = FindTargets(base.spec, config);
  if (!targets.ok()) return targets.status();
  Status same = CheckSameSpec(AdapterSpec(*targets, config), SpecOf(adapter));
  if (!same.ok()) return same.Annotate("the adapter does not fit the base model");
  StateDict merged;
  for (const auto& [name, tensor] : base.tensors) merged.emplace(name, ToStateTensor(tensor));
  for (const auto& [name, tensor] : base.packed) merged.emplace(name, ToStateTensor(tensor->Dense(torch::kFloat32)));
  torch::NoGradGuard no_grad;
  for (const TargetModule& target : *targets) {
    torch::Tensor a = Leaf(adapter.find(LoraAKey(target.path))->second);
    torch::Tensor b = Leaf(adapter.find(LoraBKey(target.path))->second);
    const torch::Tensor weight = DenseWeight(base, target.path + ".weight").to(torch::kCPU, torch::kFloat32);
    const torch::Tensor change = config.scaling() * torch::matmul(b, a);
    const bool stored_transposed = Transposed(base.spec, target.path);
    merged[target.path + ".weight"] = ToStateTensor(weight + (stored_transposed ? change.t() : change));
  }
  return merged;
}

}  // namespace heddle::peft
