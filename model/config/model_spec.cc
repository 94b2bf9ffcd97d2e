#include "model/config/model_spec.h"

#include <algorithm>
#include <cmath>

#include "common/float_convert.h"

namespace heddle::model {
namespace {

// Lists a model's parameters, or only its linear layers.
class Lister {
 public:
  explicit Lister(const ModelSpec& spec) : spec_(spec) {}

  void All() {
    const ModelPart& part = spec_.part;
    if (part.embeddings) {
      Embeddings();
    } else if (part.head && spec_.TiedHead()) {
      Add(spec_.token_embedding, {spec_.vocab_size, spec_.EmbeddingSize()});
    }
    for (const int64_t i : spec_.Layers()) Layer(spec_.LayerPath(i));
    if (!part.head) return;
    Norm(spec_.final_norm, spec_.hidden_size);
    Linear(spec_.project_out, spec_.EmbeddingSize(), spec_.hidden_size, false, false);
    Head();
  }

  StateDictSpec parameters;
  std::vector<LinearSpec> linears;

 private:
  void Add(const std::string& name, Shape shape) {
    if (!name.empty()) parameters[name] = {DType::kF32, std::move(shape)};
  }
  void Norm(const std::string& path, int64_t width) {
    if (path.empty() || !spec_.norm_weights) return;
    Add(path + ".weight", {width});
    if (spec_.norm == NormKind::kLayer) Add(path + ".bias", {width});
  }
  void Linear(const std::string& path, int64_t out, int64_t in, bool bias, bool transposed, bool output = false) {
    if (path.empty()) return;
    Add(path + ".weight", transposed ? Shape{in, out} : Shape{out, in});
    if (bias) Add(path + ".bias", {out});
    linears.push_back({path, in, out, bias, transposed, output});
  }

  void Embeddings() {
    const ModelSpec& s = spec_;
    Add(s.token_embedding, {s.vocab_size, s.EmbeddingSize()});
    Add(s.type_embedding, {s.type_vocab_size, s.hidden_size});
    if (s.TakesImages()) {
      const PatchSpec& p = s.patches;
      Add(p.projection + ".weight", {s.hidden_size, p.channels, p.patch_size, p.patch_size});
      Add(p.projection + ".bias", {s.hidden_size});
      Add(p.class_token, {1, 1, s.hidden_size});
      Add(p.distillation_token, {1, 1, s.hidden_size});
      Add(s.positions.name, {1, p.NumTokens(), s.hidden_size});
    } else {
      Add(s.positions.name, {s.PositionRows(), s.hidden_size});
    }
    Linear(s.project_in, s.hidden_size, s.EmbeddingSize(), false, false);
    Norm(s.embedding_norm, s.hidden_size);
  }

  void Layer(const std::string& path) {
    const ModelSpec& s = spec_;
    const LayerNames& n = s.layer;
    const bool t = s.transposed_linears;
    const int64_t queries = s.num_attention_heads * s.head_dim, keys = s.num_key_value_heads * s.head_dim;
    Norm(path + n.attention_norm, s.hidden_size);
    Norm(path + n.mlp_norm, s.hidden_size);
    if (s.qkv_layout == QkvLayout::kSeparate) {
      Linear(path + n.query, queries, s.hidden_size, s.qkv_bias, t);
      Linear(path + n.key, keys, s.hidden_size, s.qkv_bias, t);
      Linear(path + n.value, keys, s.hidden_size, s.qkv_bias, t);
    } else {
      Linear(path + n.qkv, queries + 2 * keys, s.hidden_size, s.qkv_bias, t);
    }
    Linear(path + n.attention_out, s.hidden_size, queries, s.attention_out_bias, t);
    if (s.gated_mlp) Linear(path + n.gate, s.intermediate_size, s.hidden_size, s.mlp_bias, t);
    Linear(path + n.up, s.intermediate_size, s.hidden_size, s.mlp_bias, t);
    Linear(path + n.down, s.hidden_size, s.intermediate_size, s.mlp_bias, t);
  }

  void Head() {
    const ModelSpec& s = spec_;
    const bool words = s.head.task == Task::kCausalLm || s.head.task == Task::kMaskedLm;
    const int64_t out = words ? s.vocab_size : s.num_labels;
    Linear(s.head.dense, s.hidden_size, s.hidden_size, true, false);
    Norm(s.head.norm, s.hidden_size);
    if (s.head.output.empty()) return;
    if (!s.TiedHead()) Linear(s.head.output, out, words ? s.EmbeddingSize() : s.hidden_size, false, false, true);
    if (!s.head.output_bias) return;
    Add(s.head.output_bias_name.empty() ? s.head.output + ".bias" : s.head.output_bias_name, {out});
    if (!s.TiedHead() && s.head.output_bias_name.empty()) linears.back().bias = true;
    Linear(s.head.second_output, out, s.hidden_size, true, false, true);
  }

  const ModelSpec& spec_;
};

std::string Of(const char* name, int64_t value) { return std::string(name) + " (" + std::to_string(value) + ")"; }

}  // namespace

int64_t PatchSpec::NumTokens() const {
  if (projection.empty() || patch_size == 0) return 0;
  const int64_t side = image_size / patch_size;
  return side * side + (class_token.empty() ? 0 : 1) + (distillation_token.empty() ? 0 : 1);
}

int64_t ModelSpec::RotaryDims() const {
  return rotary.on ? static_cast<int64_t>(static_cast<double>(head_dim) * rotary.fraction) : 0;
}

int64_t ModelSpec::PositionRows() const { return positions.rows > 0 ? positions.rows : max_position_embeddings; }

int64_t ModelSpec::MaxLength() const {
  if (TakesImages()) return patches.NumTokens();
  if (!rotary.on || rotary.scaling == RotaryScaling::kNone) return max_position_embeddings;
  const int64_t original = rotary.original_positions > 0 ? rotary.original_positions : max_position_embeddings;
  const double scaled = static_cast<double>(original) * rotary.factor;
  const auto longest = static_cast<int64_t>(std::min(scaled, static_cast<double>(kMaxPositions)));
  return std::max(max_position_embeddings, longest);
}

int64_t ModelSpec::WindowOf(int64_t index) const { return index >= full_attention_layers ? sliding_window : 0; }

std::string ModelSpec::LayerPath(int64_t index) const {
  const size_t at = layer.path.find("{}");
  if (at == std::string::npos) return layer.path + ".";
  return layer.path.substr(0, at) + std::to_string(index) + layer.path.substr(at + 2) + ".";
}

bool ModelSpec::TiedHead() const {
  return tie_word_embeddings && (head.task == Task::kCausalLm || head.task == Task::kMaskedLm);
}

bool ModelSpec::IsWhole() const {
  return part.embeddings && part.head && static_cast<int64_t>(Layers().size()) == num_hidden_layers;
}

std::vector<int64_t> ModelSpec::Layers() const {
  if (!part.layers.empty()) return part.layers;
  std::vector<int64_t> all;
  for (int64_t i = part.first_layer; i < EndLayer(); ++i) all.push_back(i);
  return all;
}

int64_t ModelSpec::EndLayer() const { return part.end_layer < 0 ? num_hidden_layers : part.end_layer; }

ModelSpec ModelSpec::Whole() const {
  ModelSpec whole = *this;
  whole.part = ModelPart();
  return whole;
}

StateDictSpec ModelSpec::WeightSpec() const {
  Lister lister(*this);
  lister.All();
  return std::move(lister.parameters);
}

std::vector<LinearSpec> ModelSpec::LinearModules() const {
  Lister lister(*this);
  lister.All();
  std::sort(lister.linears.begin(), lister.linears.end(),
            [](const LinearSpec& a, const LinearSpec& b) { return a.path < b.path; });
  return std::move(lister.linears);
}

int64_t ModelSpec::NumParameters() const {
  int64_t total = 0;
  for (const auto& [name, tensor] : WeightSpec()) {
    const Result<int64_t> count = NumElements(tensor.shape);
    if (count.ok()) total += *count;
  }
  return total;
}

std::string ModelSpec::NameOf(std::string_view name) const {
  if (name.ends_with("LayerNorm.gamma")) return NameOf(std::string(name.substr(0, name.size() - 5)) + "weight");
  if (name.ends_with("LayerNorm.beta")) return NameOf(std::string(name.substr(0, name.size() - 4)) + "bias");
  for (const std::string& ending : ignored_endings) {
    if (name.ends_with(ending)) return "";
  }
  for (const std::string& beginning : ignored_beginnings) {
    if (name.starts_with(beginning)) return "";
  }
  if (TiedHead() && name == head.output + ".weight") return "";
  if (!surplus_prefix.empty() && name.starts_with(surplus_prefix))
    return std::string(name.substr(surplus_prefix.size()));
  // The head is saved beside the body, so its names never have the body's prefix.
  const auto of_head = [name](const std::string& path) { return !path.empty() && name.starts_with(path + "."); };
  if (name.starts_with(prefix) || of_head(head.dense) || of_head(head.norm) || of_head(head.output) ||
      of_head(head.second_output) || name == head.output_bias_name) {
    return std::string(name);
  }
  return prefix + std::string(name);
}

std::map<std::string, std::string, std::less<>> ModelSpec::NamesOf(const StateDictSpec& checkpoint) const {
  std::map<std::string, std::string, std::less<>> names;
  bool embedding = false;
  const StateDictSpec parameters = fresh.empty() ? StateDictSpec() : WeightSpec();
  for (const auto& [name, tensor] : checkpoint) {
    std::string ours = NameOf(name);
    if (ours.empty()) continue;
    if (IsFresh(ours)) {  // that of another head holds nothing for the new one
      const auto parameter = parameters.find(ours);
      if (parameter != parameters.end() && parameter->second.shape != tensor.shape) continue;
    }
    embedding = embedding || ours == token_embedding;
    names.emplace(name, std::move(ours));
  }
  if (const std::string output = head.output + ".weight"; TiedHead() && !embedding && checkpoint.contains(output)) {
    names.emplace(output, token_embedding);
  }
  return names;
}

bool ModelSpec::MayBeAbsent(std::string_view name) const {
  return std::find(optional.begin(), optional.end(), name) != optional.end();
}

bool ModelSpec::IsFresh(std::string_view name) const {
  return std::find(fresh.begin(), fresh.end(), name) != fresh.end();
}

Status ModelSpec::CheckTensors(const StateDictSpec& checkpoint) const {
  constexpr const char* kOneModel = "; copy config.json and weights from one model";
  const StateDictSpec expected = WeightSpec();
  const StateDictSpec known = IsWhole() ? expected : Whole().WeightSpec();
  std::map<std::string, const TensorSpec*, std::less<>> found;
  for (const auto& [name, ours] : NamesOf(checkpoint)) {
    if (!known.contains(ours)) {
      return InvalidArgument("the weights hold " + name + ", which a " + architecture +
                             " with this config.json does not have" + kOneModel);
    }
    if (!found.emplace(ours, &checkpoint.find(name)->second).second) {
      return InvalidArgument("the weights hold " + ours + " twice, also under the name " + name);
    }
  }
  for (const auto& [name, tensor] : expected) {
    const auto it = found.find(name);
    if (it == found.end()) {
      if (MayBeAbsent(name) || IsFresh(name)) continue;
      return InvalidArgument("the weights lack " + name + ", which config.json asks for" + kOneModel);
    }
    if (it->second->shape != tensor.shape) {
      return InvalidArgument(name + " has shape " + ShapeToString(it->second->shape) +
                             " in the weights, but config.json asks for " + ShapeToString(tensor.shape) + kOneModel);
    }
    if (!IsFloat(it->second->dtype)) {
      return InvalidArgument(name + " is " + std::string(DTypeName(it->second->dtype)) +
                             " in the weights, but must be F32, F16, BF16 or F64");
    }
  }
  return OkStatus();
}

Status ModelSpec::Check() const {
  if (part.first_layer < 0 || part.first_layer > EndLayer() || EndLayer() > num_hidden_layers) {
    return InvalidArgument("a part of layers " + std::to_string(part.first_layer) + " to " +
                           std::to_string(EndLayer()) + " does not lie within the model's " +
                           std::to_string(num_hidden_layers));
  }
  for (size_t i = 0; i < part.layers.size(); ++i) {
    const int64_t layer = part.layers[i], least = i == 0 ? 0 : part.layers[i - 1] + 1;
    if (layer >= least && layer < num_hidden_layers) continue;
    return InvalidArgument("layer " + std::to_string(layer) + " of a part must be from " + std::to_string(least) +
                           " (they rise) to " + std::to_string(num_hidden_layers - 1) + ", the model's last");
  }
  if (num_attention_heads < 1 || num_key_value_heads < 1 || head_dim < 1 || hidden_size < 1) {
    return InvalidArgument("config.json: a model needs a hidden size and attention heads");
  }
  if (num_attention_heads % num_key_value_heads != 0) {
    return InvalidArgument("config.json: " + Of("num_attention_heads", num_attention_heads) +
                           " must be a multiple of " + Of("num_key_value_heads", num_key_value_heads));
  }
  if (num_attention_heads * head_dim > kMaxWidth) {
    return InvalidArgument("config.json: num_attention_heads times head_dim is above " + std::to_string(kMaxWidth));
  }
  if (rotary.on && (RotaryDims() < 2 || RotaryDims() % 2 != 0)) {
    return InvalidArgument("config.json: rotary positions turn " + std::to_string(RotaryDims()) + " dimensions of " +
                           Of("head_dim", head_dim) + ", but need an even number of them");
  }
  int64_t largest = std::max({bos_token_id, eos_token_id, pad_token_id});
  for (const int64_t id : more_eos_token_ids) largest = std::max(largest, id);
  if (vocab_size > 0 && largest >= vocab_size) {
    return InvalidArgument("config.json: bos_token_id, eos_token_id and pad_token_id must be below " +
                           Of("vocab_size", vocab_size));
  }
  if (TakesImages() &&
      (patches.patch_size < 1 || patches.image_size < patches.patch_size || patches.image_size > kMaxImageSize ||
       patches.channels < 1 || patches.channels > kMaxChannels)) {
    return InvalidArgument("config.json: " + Of("patch_size", patches.patch_size) + " must be from 1 to " +
                           Of("image_size", patches.image_size) + ", that at most " + std::to_string(kMaxImageSize) +
                           ", and " + Of("num_channels", patches.channels) + " from 1 to " +
                           std::to_string(kMaxChannels));
  }
  return OkStatus();
}

std::string_view ActivationName(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return "silu";
    case Activation::kGelu:
      return "gelu";
    case Activation::kGeluTanh:
      return "gelu_new";
    case Activation::kQuickGelu:
      return "quick_gelu";
    case Activation::kRelu:
      return "relu";
    case Activation::kTanh:
      return "tanh";
    case Activation::kNone:
      break;
  }
  return "linear";
}

}  // namespace heddle::model
