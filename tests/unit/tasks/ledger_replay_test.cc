// What a worker remembers of a ledger's replay: that it is right, that it is mended when it is not, and its memory.
#include "client/worker/ledger_replay.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "tests/unit/tasks/counting_new.h"

namespace heddle::client {
namespace {

// A run with one tensor, whose values are not on their grid.
struct OneTensor {
  explicit OneTensor(size_t size, const char* tensor_name = "w") : name(tensor_name) {
    for (size_t i = 0; i < size; ++i) start.push_back(0.0037F * static_cast<float>(i % 100));
    given.emplace(name, Tensor::FromFloats({static_cast<int64_t>(size)}, start));
    values = start;
  }
  // The values of `from`, on their grid.
  std::vector<zo::Parameter> At(const std::vector<float>& from) {
    std::copy(from.begin(), from.end(), values.begin());
    return {*zo::MakeParameter(name, values, 0)};
  }
  Result<Sha256Digest> Replay(LedgerCache& cache, const zo::Ledger& ledger) {
    auto parameters = At(start);
    return cache.Replay(ledger, given, parameters, 1);
  }
  // What a replay of all gives.
  Sha256Digest Expected(const zo::Ledger& ledger) {
    auto parameters = At(start);
    const auto moves = zo::MovesBetween(zo::EmptyLedger(ledger.head), ledger);
    EXPECT_TRUE(zo::ApplyMoves(ledger.head.distribution, moves, parameters).ok());
    return zo::DigestOfWeights(parameters);
  }

  std::string name;
  std::vector<float> start, values;
  StateDict given;
};

zo::Ledger LedgerWith(std::vector<zo::LedgerEntry> entries) {
  return {.head = {.seed = 3}, .round = 1, .entries = std::move(entries), .importance = {}, .weights = {}};
}

TEST(LedgerCache, ReplaysWhatHasChangedToTheSameBits) {
  OneTensor one(5000);
  LedgerCache cache;
  zo::Ledger ledger = LedgerWith({{5, 1 << 20}});
  for (uint32_t round = 1; round <= 4; ++round) {
    ledger.round = round;
    ledger.entries.push_back({5 + round, int64_t{round} << 19});
    ledger.entries.front().n += 77;
    ledger.weights = one.Expected(ledger);
    const auto rebuilt = one.Replay(cache, ledger);
    ASSERT_TRUE(rebuilt.ok()) << rebuilt.status();
    EXPECT_EQ(*rebuilt, ledger.weights);
    EXPECT_EQ(cache.reused(), round - 1);
  }
  // Of another run nothing is taken.
  ledger.head.seed = 4;
  ledger.weights = one.Expected(ledger);
  EXPECT_EQ(one.Replay(cache, ledger).value(), ledger.weights);
  EXPECT_EQ(cache.reused(), 3U);
}

TEST(LedgerCache, AWorkersSpoiltMemoryOfARunIsMendedFromTheStart) {
  OneTensor one(100);
  const zo::Ledger ledger = LedgerWith({{5, 1 << 20}});
  zo::Ledger later = LedgerWith({{5, 1 << 20}, {6, 3 << 20}});
  later.round = 2;
  later.weights = one.Expected(later);
  // Weights that another start led to, under this run's name.
  LedgerCache cache, without_start;
  for (LedgerCache* spoilt : {&cache, &without_start}) {
    auto wrong = one.At(std::vector<float>(100, 0.25F));
    ASSERT_TRUE(spoilt->Replay(ledger, one.given, wrong, 1).ok());
  }
  EXPECT_EQ(one.Replay(cache, later).value(), later.weights);
  EXPECT_EQ(cache.reused(), 0U) << "all was replayed";
  // What it remembers is right from then on.
  EXPECT_EQ(one.Replay(cache, later).value(), later.weights);
  EXPECT_EQ(cache.reused(), 1U);
  // Where the start cannot be had, and where the ledger is wrong, it says so and forgets what it had.
  auto parameters = one.At(one.start);
  EXPECT_EQ(without_start.Replay(later, {}, parameters, 1).status().code(), Code::kInvalidArgument);
  zo::Ledger lie = later;
  lie.weights = Sha256("other");
  EXPECT_EQ(one.Replay(cache, lie).status().code(), Code::kInvalidArgument);
  for (LedgerCache* mended : {&cache, &without_start}) {
    const uint64_t reused = mended->reused();
    EXPECT_EQ(one.Replay(*mended, later).value(), later.weights);
    EXPECT_EQ(mended->reused(), reused);
  }
}

// What a device fetches: the replay of a ledger, as a file has it.
FetchedWeights WeightsOf(OneTensor& one, zo::Ledger ledger) {
  ledger.weights = one.Expected(ledger);
  StateDict tensors;
  tensors.emplace(one.name, Tensor::FromFloats({static_cast<int64_t>(one.values.size())}, one.values));
  tensors.emplace("heddle.more", Tensor::FromFloats({1}, std::vector<float>{1}));
  return {std::move(ledger), std::move(tensors)};
}

TEST(LedgerCache, BeginsWithFetchedWeightsWhereTheyAreNearest) {
  OneTensor one(5000);
  zo::Ledger ledger = LedgerWith({{1, 3 << 20}, {5, 1 << 20}, {7, -(2 << 20)}});
  const FetchedWeights fetched = WeightsOf(one, ledger);
  // Another scale, a direction that is gone, a new one.
  ledger.round = 4;
  ledger.entries = {{1, 3 << 20}, {7, 5 << 20}, {9, 1 << 19}, {11, 7}};
  ledger.weights = one.Expected(ledger);
  LedgerCache cache;
  const auto replay = [&](const zo::Ledger& to, const FetchedWeights* from) {
    auto parameters = one.At(one.start);
    return cache.Replay(to, one.given, parameters, 1, from);
  };
  ASSERT_EQ(zo::MovesBetween(fetched.ledger, ledger).size(), 4U);
  EXPECT_EQ(replay(ledger, &fetched).value(), ledger.weights);
  EXPECT_EQ(cache.fetched(), 0U) << "from the start there are no more moves";
  LedgerCache other;
  auto parameters = one.At(one.start);
  ledger.entries.insert(ledger.entries.begin() + 1, {5, 1 << 20});
  ledger.weights = one.Expected(ledger);
  EXPECT_EQ(other.Replay(ledger, one.given, parameters, 1, &fetched).value(), ledger.weights);
  EXPECT_EQ(other.fetched(), 1U);
  EXPECT_EQ(other.reused(), 0U);
  // From then on what it keeps is nearer.
  zo::Ledger later = ledger;
  later.round = 5;
  later.entries.back().n += 1;
  later.weights = one.Expected(later);
  parameters = one.At(one.start);
  EXPECT_EQ(other.Replay(later, one.given, parameters, 1, &fetched).value(), later.weights);
  EXPECT_EQ(other.fetched(), 1U);
  EXPECT_EQ(other.reused(), 1U);
}

TEST(LedgerCache, FetchedWeightsThatAreNotTheirLedgersCostTheReplayAndNoMore) {
  OneTensor one(100);
  zo::Ledger ledger = LedgerWith({{1, 3 << 20}, {5, 1 << 20}});
  const FetchedWeights good = WeightsOf(one, ledger);
  ledger.weights = good.ledger.weights;
  std::vector<FetchedWeights> bad(5, good);
  const auto with = [&](size_t at, float value) {
    auto values = good.tensors.at(one.name).values<float>();
    std::vector<float> other(values.begin(), values.end());
    other[at] = value;
    StateDict tensors;
    tensors.emplace(one.name, Tensor::FromFloats({100}, other));
    return tensors;
  };
  bad[0].tensors = with(17, 0.5F);
  bad[1].tensors = with(99, std::numeric_limits<float>::quiet_NaN());
  bad[2].tensors.erase(one.name);
  bad[3].tensors.insert_or_assign(one.name, Tensor::FromFloats({99}, std::vector<float>(99, 0)));
  bad[4].ledger.weights = Sha256("other");
  for (const FetchedWeights& fetched : bad) {
    LedgerCache cache;
    auto parameters = one.At(one.start);
    EXPECT_EQ(cache.Replay(ledger, one.given, parameters, 1, &fetched).value(), ledger.weights);
    EXPECT_EQ(cache.fetched(), 0U);
  }
  // Another run's are not looked at.
  FetchedWeights foreign = good;
  foreign.ledger.head.seed = 9;
  LedgerCache cache;
  auto parameters = one.At(one.start);
  EXPECT_EQ(cache.Replay(ledger, one.given, parameters, 1, &foreign).value(), ledger.weights);
  EXPECT_EQ(cache.fetched(), 0U);
}

TEST(LedgerCache, HoldsOneCopyAndNoneOfLargeWeights) {
  constexpr size_t kSize = size_t{1} << 20;
  constexpr int64_t kBytes = 4 * kSize, kSlack = 200'000;
  OneTensor one(kSize), other(kSize, "v");
  LedgerCache cache;
  zo::Ledger ledger = LedgerWith({{5, 1 << 20}});
  const int64_t before = CountingNew::live_bytes();
  const auto expect_a_copy = [&](OneTensor& tensor) {
    CountingNew::ForgetPeak();
    ASSERT_TRUE(tensor.Replay(cache, ledger).ok());
    EXPECT_GE(CountingNew::live_bytes() - before, kBytes);
    EXPECT_LT(CountingNew::peak_bytes() - before, kBytes + kSlack);
  };
  expect_a_copy(one);
  ledger.entries.push_back({6, 1 << 19});
  expect_a_copy(one);
  EXPECT_EQ(cache.reused(), 1U);
  expect_a_copy(other);  // in place of the first
  EXPECT_EQ(cache.reused(), 1U);
  std::vector<float> large(LedgerCache::kMaxKeptBytes / sizeof(float) + 1);
  std::vector<zo::Parameter> parameters = {*zo::MakeParameter("w", large, 0)};
  const int64_t with_large = CountingNew::live_bytes();
  ASSERT_TRUE(cache.Replay(ledger, {}, parameters, 2).ok());
  EXPECT_LT(CountingNew::live_bytes(), with_large - kBytes + kSlack) << "the smaller one has gone";
  EXPECT_EQ(LedgerCache::BytesKeptOf(4 * large.size()), 0U);
  EXPECT_EQ(LedgerCache::BytesKeptOf(LedgerCache::kMaxKeptBytes), LedgerCache::kMaxKeptBytes);
}

}  // namespace
}  // namespace heddle::client
