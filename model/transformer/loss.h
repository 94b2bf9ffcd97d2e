// The cross-entropy of language models, in pieces. Thread-safe (no state).
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace heddle::model {

inline constexpr int64_t kIgnoredTarget = -100;

// Mean cross-entropy, in nats, of hidden [n, D] through the output weights [vocab, D] against targets int64 [n];
// targets of -100 do not count. Works through the rows in pieces, so the logits of all rows never exist at once. No
// targets that count: the loss is 0. The loss is float32, or float64 for float64 inputs; first derivatives only.
// Throws c10::Error on a target outside the vocabulary.
torch::Tensor LinearCrossEntropy(const torch::Tensor& hidden, const torch::Tensor& weight,
                                 const torch::Tensor& targets);

}  // namespace heddle::model
