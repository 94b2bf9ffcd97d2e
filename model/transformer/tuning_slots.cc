#include "model/transformer/tuning_slots.h"

#include "model/transformer/functions.h"

namespace heddle::model {

using torch::Tensor;

Tensor Bottleneck::operator()(const Tensor& x) const {
  const auto type = x.scalar_type();
  const Tensor inner = Activate(at::linear(x, down.to(type), down_bias.to(type)), activation);
  const Tensor y = at::linear(inner, up.to(type), up_bias.to(type));
  return scaling == 1 ? y : y * scaling;
}

int64_t TuningSlots::PromptTokens() const {
  int64_t tokens = 0;
  for (const Tensor& prompt : prompts) tokens += prompt.size(0);
  return tokens;
}

int64_t TuningSlots::PrefixTokens() const {
  int64_t tokens = 0;
  for (const Tensor& prefix : prefixes) tokens += prefix.size(0);
  return tokens;
}

Tensor TuningSlots::Prompts(int64_t batch, at::ScalarType type) const {
  const Tensor all = (prompts.size() == 1 ? prompts[0] : at::cat(prompts, 0)).to(type);
  return all.unsqueeze(0).expand({batch, all.size(0), all.size(1)});
}

Tensor TuningSlots::Prefix(const ModelSpec& spec, int64_t layer, bool value, int64_t batch, at::ScalarType type) const {
  const int64_t width = spec.num_key_value_heads * spec.head_dim, begin = (2 * layer + (value ? 1 : 0)) * width;
  std::vector<Tensor> parts;
  for (const Tensor& prefix : prefixes) parts.push_back(prefix.slice(1, begin, begin + width));
  const Tensor rows = (parts.size() == 1 ? parts[0] : at::cat(parts, 0)).to(type);
  const Tensor heads =
      rows.reshape({rows.size(0), spec.num_key_value_heads, spec.head_dim}).transpose(0, 1).unsqueeze(0);
  return heads.expand({batch, heads.size(1), heads.size(2), heads.size(3)});
}

}  // namespace heddle::model
