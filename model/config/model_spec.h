// What a model is, as plain data: sizes, how its blocks differ from those of other models, and under which names its
// parameters are stored. Made from config.json by one of the short files in model/architectures, and all that the
// Transformer (model/transformer), the loader, the coordinator and the adapters know about a model. Free of LibTorch.
//
// A plain value: copy, compare and change it freely; what it derives is computed when asked. Thread-safe as any value.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::model {

// Far above any model, and small enough that no product of two overflows.
inline constexpr int64_t kMaxWidth = int64_t{1} << 20;
inline constexpr int64_t kMaxVocab = int64_t{1} << 24;
inline constexpr int64_t kMaxPositions = int64_t{1} << 24;
inline constexpr int64_t kMaxLayers = 4096;
inline constexpr int64_t kMaxImageSize = int64_t{1} << 14;  // pixels a side
inline constexpr int64_t kMaxChannels = int64_t{1} << 10;

enum class Task : uint8_t { kNone, kCausalLm, kMaskedLm, kSequenceClassification, kImageClassification };
enum class NormKind : uint8_t { kRms, kLayer };
// kPre: x + f(norm(x)). kPost: norm(x + f(x)). kParallel: x + attention(norm1(x)) + mlp(norm2(x)).
enum class NormPlacement : uint8_t { kPre, kPost, kParallel };
enum class Activation : uint8_t { kNone, kSilu, kGelu, kGeluTanh, kQuickGelu, kRelu, kTanh };
// How query, key and value are stored: three matrices; one, all queries first, then keys, then values (GPT-2); one, in
// which each head has its query, key and value side by side (GPT-NeoX).
enum class QkvLayout : uint8_t { kSeparate, kBlocks, kPerHead };
enum class RotaryScaling : uint8_t { kNone, kLinear, kDynamic, kLlama3, kYarn };
// Where a learned position comes from: the index; the count of tokens so far that the attention mask has (OPT); or that
// are not padding (RoBERTa).
enum class PositionSource : uint8_t { kIndex, kMask, kNotPadding };
// Which rows of the last hidden states a head reads.
enum class Pooling : uint8_t { kAll, kFirst };

struct RotarySpec {
  bool on = false;
  double theta = 10000.0;
  double fraction = 1.0;  // of each head's dimensions, from the first
  RotaryScaling scaling = RotaryScaling::kNone;
  double factor = 1.0;
  int64_t original_positions = 0;                    // before scaling; 0: max_position_embeddings
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  double attention_factor = 0;                       // yarn; 0: from the factor
  bool truncate = true;                              // yarn: whole dimensions as limits of the ramp
  friend bool operator==(const RotarySpec&, const RotarySpec&) = default;
};

struct LearnedPositions {
  std::string name;    // of the parameter; empty: none
  int64_t rows = 0;    // of the table; 0: max_position_embeddings
  int64_t offset = 0;  // added to the position
  PositionSource source = PositionSource::kIndex;
  friend bool operator==(const LearnedPositions&, const LearnedPositions&) = default;
};

// Images cut into patches, each projected to a token. `projection` empty: the model takes ids.
struct PatchSpec {
  std::string projection;                       // module: weight [hidden, channels, patch, patch] and bias
  std::string class_token, distillation_token;  // parameters [1, 1, hidden]; empty: none
  int64_t image_size = 0, patch_size = 0, channels = 0;
  friend bool operator==(const PatchSpec&, const PatchSpec&) = default;
  int64_t NumTokens() const;  // patches and special tokens; 0 without images
};

// Names inside a layer, relative to its path; those that a model lacks are empty. Modules: ".weight" and ".bias"
// follow.
struct LayerNames {
  std::string path;  // "model.layers.{}"; {} stands for the index
  std::string attention_norm, mlp_norm;
  std::string query, key, value;  // kSeparate
  std::string qkv;                // else
  std::string attention_out;
  std::string gate, up, down;  // gate only with gated_mlp
  friend bool operator==(const LayerNames&, const LayerNames&) = default;
};

// What follows the layers and the final norm: select rows, then [dense, activation, [norm]], then output.
struct HeadSpec {
  Task task = Task::kNone;
  Pooling pooling = Pooling::kAll;
  std::string dense;  // module [hidden, hidden]; empty: none
  Activation activation = Activation::kNone;
  std::string norm;
  std::string output;        // module, weight [vocab or labels, hidden]; stored only if not tied
  bool output_bias = false;  // "<output>.bias", unless output_bias_name says where
  std::string output_bias_name;
  // Of image models: a second output layer, with bias, which reads the second row; the logits are the mean of both.
  std::string second_output;
  friend bool operator==(const HeadSpec&, const HeadSpec&) = default;
};

// A linear layer, as adapters and listings see it.
struct LinearSpec {
  std::string path;  // "model.layers.0.self_attn.q_proj"
  int64_t in = 0, out = 0;
  bool bias = false;
  bool transposed = false;  // the weight is stored as [in, out] (GPT-2's Conv1D); adapters are not
  bool output = false;      // of the head: what all-linear leaves out
};

// What of a model is here: when it is cut between a device and a server (model/config/cut.h), or when a device trains
// some of its layers as a smaller model. A part's parameters, linear layers and adapters are those of the whole under
// the same names, without the rest.
struct ModelPart {
  bool embeddings = true;
  int64_t first_layer = 0, end_layer = -1;  // layers [first_layer, end_layer); -1: to the last
  bool head = true;                         // the final norm and the head; a tied token embedding comes with it
  // Chosen layers in place of a range, rising: each computes with what the one before it here makes.
  std::vector<int64_t> layers = {};
  friend bool operator==(const ModelPart&, const ModelPart&) = default;
};

struct ModelSpec {
  std::string architecture;  // of config.json's architectures: "LlamaForCausalLM"

  int64_t hidden_size = 0, intermediate_size = 0, num_hidden_layers = 0;
  int64_t num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;  // tokens in a sequence, before rotary scaling
  int64_t embedding_size = 0;           // width of the token embedding; 0: hidden_size
  int64_t type_vocab_size = 0;          // token types; 0: none
  int64_t num_labels = 0;
  std::vector<std::string> label_names;                             // num_labels of them, or none
  int64_t bos_token_id = -1, eos_token_id = -1, pad_token_id = -1;  // -1: none
  std::vector<int64_t> more_eos_token_ids;  // chat models end their turns with others than the text
  std::string torch_dtype = "float32";
  // What config.json has above 0 of "attention_dropout", "resid_pdrop" and so on: not applied, the base is frozen and
  // computes as in evaluation, but worth saying.
  std::vector<std::string> unused_dropout;

  NormKind norm = NormKind::kRms;
  NormPlacement placement = NormPlacement::kPre;
  double norm_eps = 1e-6;
  bool norm_weights = true;  // false: layer norms without weight and bias
  Activation activation = Activation::kSilu;
  bool gated_mlp = false;
  bool causal = true;
  int64_t sliding_window = 0;         // a token sees this many, itself included; 0: all before it
  int64_t full_attention_layers = 0;  // the window holds from this layer on
  bool qkv_bias = false, attention_out_bias = false, mlp_bias = false;
  QkvLayout qkv_layout = QkvLayout::kSeparate;
  bool transposed_linears = false;  // of the layers: stored as [in, out]
  bool tie_word_embeddings = false;
  RotarySpec rotary;
  LearnedPositions positions;
  PatchSpec patches;
  HeadSpec head;

  // Names: parameters in full, modules without ".weight"; empty where there is none.
  std::string token_embedding;             // parameter
  std::string type_embedding;              // parameter
  std::string embedding_norm, final_norm;  // modules
  std::string project_in, project_out;     // modules, when embedding_size differs from hidden_size
  LayerNames layer;

  // Of checkpoints. LayerNorm.gamma and .beta, as TensorFlow wrote them, mean .weight and .bias. The body's names that
  // lack `prefix` count as having it (base models are saved without); `surplus_prefix` is taken off; names with one of
  // these endings or beginnings hold nothing that is needed.
  std::string prefix, surplus_prefix;
  std::vector<std::string> ignored_endings, ignored_beginnings;
  std::vector<std::string> optional;  // parameters that may be absent; so is then what they are for
  // Parameters of a new head, which a pretrained model's weights lack: those that are absent are zero until an adapter
  // brings them (new_head.h).
  std::vector<std::string> fresh;
  ModelPart part;  // the whole, unless it is cut

  friend bool operator==(const ModelSpec&, const ModelSpec&) = default;

  int64_t EmbeddingSize() const { return embedding_size > 0 ? embedding_size : hidden_size; }
  int64_t RotaryDims() const;                  // of each head; 0 without rotary positions
  int64_t PositionRows() const;                // of the table of learned positions
  int64_t MaxLength() const;                   // tokens in a sequence, rotary scaling counted in
  int64_t WindowOf(int64_t layer) const;       // 0: none
  std::string LayerPath(int64_t index) const;  // "model.layers.0."
  bool TakesImages() const { return !patches.projection.empty(); }
  bool TiedHead() const;  // the head's output weight is the token embedding
  bool IsWhole() const;
  // Ids or pixels in, logits out: the whole, or both ends of it and chosen layers between them.
  bool ComputesAlone() const { return IsWhole() || (part.embeddings && part.head && !part.layers.empty()); }
  int64_t EndLayer() const;             // of the part's range
  std::vector<int64_t> Layers() const;  // of the part, rising
  ModelSpec Whole() const;              // that this is a part of

  // Of the part, as all that is derived: names and shapes of the parameters (dtype F32 stands for any float type); a
  // tied output weight is not among them.
  StateDictSpec WeightSpec() const;
  // The linear layers in name order; no embeddings.
  std::vector<LinearSpec> LinearModules() const;
  // Number of parameters.
  int64_t NumParameters() const;

  // The name here of a checkpoint's tensor; empty when it holds nothing that is needed.
  std::string NameOf(std::string_view checkpoint_name) const;
  // Of a whole checkpoint: what is needed of it, and its names here. Differs from NameOf where a tied weight is stored
  // as the head's only: that is then the token embedding; and tensors that a new head has in another shape are not in
  // it.
  std::map<std::string, std::string, std::less<>> NamesOf(const StateDictSpec& checkpoint) const;
  bool MayBeAbsent(std::string_view name) const;
  bool IsFresh(std::string_view name) const;
  // Ok when a checkpoint's tensors are those of this model: names, shapes, float types. The rest of a model that is cut
  // may be there or not. Errors: kInvalidArgument, with
  // the tensor's name and both shapes.
  Status CheckTensors(const StateDictSpec& checkpoint) const;

  // Relations between the fields that every model must keep (divisibility, ids inside the vocabulary, sizes whose
  // products do not overflow). Errors: kInvalidArgument.
  Status Check() const;
};

std::string_view ActivationName(Activation activation);  // "silu", as in config.json

}  // namespace heddle::model
