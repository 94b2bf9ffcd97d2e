// What follows the last hidden states: rows are selected, go through [dense, activation, [norm]] and the output layer,
// as HeadSpec says; and the loss of each task. Internal to model/transformer; the interface is transformer.h.
//
// One thread at a time. Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include "model/transformer/blocks.h"

namespace heddle::model {

class Head {
 public:
  // `tokens`: the token embedding, which a tied output layer uses. Both outlive the head.
  Head(ModuleTree& tree, const ModelSpec& spec, const torch::Tensor& tokens);

  // The selected rows behind the dense layer: [batch, length, hidden] or, with a pooling, [batch, hidden].
  torch::Tensor Pooled(const torch::Tensor& hidden, const ModelInput& input);
  // [batch, length, vocab] or [batch, labels], float32 or wider. Needs a task.
  torch::Tensor Logits(const torch::Tensor& hidden, const ModelInput& input);
  // Mean over what counts, see TransformerImpl::Loss.
  torch::Tensor Loss(const torch::Tensor& hidden, const ModelInput& input, const torch::Tensor& targets);
  bool has_pooler() const { return !dense_.is_empty(); }

 private:
  torch::Tensor Select(const torch::Tensor& hidden, const ModelInput& input) const;
  torch::Tensor Dense(const torch::Tensor& rows);
  torch::Tensor Output(const torch::Tensor& rows);
  torch::Tensor WordLoss(const torch::Tensor& hidden, const torch::Tensor& targets);

  const ModelSpec& spec_;
  const torch::Tensor& tokens_;
  Linear dense_{nullptr}, project_out_{nullptr}, output_{nullptr}, second_output_{nullptr};
  Norm norm_;
  torch::Tensor output_bias_;  // of a tied output layer
};

}  // namespace heddle::model
