// Any bytes as adapter_config.json: refused, or a configuration that is written and read back the same, and whose
// targets can be found in a model in a bounded time.
#include "peft/adapter/adapter.h"

#include <cmath>

#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using heddle::peft::AdapterConfig;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::string> unknown;
  const auto first = AdapterConfig::FromJson({reinterpret_cast<const char*>(data), size}, &unknown);
  if (!first.ok()) {
    Require(first.status().code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument");
    return 0;
  }
  Require(std::isfinite(first->scaling()) && first->scaling() > 0, "the scaling is a positive number");
  const std::string written = first->ToJson();
  const auto second = AdapterConfig::FromJson(written, &unknown);
  Require(second.ok(), "what is written can be read", written + second.status().message());
  Require(unknown.empty(), "and holds no key that is not known", written);
  // The JSON library's reading of decimals may be off in the last place.
  const auto near = [](double a, double b) { return std::abs(a - b) <= 1e-15 * std::abs(a); };
  Require(near(first->lora_alpha, second->lora_alpha) && near(first->lora_dropout, second->lora_dropout),
          "real numbers survive", written);
  AdapterConfig same = *second;
  same.lora_alpha = first->lora_alpha;
  same.lora_dropout = first->lora_dropout;
  Require(same.ToJson() == written, "and all else is the same", written);

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
