// What a Transformer is put together from, each made from a ModelSpec: the tree of parameters under Hugging Face's
// names, the embeddings, one layer. Internal to model/transformer; the interface is transformer.h.
//
// One thread at a time. Include only from translation units of targets with TORCH.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/config/model_spec.h"
#include "model/transformer/input.h"
#include "model/transformer/linear.h"
#include "model/transformer/tuning_slots.h"

namespace heddle::model {

// Where a new module's tensors come from: a frozen base, or a seed.
struct WeightSource {
  std::function<torch::Tensor(const std::string& name)> dense;  // undefined when the name is not there
  std::function<std::shared_ptr<const FrozenWeight>(const std::string& name)> packed;  // null when it is dense
  bool trainable = false;
};

// Registers parameters and linear layers under dotted names below one root, so that named_parameters() has them as a
// checkpoint does.
class ModuleTree {
 public:
  ModuleTree(torch::nn::Module* root, const ModelSpec& spec, const WeightSource& source);

  // An empty name, and one of another part of a model that is cut, gives an undefined tensor or an empty holder.
  torch::Tensor Parameter(const std::string& name);
  Linear MakeLinear(const std::string& path);
  std::map<std::string, Linear>& linears() { return linears_; }

 private:
  torch::nn::Module& Parent(const std::string& path);  // makes the groups on the way

  torch::nn::Module* root_;
  const WeightSource& source_;  // of the constructor of the model: used while it is built, gone after
  std::map<std::string, LinearSpec> specs_;
  std::map<std::string, Linear> linears_;
  std::map<std::string, std::shared_ptr<torch::nn::Module>> groups_;
};

struct Norm {
  bool on = false;             // else the identity
  torch::Tensor weight, bias;  // bias: layer norms only, which may be without both
  double eps = 0;
  Norm() = default;
  Norm(ModuleTree& tree, const ModelSpec& spec, const std::string& path);
  torch::Tensor operator()(const torch::Tensor& x) const;  // x itself without a norm
};

// What one forward pass has in common for all layers.
struct Pass {
  torch::Tensor cos, sin;           // of the rotary positions; undefined: none
  torch::Tensor mask, window_mask;  // see AttentionMask
  KvCache* cache = nullptr;
  const TuningSlots* slots = nullptr;
  bool with_prefix = false;  // the prefixes are not in the cache yet
  int64_t rows = 0;          // above 0: a layer gives this many of its first rows only
};

// Token or patch embeddings with positions and types, normalised.
class Embeddings {
 public:
  Embeddings(ModuleTree& tree, const ModelSpec& spec);
  // [batch, length, hidden] in `compute`. `past`: tokens before these. `positions`: [batch, length], or undefined for
  // those of the spec's source. `prompts`: [batch, tokens, hidden], or undefined; the mask and the positions then are
  // those of all tokens.
  torch::Tensor operator()(const ModelInput& input, const torch::Tensor& prompts, const torch::Tensor& positions,
                           int64_t past, at::ScalarType compute);
  const torch::Tensor& tokens() const { return tokens_; }

 private:
  torch::Tensor Patches(const torch::Tensor& pixels, at::ScalarType compute);
  torch::Tensor PositionIndices(const ModelInput& input, const torch::Tensor& positions, int64_t past,
                                int64_t length) const;
  torch::Tensor Words(const ModelInput& input, const torch::Tensor& prompts, const torch::Tensor& positions,
                      int64_t past, at::ScalarType compute);

  const ModelSpec& spec_;
  torch::Tensor tokens_, positions_, types_, patches_, patches_bias_, class_token_, distillation_token_;
  Linear project_in_{nullptr};
  Norm norm_;
};

// Attention and MLP with their norms and residuals.
class Layer {
 public:
  Layer(ModuleTree& tree, const ModelSpec& spec, int64_t index);
  torch::Tensor operator()(const torch::Tensor& x, const Pass& pass);
  // The dropout generators of its linear layers.
  std::vector<Linear> linears() const;

 private:
  torch::Tensor Attend(const torch::Tensor& x, const Pass& pass);
  // The rows of x that the layer gives.
  static torch::Tensor Given(const torch::Tensor& x, const Pass& pass);
  torch::Tensor Mlp(const torch::Tensor& x, const Pass& pass);
  // What is added to this layer; null: nothing.
  const LayerSlots* SlotsOf(const Pass& pass) const;
  // Query (scaled; of the rows that the layer gives), key and value as [batch, heads, length, head_dim].
  std::array<torch::Tensor, 3> Project(const torch::Tensor& x, const Pass& pass);

  const ModelSpec& spec_;
  const int64_t index_;
  Norm attention_norm_, mlp_norm_;
  Linear query_{nullptr}, key_{nullptr}, value_{nullptr}, qkv_{nullptr}, attention_out_{nullptr};
  Linear gate_{nullptr}, up_{nullptr}, down_{nullptr};
};

}  // namespace heddle::model
