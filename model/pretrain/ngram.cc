#include "model/pretrain/ngram.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <vector>

#include "common/assert.h"

namespace heddle::model {
namespace {

class Counts {
 public:
  Counts(std::span<const int32_t> tokens, int64_t vocab_size)
      : unigram_(static_cast<size_t>(vocab_size)), context_(unigram_.size()), followers_(unigram_.size()) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      HEDDLE_ASSERT(tokens[i] >= 0 && tokens[i] < vocab_size, "a token outside the vocabulary");
      ++unigram_[tokens[i]];
      if (i == 0) continue;
      ++context_[tokens[i - 1]];
      if (++bigram_[Key(tokens[i - 1], tokens[i])] == 1) ++followers_[tokens[i - 1]];
    }
    total_ = static_cast<double>(tokens.size());
  }

  double Unigram(int32_t token, double delta) const {
    return (unigram_[token] + delta) / (total_ + delta * static_cast<double>(unigram_.size()));
  }

  double Bigram(int32_t before, int32_t token, double delta, double discount) const {
    const double backoff = Unigram(token, delta);
    if (context_[before] == 0) return backoff;
    const auto found = bigram_.find(Key(before, token));
    const double count = found == bigram_.end() ? 0 : found->second;
    return (std::max(count - discount, 0.0) + discount * followers_[before] * backoff) / context_[before];
  }

 private:
  static uint64_t Key(int32_t a, int32_t b) { return static_cast<uint64_t>(a) << 32 | static_cast<uint32_t>(b); }
  std::vector<double> unigram_, context_, followers_;
  std::unordered_map<uint64_t, double> bigram_;
  double total_ = 0;
};

template <typename Probability>
double MeanLoss(std::span<const int32_t> tokens, Probability probability) {
  double loss = 0;
  for (size_t i = 1; i < tokens.size(); ++i) loss -= std::log(probability(tokens[i - 1], tokens[i]));
  return loss / static_cast<double>(std::max<size_t>(tokens.size() - 1, 1));
}

}  // namespace

NgramLosses EvaluateNgrams(std::span<const int32_t> train, std::span<const int32_t> dev, std::span<const int32_t> test,
                           int64_t vocab_size) {
  const Counts counts(train, vocab_size);
  const auto unigram = [&](std::span<const int32_t> tokens, double delta) {
    return MeanLoss(tokens, [&](int32_t, int32_t token) { return counts.Unigram(token, delta); });
  };
  const auto bigram = [&](std::span<const int32_t> tokens, double delta, double discount) {
    return MeanLoss(tokens,
                    [&](int32_t before, int32_t token) { return counts.Bigram(before, token, delta, discount); });
  };
  NgramLosses result;
  double best = INFINITY;
  for (const double delta : {0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0}) {
    if (const double loss = unigram(dev, delta); loss < best) {
      best = loss;
      result.unigram_delta = delta;
    }
  }
  best = INFINITY;
  for (int step = 1; step <= 19; ++step) {
    const double discount = 0.05 * step;
    if (const double loss = bigram(dev, result.unigram_delta, discount); loss < best) {
      best = loss;
      result.bigram_discount = discount;
    }
  }
  result.unigram = unigram(test, result.unigram_delta);
  result.bigram = bigram(test, result.unigram_delta, result.bigram_discount);
  return result;
}

}  // namespace heddle::model
