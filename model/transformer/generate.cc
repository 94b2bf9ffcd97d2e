#include "model/transformer/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/random.h"

namespace heddle::model {
namespace {

Status Check(const ModelSpec& spec, std::span<const int64_t> prompt, const GenerateOptions& options) {
  if (!spec.causal || spec.head.task != Task::kCausalLm) {
    return InvalidArgument(spec.architecture + " does not generate text: choose a causal language model");
  }
  if (prompt.empty()) return InvalidArgument("the prompt has no token");
  const auto length = static_cast<int64_t>(prompt.size());
  if (length > spec.MaxLength()) {
    return InvalidArgument("the prompt has " + std::to_string(length) + " tokens, the model takes at most " +
                           std::to_string(spec.MaxLength()));
  }
  for (const int64_t id : prompt) {
    if (id < 0 || id >= spec.vocab_size) {
      return InvalidArgument("the prompt has the id " + std::to_string(id) + ", but the model's vocabulary has " +
                             std::to_string(spec.vocab_size) + " tokens");
    }
  }
  if (!std::isfinite(options.temperature) || options.temperature < 0) {
    return InvalidArgument("the temperature must be a finite number from 0");
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) return InvalidArgument("top_p must be above 0 and at most 1");
  if (options.top_k < 0) return InvalidArgument("top_k must be at least 0");
  return OkStatus();
}

}  // namespace

int64_t SampleToken(const torch::Tensor& logits, const GenerateOptions& options, double uniform) {
  if (options.temperature == 0) return logits.argmax().item<int64_t>();
  const torch::Tensor wide = logits.to(at::TensorOptions(at::kDouble).device(at::kCPU)).contiguous();
  const double* values = wide.data_ptr<double>();
  std::vector<int64_t> order(static_cast<size_t>(wide.numel()));
  std::iota(order.begin(), order.end(), 0);
  // Of equal ones the smaller id first, so that the order is the same everywhere.
  std::sort(order.begin(), order.end(),
            [values](int64_t a, int64_t b) { return values[a] != values[b] ? values[a] > values[b] : a < b; });
  if (options.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(options.top_k)));
  std::vector<double> weights;
  double total = 0;
  for (const int64_t id : order) {
    weights.push_back(std::exp((values[id] - values[order[0]]) / options.temperature));
    total += weights.back();
  }
  double held = 0;
  size_t left = 0;
  while (left < weights.size() && (left == 0 || held < options.top_p * total)) held += weights[left++];
  double rest = uniform * held;
  for (size_t i = 0; i + 1 < left; ++i) {
    rest -= weights[i];
    if (rest < 0) return order[i];
  }
  return order[left - 1];
}

Result<std::vector<int64_t>> Generate(Transformer& model, std::span<const int64_t> prompt,
                                      const GenerateOptions& options) {
  const ModelSpec& spec = model->spec();
  HEDDLE_RETURN_IF_ERROR(Check(spec, prompt, options));
  torch::NoGradGuard no_grad;
  KvCache cache;
  PhiloxStream random(DeriveSeed(options.seed, "generate", ""));
  const auto row = [&model](std::span<const int64_t> ids) {
    const auto length = static_cast<int64_t>(ids.size());
    return torch::tensor(at::ArrayRef<int64_t>(ids.data(), ids.size()), at::kLong)
        .view({1, length})
        .to(model->device());
  };
  std::vector<int64_t> out;
  torch::Tensor logits = model->Decode(ModelInput{.ids = row(prompt)}, &cache);
  while (static_cast<int64_t>(out.size()) < options.max_new_tokens) {
    const int64_t token = SampleToken(logits[0], options, random.NextUniform());
    if (std::find(options.stop.begin(), options.stop.end(), token) != options.stop.end()) break;
    out.push_back(token);
    if (options.on_token && !options.on_token(token)) break;
    if (static_cast<int64_t>(out.size()) == options.max_new_tokens) break;
    if (cache.length >= spec.MaxLength()) {
      if (options.on_limit) options.on_limit();
      break;
    }
    logits = model->Decode(ModelInput{.ids = row({&token, 1})}, &cache);
  }
  return out;
}

}  // namespace heddle::model
