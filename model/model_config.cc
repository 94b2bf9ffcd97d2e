#include "model/model_config.h"

#include <boost/json.hpp>
#include <cmath>
#include <initializer_list>

#include "common/file.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

// Far above any Llama, and small enough that no product of two overflows.
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxPositions = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 4096;

// Reads typed values out of one JSON object and keeps the first mistake.
class Reader {
 public:
  explicit Reader(const json::object& object) : object_(object) {}

  void Int(std::string_view key, int64_t* target, int64_t low, int64_t high, bool required) {
    const json::value* value = Find(key);
    if (value == nullptr) {
      if (required) Fail(InvalidArgument("config.json lacks " + std::string(key)));
      return;
    }
    // A list (Llama 3 has several end tokens) stands for its first element.
    if (value->is_array() && !value->get_array().empty()) value = &value->get_array()[0];
    json::error_code error;
    const auto number = value->to_number<int64_t>(error);
    if (error || number < low || number > high) {
      Fail(InvalidArgument("config.json: " + std::string(key) + " is " + Text(*value) +
                           ", but must be a whole number from " + std::to_string(low) + " to " + std::to_string(high)));
      return;
    }
    *target = number;
  }

  void Positive(std::string_view key, double* target) {
    const json::value* value = Find(key);
    if (value == nullptr) return;
    json::error_code error;
    const auto number = value->to_number<double>(error);
    if (error || !std::isfinite(number) || number <= 0) {
      Fail(InvalidArgument("config.json: " + std::string(key) + " is " + Text(*value) +
                           ", but must be a positive number"));
      return;
    }
    *target = number;
  }

  void Bool(std::string_view key, bool* target) {
    const json::value* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_bool()) {
      Fail(InvalidArgument("config.json: " + std::string(key) + " is " + Text(*value) + ", but must be true or false"));
      return;
    }
    *target = value->get_bool();
  }

  void String(std::string_view key, std::string* target) {
    const json::value* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_string()) {
      Fail(InvalidArgument("config.json: " + std::string(key) + " is " + Text(*value) + ", but must be a string"));
      return;
    }
    *target = std::string(value->get_string());
  }

  // null counts as absent, as in Hugging Face.
  const json::value* Find(std::string_view key) const {
    const json::value* value = object_.if_contains(key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }

  static std::string Text(const json::value& value) {
    std::string text = json::serialize(value);
    if (text.size() > 60) text = text.substr(0, 57) + "...";
    return text;
  }

  void Fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  const Status& status() const { return status_; }

 private:
  const json::object& object_;
  Status status_;
};

// What would change the numbers and is not implemented.
void RefuseUnsupported(Reader& reader, LlamaConfig& config) {
  std::string model_type = "llama", act = "silu", dtype;
  reader.String("model_type", &model_type);
  if (model_type != "llama") {
    reader.Fail(Unimplemented("config.json: model_type is \"" + model_type.substr(0, 60) +
                              "\"; only \"llama\" is supported: choose a Llama checkpoint"));
  }
  reader.String("hidden_act", &act);
  if (act != "silu" && act != "swish") {
    reader.Fail(Unimplemented("config.json: hidden_act is \"" + act.substr(0, 60) + "\"; only \"silu\" is supported"));
  }
  double partial = 1.0;
  reader.Positive("partial_rotary_factor", &partial);
  if (partial != 1.0) reader.Fail(Unimplemented("config.json: a partial_rotary_factor other than 1 is not supported"));
  if (const json::value* quantization = reader.Find("quantization_config"); quantization != nullptr) {
    reader.Fail(Unimplemented("config.json: quantization_config is not supported: use unquantised weights"));
  }
  // Older files have rope_scaling beside rope_theta, newer ones rope_parameters with both.
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json::value* rope = reader.Find(key);
    if (rope == nullptr) continue;
    if (!rope->is_object()) {
      reader.Fail(InvalidArgument(std::string("config.json: ") + key + " must be an object"));
      continue;
    }
    Reader inner(rope->get_object());
    std::string type = "default";
    inner.String("type", &type);
    inner.String("rope_type", &type);
    inner.Positive("rope_theta", &config.rope_theta);
    inner.Positive("partial_rotary_factor", &partial);
    if (type != "default" || partial != 1.0) {
      reader.Fail(Unimplemented(std::string("config.json: ") + key + " of type \"" + type.substr(0, 60) +
                                "\" is not supported: choose a model without rotary scaling"));
    }
    reader.Fail(inner.status());
  }
}

Status CheckDivisibility(const LlamaConfig& c) {
  if (c.num_attention_heads % c.num_key_value_heads != 0) {
    return InvalidArgument("config.json: num_attention_heads (" + std::to_string(c.num_attention_heads) +
                           ") must be a multiple of num_key_value_heads (" + std::to_string(c.num_key_value_heads) +
                           ")");
  }
  if (c.head_dim % 2 != 0) {
    return InvalidArgument("config.json: head_dim is " + std::to_string(c.head_dim) +
                           ", but rotary positions need an even one");
  }
  if (c.bos_token_id >= c.vocab_size || c.eos_token_id >= c.vocab_size) {
    return InvalidArgument("config.json: bos_token_id and eos_token_id must be below vocab_size (" +
                           std::to_string(c.vocab_size) + ")");
  }
  return OkStatus();
}

}  // namespace

Result<LlamaConfig> LlamaConfig::FromJson(std::string_view text) {
  json::error_code error;
  const json::value root = json::parse(text, error);  // depth limit 32
  if (error) return InvalidArgument("config.json is not valid JSON: " + error.message());
  if (!root.is_object()) return InvalidArgument("config.json must hold a JSON object");

  LlamaConfig c;
  Reader reader(root.get_object());
  RefuseUnsupported(reader, c);
  reader.Int("hidden_size", &c.hidden_size, 1, kMaxWidth, true);
  reader.Int("intermediate_size", &c.intermediate_size, 1, kMaxWidth, true);
  reader.Int("num_hidden_layers", &c.num_hidden_layers, 1, kMaxLayers, true);
  reader.Int("num_attention_heads", &c.num_attention_heads, 1, kMaxWidth, true);
  c.num_key_value_heads = c.num_attention_heads;
  reader.Int("num_key_value_heads", &c.num_key_value_heads, 1, kMaxWidth, false);
  reader.Int("head_dim", &c.head_dim, 2, kMaxWidth, false);
  reader.Int("vocab_size", &c.vocab_size, 1, kMaxVocab, true);
  c.max_position_embeddings = 2048;  // Hugging Face's default, as for the next two
  reader.Int("max_position_embeddings", &c.max_position_embeddings, 1, kMaxPositions, false);
  reader.Positive("rms_norm_eps", &c.rms_norm_eps);
  reader.Positive("rope_theta", &c.rope_theta);
  reader.Bool("tie_word_embeddings", &c.tie_word_embeddings);
  reader.Bool("attention_bias", &c.attention_bias);
  reader.Bool("mlp_bias", &c.mlp_bias);
  reader.Int("bos_token_id", &c.bos_token_id, -1, kMaxVocab, false);
  reader.Int("eos_token_id", &c.eos_token_id, -1, kMaxVocab, false);
  reader.String("dtype", &c.torch_dtype);
  reader.String("torch_dtype", &c.torch_dtype);
  HEDDLE_RETURN_IF_ERROR(reader.status());
  if (c.head_dim == 0) {
    if (c.hidden_size % c.num_attention_heads != 0) {
      return InvalidArgument("config.json: hidden_size (" + std::to_string(c.hidden_size) +
                             ") must be a multiple of num_attention_heads (" + std::to_string(c.num_attention_heads) +
                             ") unless head_dim is given");
    }
    c.head_dim = c.hidden_size / c.num_attention_heads;
  }
  if (c.num_attention_heads * c.head_dim > kMaxWidth) {
    return InvalidArgument("config.json: num_attention_heads times head_dim is above " + std::to_string(kMaxWidth));
  }
  HEDDLE_RETURN_IF_ERROR(CheckDivisibility(c));
  return c;
}

Result<LlamaConfig> LlamaConfig::Read(const std::filesystem::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(folder / "config.json", size_t{1} << 20));
  Result<LlamaConfig> config = FromJson(text);
  if (!config.ok()) return config.status().Annotate(folder.string());
  return config;
}

std::string LlamaConfig::ToJson() const {
  std::string out = "{\n  \"architectures\": [\n    \"LlamaForCausalLM\"\n  ]";
  const auto add = [&out](std::string_view key, const json::value& value) {
    out += ",\n  \"" + std::string(key) + "\": " + json::serialize(value);
  };
  const auto id = [](int64_t value) { return value < 0 ? json::value(nullptr) : json::value(value); };
  add("attention_bias", attention_bias);
  add("bos_token_id", id(bos_token_id));
  add("eos_token_id", id(eos_token_id));
  add("head_dim", head_dim);
  add("hidden_act", "silu");
  add("hidden_size", hidden_size);
  add("intermediate_size", intermediate_size);
  add("max_position_embeddings", max_position_embeddings);
  add("mlp_bias", mlp_bias);
  add("model_type", "llama");
  add("num_attention_heads", num_attention_heads);
  add("num_hidden_layers", num_hidden_layers);
  add("num_key_value_heads", num_key_value_heads);
  add("rms_norm_eps", rms_norm_eps);
  add("rope_scaling", nullptr);
  add("rope_theta", rope_theta);
  add("tie_word_embeddings", tie_word_embeddings);
  add("torch_dtype", json::string_view(torch_dtype));
  add("vocab_size", vocab_size);
  return out + "\n}\n";
}

StateDictSpec LlamaConfig::WeightSpec() const {
  StateDictSpec spec;
  const auto add = [&spec](std::string name, Shape shape) { spec[std::move(name)] = {DType::kF32, std::move(shape)}; };
  const auto linear = [&add](const std::string& path, int64_t out, int64_t in, bool bias) {
    add(path + ".weight", {out, in});
    if (bias) add(path + ".bias", {out});
  };
  const int64_t queries = num_attention_heads * head_dim, keys = num_key_value_heads * head_dim;
  add("model.embed_tokens.weight", {vocab_size, hidden_size});
  for (int64_t i = 0; i < num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    add(layer + "input_layernorm.weight", {hidden_size});
    linear(layer + "self_attn.q_proj", queries, hidden_size, attention_bias);
    linear(layer + "self_attn.k_proj", keys, hidden_size, attention_bias);
    linear(layer + "self_attn.v_proj", keys, hidden_size, attention_bias);
    linear(layer + "self_attn.o_proj", hidden_size, queries, attention_bias);
    add(layer + "post_attention_layernorm.weight", {hidden_size});
    linear(layer + "mlp.gate_proj", intermediate_size, hidden_size, mlp_bias);
    linear(layer + "mlp.up_proj", intermediate_size, hidden_size, mlp_bias);
    linear(layer + "mlp.down_proj", hidden_size, intermediate_size, mlp_bias);
  }
  add("model.norm.weight", {hidden_size});
  if (!tie_word_embeddings) add("lm_head.weight", {vocab_size, hidden_size});
  return spec;
}

}  // namespace heddle::model
