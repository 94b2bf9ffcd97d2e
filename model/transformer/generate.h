// Text from a causal language model, token by token, with the keys and values of earlier tokens kept.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/status.h"
#include "model/transformer/transformer.h"

namespace heddle::model {

struct GenerateOptions {
  int64_t max_new_tokens = 64;
  double temperature = 0;  // logits are divided by it; 0: always the likeliest token
  int64_t top_k = 0;       // of the likeliest tokens; 0: of all
  double top_p = 1;   // of the likeliest tokens that hold this much probability together (Holtzman et al., 1904.09751)
  uint64_t seed = 0;  // the same seed, the same text
  std::vector<int64_t> stop;  // ends with one of these, which is not part of the result
  // Called with each new token; false ends the text after it. May be empty.
  std::function<bool(int64_t token)> on_token;
  // Called when the text ends because the model has no more positions. May be empty.
  std::function<void()> on_limit;
};

// The tokens that follow `prompt`; fewer than asked for when the model has no more positions. One thread at a time a
// model. Errors: kInvalidArgument for an empty or too long prompt, ids outside the vocabulary, options out of range, or
// a model that is no causal language model. LibTorch's exceptions pass through.
Result<std::vector<int64_t>> Generate(Transformer& model, std::span<const int64_t> prompt,
                                      const GenerateOptions& options);

// One token by the options, from logits [vocab]; `uniform` in [0, 1) decides among those that are left. For tests.
int64_t SampleToken(const torch::Tensor& logits, const GenerateOptions& options, double uniform);

}  // namespace heddle::model
