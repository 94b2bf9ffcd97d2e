#include "model/config/memory_estimate.h"

#include <algorithm>

namespace heddle::model {
namespace {

// Widths as real numbers: products of a large model's do not fit 64 bits of bytes.
struct Widths {
  explicit Widths(const ModelSpec& spec, const MemorySettings& settings)
      : length(static_cast<double>(spec.TakesImages() ? spec.patches.NumTokens() : settings.length)),
        tokens(static_cast<double>(settings.batch) * length),
        hidden(static_cast<double>(spec.hidden_size)),
        mlp(static_cast<double>(spec.intermediate_size)),
        query(static_cast<double>(spec.num_attention_heads * spec.head_dim)),
        key(static_cast<double>(spec.num_key_value_heads * spec.head_dim)),
        scores(static_cast<double>(spec.num_attention_heads) * length),
        layers(static_cast<double>(spec.Layers().size())) {}
  double length, tokens, hidden, mlp, query, key, scores, layers;
};

double WeightBytes(const ModelSpec& spec, WeightType type) {
  double matrices = 0;  // of the layers, which are what is packed
  for (const LinearSpec& linear : spec.LinearModules()) {
    if (!linear.output) matrices += static_cast<double>(linear.in) * static_cast<double>(linear.out);
  }
  const double others = static_cast<double>(spec.NumParameters()) - matrices;
  return matrices * BytesPerWeight(type) + others * (type == WeightType::kBfloat16 ? 2 : 4);
}

bool EndsWithModule(const std::string& path, const std::string& name) {
  return !name.empty() && path.ends_with("." + name);
}

// Of one token in one layer: the inputs of trained linear layers that nothing else keeps.
double TrainedInputs(const ModelSpec& spec, const std::vector<LinearSpec>& trained, int64_t rank, const Widths& w) {
  double sum = 0;
  bool attention_input = false, mlp_input = false, out_input = false, down_input = false;
  const LayerNames& names = spec.layer;
  for (const LinearSpec& linear : trained) {
    if (linear.output) continue;
    sum += static_cast<double>(rank) / w.layers;
    for (const std::string* name : {&names.query, &names.key, &names.value, &names.qkv})
      attention_input = attention_input || EndsWithModule(linear.path, *name);
    out_input = out_input || EndsWithModule(linear.path, names.attention_out);
    down_input = down_input || EndsWithModule(linear.path, names.down);
    for (const std::string* name : {&names.gate, &names.up})
      mlp_input = mlp_input || EndsWithModule(linear.path, *name);
  }
  // What ReLU makes is all that its own way back needs, and is kept already.
  const bool own_down_input = down_input && (spec.gated_mlp || spec.activation != Activation::kRelu);
  return sum + (attention_input ? w.hidden : 0) + (mlp_input ? w.hidden : 0) + (out_input ? w.query : 0) +
         (own_down_input ? w.mlp : 0);
}

// Of the head. The cases are those of Head::WordLoss and LinearCrossEntropy. `copies`: of the rows where the loss does
// not work in pieces; `adapted`: the output layer has factors.
double LogitBytes(const ModelSpec& spec, double copies, bool adapted, const Widths& w, const MemorySettings& settings) {
  const Task task = spec.head.task;
  if (task != Task::kCausalLm && task != Task::kMaskedLm)
    return 4 * static_cast<double>(settings.batch * std::max<int64_t>(spec.num_labels, 1));
  constexpr double kMasked = 0.15;  // of the tokens (Devlin et al., 1810.04805)
  const double rows = task == Task::kMaskedLm ? kMasked * w.tokens : w.tokens;
  const int64_t vocab = std::max<int64_t>(spec.vocab_size, 1);
  const double row = 4 * static_cast<double>(vocab);
  if (spec.head.output_bias || adapted || settings.tangents) return copies * row * rows;
  return (settings.bf16 ? 1.5 : 1) * row * std::min(rows, static_cast<double>(LossRows(vocab)));
}

// Elements of a token.
double Kept(const ModelSpec& spec, const std::vector<LinearSpec>& trained, int64_t rank, const Widths& w) {
  const double of_mlp = !spec.gated_mlp ? w.mlp : spec.activation == Activation::kSilu ? 2 * w.mlp : 3 * w.mlp;
  return 2 * w.hidden + w.query + 2 * w.key + w.scores + of_mlp + TrainedInputs(spec, trained, rank, w);
}

// Bytes. What is kept, and on top the larger of two things that are never there together.
double TrainingActivations(const ModelSpec& spec, const std::vector<LinearSpec>& trained, int64_t rank, bool adapted,
                           const MemorySettings& settings, const Widths& w) {
  const double layer = Kept(spec, trained, rank, w);
  double backward = std::max(2 * w.scores + 2 * w.query + 2 * w.key, 3 * w.mlp) + 2 * w.hidden;
  if (settings.checkpoint) backward += layer;  // which is computed again, when the logits are gone
  const double kept = w.layers * (settings.checkpoint ? w.hidden : layer);
  const double a = settings.bf16 ? 2 : 4;
  return a * w.tokens * (kept + 3 * w.hidden) +
         std::max(a * w.tokens * backward, LogitBytes(spec, 3, adapted, w, settings));
}

double ForwardActivations(const ModelSpec& spec, const MemorySettings& settings, const Widths& w) {
  const double attention = 2 * (w.query + w.key) + w.key + 2 * w.scores + w.query;
  const double a = settings.bf16 ? 2 : 4, both = settings.tangents ? 2 : 1;
  return both * a * w.tokens * 3 * w.hidden + std::max(both * a * w.tokens * std::max(attention, 3 * w.mlp),
                                                       LogitBytes(spec, both == 2 ? 5 : 2, false, w, settings));
}

}  // namespace

std::string_view MemoryUseName(MemoryUse use) {
  switch (use) {
    case MemoryUse::kInference:
      return "inference";
    case MemoryUse::kLora:
      return "lora";
    case MemoryUse::kZerothOrder:
      return "zeroth_order";
    case MemoryUse::kFull:
      return "full";
  }
  return "";
}

double KeptOfALayer(const ModelSpec& spec, const MemorySettings& settings) {
  return Kept(spec, settings.targets, settings.rank, Widths(spec, settings));
}

double FrontBytes(const ModelSpec& spec, const MemorySettings& settings) {
  const Widths w(spec, settings);
  return (settings.bf16 ? 2 : 4) * w.length * w.hidden;
}

int64_t LossRows(int64_t vocab) {
  constexpr int64_t kLogitsForCache = int64_t{1} << 19, kRowsForSpeed = 256, kMostLogits = int64_t{1} << 24;
  const int64_t least = std::max<int64_t>(32, std::min(kRowsForSpeed, kMostLogits / vocab));
  return std::clamp<int64_t>(kLogitsForCache / vocab, least, 4096);
}

int64_t LoraParameters(const std::vector<LinearSpec>& targets, int64_t rank) {
  int64_t sum = 0;
  for (const LinearSpec& linear : targets) sum += rank * (linear.in + linear.out);
  return sum;
}

MemoryEstimate EstimateMemory(const ModelSpec& spec, MemoryUse use, const MemorySettings& settings) {
  const Widths w(spec, settings);
  MemoryEstimate out;
  out.weights =
      use == MemoryUse::kFull ? 4.0 * static_cast<double>(spec.NumParameters()) : WeightBytes(spec, settings.base);
  switch (use) {
    case MemoryUse::kInference:
      out.activations = ForwardActivations(spec, settings, w);
      break;
    case MemoryUse::kZerothOrder:
      out.activations =
          ForwardActivations(spec, settings, w) + static_cast<double>(settings.batch) * FrontBytes(spec, settings);
      break;
    case MemoryUse::kLora: {
      const auto trained = static_cast<double>(LoraParameters(settings.targets, settings.rank));
      out.gradients = 4 * trained;
      out.optimizer = 8 * trained;
      out.weights += 4 * trained;
      const bool adapted = std::any_of(settings.targets.begin(), settings.targets.end(),
                                       [](const LinearSpec& linear) { return linear.output; });
      out.activations = TrainingActivations(spec, settings.targets, settings.rank, adapted, settings, w);
      break;
    }
    case MemoryUse::kFull: {
      const auto trained = static_cast<double>(spec.NumParameters());
      out.gradients = 4 * trained;
      out.optimizer = 8 * trained;
      out.activations = TrainingActivations(spec, spec.LinearModules(), 0, false, settings, w);
      break;
    }
  }
  return out;
}

}  // namespace heddle::model
