// Any bytes as adapter_config.json: refused, or a configuration that is written and read back the same, and whose
// targets can be found in a model in a bounded time.
#include "peft/adapter/adapter.h"

#include <cmath>

#include "model/config/registry.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using heddle::peft::AdapterConfig;

namespace {

const std::vector<heddle::model::ModelSpec>& Models() {
  static const auto models = [] {
    std::vector<heddle::model::ModelSpec> out;
    for (const char* architecture : {"LlamaForCausalLM", "BertForSequenceClassification"}) {
      const auto spec = heddle::model::ParseModelConfig(
          R"({"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8,
              "vocab_size": 9, "max_position_embeddings": 16, "architectures": [")" +
          std::string(architecture) + "\"]}");
      Require(spec.ok(), "the models are models", spec.status().message());
      out.push_back(*spec);
    }
    return out;
  }();
  return models;
}

// Both find the same tensors in a model, each once and of a size, or none.
void CheckSlots(const AdapterConfig& first, const AdapterConfig& second) {
  for (const heddle::model::ModelSpec& spec : Models()) {
    const auto slots = heddle::peft::ListSlots(spec, first);
    const auto again = heddle::peft::ListSlots(spec, second);
    Require(slots.ok() == again.ok(), "both fit a model, or none");
    const heddle::Status strictly = heddle::peft::CheckNames(spec, first);
    Require(slots.ok() || !strictly.ok(), "what a file may not say a recipe may not");
    Require(strictly.ok() == heddle::peft::CheckNames(spec, second).ok(), "a recipe may say both, or none");
    if (!slots.ok()) {
      Require(!slots.status().message().empty(), "a refusal says why");
      continue;
    }
    Require(slots->size() == again->size(), "the same tensors");
    for (size_t i = 0; i < slots->size(); ++i) {
      Require((*slots)[i].key == (*again)[i].key && (*slots)[i].shape == (*again)[i].shape, "of the same shapes");
      Require(i == 0 || (*slots)[i - 1].key < (*slots)[i].key, "each once, in order", (*slots)[i].key);
      Require(heddle::NumElements((*slots)[i].shape).ok(), "of a size", (*slots)[i].key);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::string> unknown;
  const auto first = AdapterConfig::FromJson({reinterpret_cast<const char*>(data), size}, &unknown);
  if (!first.ok()) {
    Require(first.status().code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument");
    return 0;
  }
  if (first->kind() == heddle::peft::TuningKind::kLora) {
    Require(std::isfinite(first->scaling()) && first->scaling() > 0, "the scaling is a positive number");
  }
  const std::string written = first->ToJson();
  const auto second = AdapterConfig::FromJson(written, &unknown);
  Require(second.ok(), "what is written can be read", written + second.status().message());
  Require(unknown.empty(), "and holds no key that is not known", written);
  // The JSON library's reading of decimals may be off in the last place.
  AdapterConfig same = *second;
  const auto near = [&written](double a, double* b) {
    Require(std::abs(a - *b) <= 1e-15 * std::abs(a), "real numbers survive", written);
    *b = a;
  };
  if (first->kind() == heddle::peft::TuningKind::kLora) {
    near(first->lora_alpha, &same.lora_alpha);
    near(first->lora_dropout, &same.lora_dropout);
    near(first->loraplus_lr_ratio, &same.loraplus_lr_ratio);
    for (const auto& [pattern, alpha] : first->alpha_pattern) near(alpha, &same.alpha_pattern[pattern]);
  }
  if (first->kind() == heddle::peft::TuningKind::kBottleneck) near(first->adapter_scaling, &same.adapter_scaling);
  Require(same.ToJson() == written, "and all else is the same", written);
  CheckSlots(*first, *second);

  if (first->kind() != heddle::peft::TuningKind::kLora) return 0;  // whose targets alone these are
  static const std::vector<heddle::model::LinearSpec> base = {{"lm_head", 6, 4, false, false, true},
                                                              {"model.layers.0.mlp.up_proj", 6, 4},
                                                              {"model.layers.0.self_attn.q_proj", 6, 4},
                                                              {"model.layers.10.self_attn.v_proj", 6, 4}};
  const auto targets = heddle::peft::FindTargets(base, *first);
  const auto again = heddle::peft::FindTargets(base, *second);
  Require(targets.ok() == again.ok(), "both find the same");
  if (!targets.ok()) return 0;
  Require(targets->size() == again->size(), "the same modules");
  Require(heddle::peft::AdapterSpec(*targets, *first).size() == 2 * targets->size(), "two factors a module");
  return 0;
}
