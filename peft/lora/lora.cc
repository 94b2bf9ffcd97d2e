#include "peft/lora/lora.h"

#include <map>

namespace heddle::peft {

Status InjectLora(model::Transformer& model, const AdapterConfig& config, const StateDict& adapter) {
  HEDDLE_RETURN_IF_ERROR(config.Validate());
  auto expected = AdapterSpec(model->spec(), config);
  if (!expected.ok()) return expected.status();
  Status same = CheckSameSpec(*expected, SpecOf(adapter));
  if (!same.ok()) return same.Annotate("the adapter does not fit the base model");
  for (auto& [path, linear] : model->LinearModules()) linear->lora_A = linear->lora_B = torch::Tensor();
  return Tuning::Inject(model, config, adapter).status();
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

}  // namespace heddle::peft
