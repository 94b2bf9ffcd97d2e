// Padding, packing and masking.
#include "model/data/batch.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <filesystem>
#include <map>

#include "model/tokenizer/bpe_trainer.h"

namespace heddle::model {
namespace {

using Ids = std::vector<int64_t>;
constexpr int64_t kNo = kNoTarget;

EncodedExample Document(std::vector<int32_t> ids) { return {std::move(ids), {}, {}, 0}; }

TEST(EncodeCausal, OnlyTheCompletionAndTheEndAreLearned) {
  BpeTrainerOptions options;
  options.special_tokens = {"<|endoftext|>"};
  const auto tokenizer = *Tokenizer::FromJson(*BpeTrainer().Train(options));
  TextExample example;
  example.spans = {{"ab", false}, {"c", true}};
  const EncodedExample encoded = EncodeCausal(example, *tokenizer, {});
  EXPECT_EQ(tokenizer->Decode(encoded.ids), "abc<|endoftext|>");
  EXPECT_EQ(encoded.learned, (std::vector<uint8_t>{0, 0, 1, 1}));
  const EncodedExample cut = EncodeCausal(example, *tokenizer, {.max_tokens = 2, .add_eos = true});
  EXPECT_EQ(cut.ids.size(), 2U);
  EXPECT_EQ(EncodeCausal(example, *tokenizer, {.add_eos = false}).ids.size(), 3U);
}

std::shared_ptr<const Tokenizer> CommittedTokenizer(const std::string& name) {
  return *Tokenizer::Read(std::filesystem::path(HEDDLE_SOURCE_DIR) / "tests/data/tokenizers" / name);
}

TEST(EncodeCausal, APromptAndItsCompletionAreOneText) {
  for (const char* name : {"byte-fallback", "unigram", "byte-level"}) {
    const auto tokenizer = CommittedTokenizer(name);
    const auto check = [&](const std::vector<TextSpan>& spans) {
      TextExample example;
      example.spans = spans;
      const EncodedExample encoded = EncodeCausal(example, *tokenizer, {.add_eos = false});
      EXPECT_EQ(encoded.ids, tokenizer->Encode(example.text())) << name << ": " << example.text();
      EXPECT_EQ(encoded.learned.size(), encoded.ids.size());
      return encoded;
    };
    for (const char* completion : {" blue.", "blue.", "\nblue", "\xC3\xA9"}) {
      const EncodedExample encoded = check({{"The sky is", false}, {completion, true}});
      // No token of the completion is left out, and of the prompt at most the one at the border is learned.
      const auto prompt = tokenizer->Encode("The sky is");
      const auto first = std::find(encoded.learned.begin(), encoded.learned.end(), 1) - encoded.learned.begin();
      EXPECT_GE(first, static_cast<std::ptrdiff_t>(prompt.size()) - 1) << name;
      EXPECT_LE(first, static_cast<std::ptrdiff_t>(prompt.size())) << name;
      EXPECT_EQ(std::count(encoded.learned.begin() + first, encoded.learned.end(), 0), 0) << name;
    }
    check({{"", false}, {"all of it", true}});
    EXPECT_EQ(check({{"nothing", false}, {"", true}}).learned,
              std::vector<uint8_t>(tokenizer->Encode("nothing").size(), 0));
    const EncodedExample talk = check(
        {{"user: Who?\nassistant: ", false}, {"I.\n", true}, {"user: You?\nassistant: ", false}, {"No.\n", true}});
    std::vector<uint8_t> turns = talk.learned;
    turns.erase(std::unique(turns.begin(), turns.end()), turns.end());
    EXPECT_EQ(turns, (std::vector<uint8_t>{0, 1, 0, 1})) << name;
  }
}

TEST(EncodeCausal, ATokenOverTheBorderIsTheCompletions) {
  BpeTrainer trainer;
  trainer.Add(std::string("abab abab abab abab "));
  BpeTrainerOptions options;
  options.vocab_size = 262;
  options.special_tokens = {"<|endoftext|>"};
  const auto tokenizer = *Tokenizer::FromJson(*trainer.Train(options));
  ASSERT_EQ(tokenizer->Encode("abab").size(), 1U);
  TextExample example;
  example.spans = {{"x aba", false}, {"b", true}};
  const EncodedExample encoded = EncodeCausal(example, *tokenizer, {.add_eos = false});
  EXPECT_EQ(encoded.ids, tokenizer->Encode("x abab"));
  EXPECT_EQ(encoded.learned.back(), 1);
  EXPECT_EQ(encoded.learned.front(), 0);
}

TEST(EncodeCausal, LongConversationsAreEncodedInPieces) {
  const auto tokenizer = CommittedTokenizer("byte-level");
  TextExample example;
  for (int i = 0; i < 50; ++i) {
    example.spans.push_back({"user: more\nassistant: ", false});
    example.spans.push_back({"yes\n", true});
  }
  const EncodedExample encoded = EncodeCausal(example, *tokenizer, {.add_eos = false});
  EXPECT_EQ(tokenizer->Decode(encoded.ids), example.text());
  std::string learned;
  for (size_t i = 0; i < encoded.ids.size(); ++i) {
    if (encoded.learned[i] != 0) learned += tokenizer->Decode(std::span(encoded.ids).subspan(i, 1));
  }
  std::string expected;
  for (int i = 0; i < 50; ++i) expected += "yes\n";
  EXPECT_EQ(learned, expected);
}

TEST(PadRows, PadsToTheLongestOrToALength) {
  std::vector<EncodedExample> examples(2);
  examples[0] = {{5, 6, 7}, {0, 0, 1}, {0, 0, 1}, 2};
  examples[1] = {{8}, {}, {}, -1.5};
  const TokenBatch batch = PadRows(examples, {.length = 0, .pad_id = 9});
  EXPECT_EQ(batch.rows, 2);
  EXPECT_EQ(batch.length, 3);
  EXPECT_EQ(batch.ids, (Ids{5, 6, 7, 8, 9, 9}));
  EXPECT_EQ(batch.mask, (Ids{1, 1, 1, 1, 0, 0}));
  EXPECT_EQ(batch.token_types, (Ids{0, 0, 1, 0, 0, 0}));
  EXPECT_EQ(batch.targets, (Ids{kNo, 7, kNo, kNo, kNo, kNo}));
  EXPECT_EQ(batch.NumTargets(), 1);
  EXPECT_EQ(batch.labels, (std::vector<double>{2, -1.5}));
  EXPECT_EQ(PadRows(examples, {.length = 4}).ids, (Ids{5, 6, 7, 0, 8, 0, 0, 0}));
  EXPECT_EQ(PadRows(examples, {.length = 2}).ids, (Ids{5, 6, 8, 0}));
  EXPECT_EQ(PadRows(std::span(examples).last(1), {.length = 0}).length, 1);
}

TEST(SequencePacker, DocumentsStandInARowWithBordersBetween) {
  SequencePacker packer(1, 6, 0);
  packer.Add(Document({1, 2, 3}));
  packer.Add(Document({4, 5, 6, 7}));
  EXPECT_FALSE(packer.full());
  packer.Add(Document({8, 9, 10}));
  ASSERT_TRUE(packer.full());
  const TokenBatch batch = packer.Take();
  EXPECT_EQ(batch.ids, (Ids{1, 2, 4, 5, 6, 0}));
  EXPECT_EQ(batch.targets, (Ids{2, 3, 5, 6, 7, kNo}));
  EXPECT_EQ(batch.segments, (Ids{1, 1, 2, 2, 2, 0}));
  EXPECT_EQ(batch.positions, (Ids{0, 1, 0, 1, 2, 0}));
  EXPECT_EQ(batch.mask, (Ids{1, 1, 1, 1, 1, 0}));
  EXPECT_FALSE(packer.full());
  EXPECT_EQ(packer.Take().ids, (Ids{8, 9, 0, 0, 0, 0}));
  EXPECT_TRUE(packer.empty());
}

TEST(SequencePacker, ALongDocumentIsCutIntoPiecesThatShareAToken) {
  SequencePacker packer(1, 2, 0);
  packer.Add(Document({1, 2, 3, 4, 5, 6}));
  std::vector<Ids> ids, targets;
  while (!packer.empty()) {
    const TokenBatch batch = packer.Take();
    ids.push_back(batch.ids);
    targets.push_back(batch.targets);
  }
  EXPECT_EQ(ids, (std::vector<Ids>{{1, 2}, {3, 4}, {5, 0}}));
  EXPECT_EQ(targets, (std::vector<Ids>{{2, 3}, {4, 5}, {6, kNo}}));
}

TEST(SequencePacker, WhatTeachesNothingIsLeftOut) {
  SequencePacker packer(2, 4, 0);
  packer.Add(Document({}));
  packer.Add(Document({1}));
  packer.Add({{1, 2, 3}, {}, {1, 0, 0}, 0});
  EXPECT_TRUE(packer.empty());
}

// Each (input, target) pair of every document once, in segments that are runs of one document, positions from 0.
TEST(SequencePacker, EveryTargetOfEveryDocumentComesOnceAndNoneCrossesABorder) {
  rc::check([] {
    const auto lengths = *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 30));
    const auto rows = *rc::gen::inRange<int64_t>(1, 4);
    const auto length = *rc::gen::inRange<int64_t>(1, 12);
    std::map<std::pair<int64_t, int64_t>, int> expected, seen;  // ids are unique, so a pair names its place
    int32_t next_id = 1;
    SequencePacker packer(rows, length, 0);
    const auto take = [&] {
      const TokenBatch batch = packer.Take();
      RC_ASSERT(batch.rows == rows && batch.length == length);
      for (size_t at = 0; at < batch.ids.size(); ++at) {
        const bool first = at % static_cast<size_t>(length) == 0;
        RC_ASSERT((batch.mask[at] == 1) == (batch.segments[at] > 0));
        if (batch.mask[at] == 0) {
          RC_ASSERT(batch.targets[at] == kNo);
          continue;
        }
        const bool same = !first && batch.segments[at] == batch.segments[at - 1];
        RC_ASSERT(batch.positions[at] == (same ? batch.positions[at - 1] + 1 : 0));
        if (same) RC_ASSERT(batch.targets[at - 1] == kNo || batch.targets[at - 1] == batch.ids[at]);
        if (batch.targets[at] != kNo) ++seen[{batch.ids[at], batch.targets[at]}];
      }
    };
    for (size_t d = 0; d < lengths.size(); ++d) {
      EncodedExample document;
      for (int i = 0; i < lengths[d]; ++i) {
        document.ids.push_back(next_id++);
        document.learned.push_back(d % 3 == 0 || i % 2 == 0 ? 1 : 0);
        if (i > 0 && document.learned.back() != 0) ++expected[{next_id - 2, next_id - 1}];
      }
      packer.Add(document);
      while (packer.full()) take();
    }
    if (!packer.empty()) take();
    RC_ASSERT(packer.empty());
    RC_ASSERT(seen == expected);
  });
}

TEST(MaskTokens, ChoosesAsBertDoesAndNeverSpecialTokens) {
  std::vector<EncodedExample> examples;
  for (int i = 0; i < 64; ++i) {
    EncodedExample example;
    example.ids.push_back(1);  // special
    for (int j = 0; j < 200 + i; ++j) example.ids.push_back(10 + j % 80);
    examples.push_back(example);
  }
  const TokenBatch before = PadRows(examples, {});
  const TokenMasking masking{.probability = 0.15, .mask_id = 3, .vocab_size = 90, .special_ids = {0, 1, 2}};
  TokenBatch batch = before, again = before, other = before;
  MaskTokens(masking, 5, 0, &batch);
  MaskTokens(masking, 5, 0, &again);
  MaskTokens(masking, 5, 1, &other);
  EXPECT_EQ(batch.ids, again.ids);
  EXPECT_EQ(batch.targets, again.targets);
  EXPECT_NE(batch.targets, other.targets);
  double chosen = 0, masked = 0, same = 0, candidates = 0;
  for (size_t at = 0; at < batch.ids.size(); ++at) {
    const bool ordinary = before.mask[at] == 1 && before.ids[at] != 1;
    candidates += ordinary ? 1 : 0;
    if (batch.targets[at] == kNo) {
      EXPECT_EQ(batch.ids[at], before.ids[at]);
      continue;
    }
    EXPECT_TRUE(ordinary);
    EXPECT_EQ(batch.targets[at], before.ids[at]);
    chosen += 1;
    masked += batch.ids[at] == 3 ? 1 : 0;
    same += batch.ids[at] == before.ids[at] ? 1 : 0;
  }
  // Within five standard deviations.
  EXPECT_NEAR(chosen / candidates, 0.15, 5 * std::sqrt(0.15 * 0.85 / candidates));
  EXPECT_NEAR(masked / chosen, 0.8 + 0.1 / 90, 5 * std::sqrt(0.16 / chosen));
  EXPECT_NEAR(same / chosen, 0.1 + 0.1 / 90, 5 * std::sqrt(0.09 / chosen));
}

TEST(MaskTokens, ARowIsNeverWithoutALossUnlessItIsAllSpecial) {
  std::vector<EncodedExample> examples = {Document({1, 10, 2}), Document({1, 2})};
  const TokenMasking masking{.probability = 0, .mask_id = 3, .vocab_size = 20, .special_ids = {1, 2}};
  TokenBatch batch = PadRows(examples, {});
  MaskTokens(masking, 1, 0, &batch);
  EXPECT_EQ(batch.targets, (Ids{kNo, 10, kNo, kNo, kNo, kNo}));
}

}  // namespace
}  // namespace heddle::model
