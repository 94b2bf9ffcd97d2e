// One module for all architectures, put together as a ModelSpec says.
//
// Include only from translation units of targets with TORCH, never beside protobuf code.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/config/model_spec.h"
#include "model/transformer/input.h"
#include "model/transformer/linear.h"
#include "model/transformer/tuning_slots.h"
#include "model/weights/base_weights.h"

namespace heddle::model {

// How a model computes; what it computes is the ModelSpec's.
struct ComputeOptions {
  // Of activations and matrix products: kFloat, kDouble or kBFloat16. Weights of another type are converted as they are
  // used; LoRA factors stay float32, norms and losses are computed in float32 or wider.
  at::ScalarType type = at::kFloat;
  // Keep only the input of each layer for the backward pass and compute the rest again (Chen et al., 1604.06174): the
  // same gradients, bit for bit, for one more forward pass.
  bool checkpoint_layers = false;
};

// Parameters are registered under the checkpoint's names (named_parameters():
// "model.layers.0.self_attn.q_proj.weight"); what a tuning method adds is not registered: it is in the linear layers
// and in the slots, where peft/tuning puts it. One thread at a time; build one module a thread on shared weights. Runs
// where its weights are. LibTorch's exceptions (c10::Error: ids or labels out of range, too long a sequence, wrong
// shapes, no memory) pass through: the callers' wall.
class TransformerImpl : public torch::nn::Module {
 public:
  // Frozen, on shared weights (fine-tuning).
  explicit TransformerImpl(std::shared_ptr<const BaseWeights> base, const ComputeOptions& options = {});
  // Fresh trainable weights, normal(0, 0.02) from the seed; norms one, biases zero (pretraining).
  TransformerImpl(const ModelSpec& spec, uint64_t seed, const ComputeOptions& options = {});
  ~TransformerImpl() override;

  // Logits: [batch, length, vocab] of a language model, [batch, labels] of a classifier; float32, or float64 when that
  // is computed in. ids: int64 [batch, length <= spec().MaxLength()].
  torch::Tensor forward(const ModelInput& input);
  torch::Tensor forward(const torch::Tensor& ids) { return forward(ModelInput{.ids = ids}); }
  // The task's mean loss. Language models: cross-entropy in nats a token, targets int64 [batch, length] already
  // shifted; -100 does not count. Classifiers: cross-entropy of labels int64 [batch]; squared error of floats [batch]
  // with one label.
  torch::Tensor Loss(const ModelInput& input, const torch::Tensor& targets);
  torch::Tensor Loss(const torch::Tensor& ids, const torch::Tensor& targets) {
    return Loss(ModelInput{.ids = ids}, targets);
  }
  // Hidden states after the final norm, [batch, length, hidden].
  torch::Tensor Hidden(const ModelInput& input);
  // What the head's output layer reads; of a model without task its pooler's output, if the checkpoint has one.
  torch::Tensor Pooled(const ModelInput& input);
  // Virtual tokens of the slots come before those of the input and are not among the rows that language models return
  // (classifiers that read the first row of a text read the first virtual one, as in PEFT); input and virtual tokens
  // together must fit MaxLength().
  TuningSlots& slots();
  const TuningSlots& slots() const;
  // The residual stream after the embeddings and each layer, before the final norm: for tests.
  std::vector<torch::Tensor> HiddenStates(const ModelInput& input);
  std::vector<torch::Tensor> HiddenStates(const torch::Tensor& ids) { return HiddenStates(ModelInput{.ids = ids}); }
  // Logits [batch, vocab] of the last of these tokens, which follow those of the cache and join them. Without gradient;
  // causal language models only. A mask, when there is one, is that of the new tokens.
  torch::Tensor Decode(const ModelInput& input, KvCache* cache);

  // A model that is cut (ModelSpec::part) computes in these pieces, each of which needs its part; all the above want
  // the whole. What crosses a cut is the residual stream x, [batch, length, hidden] in compute().type; gradients go
  // back through it as through any tensor. None of them takes virtual tokens. The embeddings and this part's layers:
  torch::Tensor Front(const ModelInput& input);
  // This part's layers, of a part without embeddings. Of the input only mask, segments and positions are read.
  torch::Tensor Middle(const torch::Tensor& x, const ModelInput& input);
  // The same in two halves of one part, for a caller that keeps what is between them: the embeddings and the first
  // `layers` of its layers; and all of its layers after these. Where the head follows and reads the first rows only (a
  // classifier's), these are all that the last layer gives.
  torch::Tensor Front(const ModelInput& input, int64_t layers);
  torch::Tensor Middle(const torch::Tensor& x, const ModelInput& input, int64_t after);
  // The final norm and the head. Of the input only the mask is read; targets as in Loss.
  torch::Tensor TailLogits(const torch::Tensor& x, const ModelInput& input);
  torch::Tensor TailLoss(const torch::Tensor& x, const ModelInput& input, const torch::Tensor& targets);

  // Gives every linear layer a dropout generator of its own, so that masks depend on the seed and the layer only, not
  // on what else runs in the process.
  void SeedDropout(uint64_t seed);
  // Linear layers by module path ("model.layers.0.self_attn.q_proj"), for LoRA injection.
  std::map<std::string, Linear> LinearModules() const;
  const ModelSpec& spec() const;
  // The checkpoint that this was built on; null when it was made for pretraining.
  const std::shared_ptr<const BaseWeights>& base() const;
  torch::Device device() const;  // of the weights
  void SetCompute(const ComputeOptions& options);
  const ComputeOptions& compute() const;

 private:
  struct Body;
  std::shared_ptr<Body> body_;
};
TORCH_MODULE(Transformer);

}  // namespace heddle::model
