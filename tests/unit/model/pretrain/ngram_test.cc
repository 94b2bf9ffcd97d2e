// The yardsticks on the card of the small model, against probabilities that are counted anew for each token.
#include "model/pretrain/ngram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "common/random.h"

namespace heddle::model {
namespace {

using Tokens = std::vector<int32_t>;

// Text with a grammar: what follows a token is mostly one of a few.
Tokens Text(uint64_t seed, size_t length, uint32_t vocab) {
  PhiloxStream random(seed);
  Tokens text = {0};
  while (text.size() < length) {
    const uint32_t before = static_cast<uint32_t>(text.back());
    const bool usual = random.NextUniform() < 0.8F;
    text.push_back(static_cast<int32_t>(usual ? (3 * before + random.NextBelow(3)) % vocab : random.NextBelow(vocab)));
  }
  return text;
}

double UnigramOf(const Tokens& train, int32_t token, double delta, double vocab) {
  const auto seen = std::count(train.begin(), train.end(), token);
  return (static_cast<double>(seen) + delta) / (static_cast<double>(train.size()) + delta * vocab);
}

// Interpolated absolute discounting (Ney et al., 1994): max(c(a b) - d, 0) / c(a) + d * kinds(a) / c(a) * p(b).
double BigramOf(const Tokens& train, int32_t before, int32_t token, double delta, double discount, double vocab) {
  double pairs = 0, contexts = 0;
  std::set<int32_t> kinds;
  for (size_t i = 0; i + 1 < train.size(); ++i) {
    if (train[i] != before) continue;
    contexts += 1;
    kinds.insert(train[i + 1]);
    pairs += train[i + 1] == token ? 1 : 0;
  }
  const double alone = UnigramOf(train, token, delta, vocab);
  if (contexts == 0) return alone;
  return std::max(pairs - discount, 0.0) / contexts + discount * static_cast<double>(kinds.size()) / contexts * alone;
}

template <typename Probability>
double LossOf(const Tokens& text, Probability probability) {
  double sum = 0;
  for (size_t i = 1; i < text.size(); ++i) sum -= std::log(probability(text[i - 1], text[i]));
  return sum / static_cast<double>(text.size() - 1);
}

class NgramTest : public testing::TestWithParam<uint64_t> {};

TEST_P(NgramTest, LossesAreThoseOfProbabilitiesCountedAnew) {
  constexpr int32_t kVocab = 23;
  const Tokens train = Text(GetParam(), 400, kVocab), dev = Text(GetParam() + 100, 80, kVocab),
               test = Text(GetParam() + 200, 90, kVocab);
  const NgramLosses found = EvaluateNgrams(train, dev, test, kVocab);
  const auto unigram = [&](const Tokens& text, double delta) {
    return LossOf(text, [&](int32_t, int32_t token) { return UnigramOf(train, token, delta, kVocab); });
  };
  const auto bigram = [&](const Tokens& text, double discount) {
    return LossOf(text, [&](int32_t before, int32_t token) {
      return BigramOf(train, before, token, found.unigram_delta, discount, kVocab);
    });
  };
  EXPECT_NEAR(found.unigram, unigram(test, found.unigram_delta), 1e-12);
  EXPECT_NEAR(found.bigram, bigram(test, found.bigram_discount), 1e-12);
  // Tuned on dev: no other of the grid is better there.
  for (const double delta : {0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0})
    EXPECT_LE(unigram(dev, found.unigram_delta), unigram(dev, delta) + 1e-12) << delta;
  for (int step = 1; step <= 19; ++step)
    EXPECT_LE(bigram(dev, found.bigram_discount), bigram(dev, 0.05 * step) + 1e-12) << step;
  EXPECT_LT(found.bigram, found.unigram);  // the text has a grammar
}

TEST_P(NgramTest, TheReferencesProbabilitiesSumToOne) {
  constexpr int32_t kVocab = 23;
  const Tokens train = Text(GetParam(), 400, kVocab);
  for (int32_t before = 0; before < kVocab; ++before) {
    double sum = 0;
    for (int32_t token = 0; token < kVocab; ++token) sum += BigramOf(train, before, token, 0.5, 0.75, kVocab);
    EXPECT_NEAR(sum, 1, 1e-12);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, NgramTest, testing::Values(1, 2, 3));

TEST(Ngrams, AContextThatTrainingNeverSawFallsBackToTheUnigram) {
  const Tokens train = {0, 1, 0, 1, 0, 1}, dev = {0, 1, 0}, test = {3, 1};
  const NgramLosses found = EvaluateNgrams(train, dev, test, 4);
  EXPECT_NEAR(found.bigram, found.unigram, 1e-12);
  EXPECT_NEAR(found.unigram, -std::log(UnigramOf(train, 1, found.unigram_delta, 4)), 1e-12);
}

}  // namespace
}  // namespace heddle::model
