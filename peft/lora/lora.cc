#include "peft/lora/lora.h"

#include <cstring>
#include <map>

namespace heddle::peft {
namespace {

StateDictSpec LinearSpecs(const std::map<std::string, model::Linear>& linears) {
  StateDictSpec spec;
  for (const auto& [path, linear] : linears) {
    spec[path + ".weight"] = {DType::kF32, {linear->weight.size(0), linear->weight.size(1)}};
  }
  return spec;
}

// A trainable copy of an F32 tensor.
torch::Tensor Leaf(const Tensor& tensor) {
  torch::Tensor out = torch::empty(tensor.shape(), torch::kFloat32);
  if (!tensor.bytes().empty()) std::memcpy(out.data_ptr<float>(), tensor.bytes().data(), tensor.bytes().size());
  return out.requires_grad_(true);
}

}  // namespace

Tensor ToStateTensor(const torch::Tensor& tensor) {
  torch::Tensor dense = tensor.detach().to(torch::kCPU, torch::kFloat32).contiguous();
  return Tensor::FromFloats(Shape(dense.sizes().begin(), dense.sizes().end()),
                            {dense.data_ptr<float>(), static_cast<size_t>(dense.numel())});
}

Status InjectLora(model::Llama& model, const AdapterConfig& config, const StateDict& adapter) {
  HEDDLE_RETURN_IF_ERROR(config.Validate());
  std::map<std::string, model::Linear> linears = model->LinearModules();
  auto targets = FindTargets(LinearSpecs(linears), config);
  if (!targets.ok()) return targets.status();
  Status same = CheckSameSpec(AdapterSpec(*targets, config), SpecOf(adapter));
  if (!same.ok()) return same.Annotate("the adapter does not fit the base model");
  for (auto& parameter : model->parameters()) parameter.requires_grad_(false);
  for (auto& [path, linear] : linears) linear->lora_A = linear->lora_B = torch::Tensor();
  for (const TargetModule& target : *targets) {
    model::Linear linear = linears.at(target.path);
    linear->lora_A = Leaf(adapter.find(LoraAKey(target.path))->second);
    linear->lora_B = Leaf(adapter.find(LoraBKey(target.path))->second);
    linear->scaling = config.scaling();
    linear->dropout = config.lora_dropout;
  }
  return OkStatus();
}

std::vector<std::pair<std::string, torch::Tensor>> LoraParameters(model::Llama& model) {
  std::map<std::string, torch::Tensor> ordered;
  for (auto& [path, linear] : model->LinearModules()) {
    if (!linear->lora_A.defined()) continue;
    ordered[LoraAKey(path)] = linear->lora_A;
    ordered[LoraBKey(path)] = linear->lora_B;
  }
  return {ordered.begin(), ordered.end()};
}

StateDict ExtractLora(model::Llama& model) {
  StateDict out;
  for (const auto& [key, tensor] : LoraParameters(model)) out.emplace(key, ToStateTensor(tensor));
  return out;
}

Result<StateDict> MergeLora(const model::BaseWeights& base, const AdapterConfig& config, const StateDict& adapter) {
  HEDDLE_RETURN_IF_ERROR(config.Validate());
  StateDictSpec spec;
  for (const auto& [name, tensor] : base.tensors) {
    spec[name] = {DType::kF32, Shape(tensor.sizes().begin(), tensor.sizes().end())};
  }
  auto targets = FindTargets(spec, config);
  if (!targets.ok()) return targets.status();
  Status same = CheckSameSpec(AdapterSpec(*targets, config), SpecOf(adapter));
  if (!same.ok()) return same.Annotate("the adapter does not fit the base model");
  StateDict merged;
  for (const auto& [name, tensor] : base.tensors) merged.emplace(name, ToStateTensor(tensor));
  torch::NoGradGuard no_grad;
  for (const TargetModule& target : *targets) {
    torch::Tensor a = Leaf(adapter.find(LoraAKey(target.path))->second);
    torch::Tensor b = Leaf(adapter.find(LoraBKey(target.path))->second);
    const torch::Tensor& weight = base.tensors.at(target.path + ".weight");
    merged[target.path + ".weight"] = ToStateTensor(weight + config.scaling() * torch::matmul(b, a));
  }
  return merged;
}

}  // namespace heddle::peft
