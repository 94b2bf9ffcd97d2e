// Smoothed unigram and bigram models of token streams: the yardsticks of a language model. Pure functions.
#pragma once

#include <cstdint>
#include <span>

namespace heddle::model {

struct NgramLosses {
  double unigram = 0, bigram = 0;                 // mean loss of the test tokens, nats a token
  double unigram_delta = 0, bigram_discount = 0;  // as tuned on dev
};

// The unigram adds delta to every count. The bigram discounts each count and gives what is left over to the unigram
// (interpolated absolute discounting; Ney et al., 1994). Counts from train; delta and discount are those of a fixed
// grid with the lowest loss on dev. The loss is over test[1..], each token given the one before, as a language model
// sees it.
NgramLosses EvaluateNgrams(std::span<const int32_t> train, std::span<const int32_t> dev, std::span<const int32_t> test,
                           int64_t vocab_size);

}  // namespace heddle::model
