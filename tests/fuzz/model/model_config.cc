// Any bytes as a model's config.json: refused, or a configuration that is written and read back the same.
#include "model/model_config.h"

#include <cmath>

#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using heddle::model::LlamaConfig;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto first = LlamaConfig::FromJson({reinterpret_cast<const char*>(data), size});
  if (!first.ok()) {
    Require(!first.status().message().empty(), "a refusal says why");
    return 0;
  }
  const std::string written = first->ToJson();
  const auto second = LlamaConfig::FromJson(written);
  Require(second.ok(), "what is written can be read", second.status().message());
  // The JSON library's reading of decimals may be off in the last place.
  const auto near = [](double a, double b) { return std::abs(a - b) <= 1e-15 * std::abs(a); };
  Require(near(first->rms_norm_eps, second->rms_norm_eps) && near(first->rope_theta, second->rope_theta),
          "real numbers survive", written);
  LlamaConfig same = *second;
  same.rms_norm_eps = first->rms_norm_eps;
  same.rope_theta = first->rope_theta;
  Require(same.ToJson() == written, "and all else is the same", written);
  if (first->num_hidden_layers > 16) return 0;
  for (const auto& [name, spec] : first->WeightSpec())
    Require(heddle::NumElements(spec.shape).ok(), "every tensor has a size", name);
  return 0;
}
