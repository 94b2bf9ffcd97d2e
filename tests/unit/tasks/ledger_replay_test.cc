// What a worker remembers of a ledger's replay and leaves of it for the next process: that it is right, that it is
// mended when it is not, and its memory.
#include "client/worker/ledger_replay.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/safetensors.h"
#include "tests/unit/common/temp_dir.h"
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

// An adapter's folder, from which each replay is one of a new process, and what a daemon does with it in between
// (client/daemon/ledger_weights.h).
class ManyProcesses : public testing::Test {
 protected:
  ManyProcesses() {
    peft::AdapterConfig config;
    config.target_modules = {"q_proj"};
    EXPECT_TRUE(peft::WriteAdapter(folder_.path(), config, one_.given).ok());
  }
  // With so many directions, and its weights.
  zo::Ledger Ledger(uint32_t round, uint64_t directions, uint64_t seed = 3) {
    zo::Ledger ledger = LedgerWith({});
    ledger.head.seed = seed;
    ledger.head.start = *Sha256File(folder_ / "adapter_model.safetensors");
    ledger.round = round;
    for (uint64_t ref = 0; ref < directions; ++ref) ledger.entries.push_back({ref, int64_t{1} << (15 + ref % 5)});
    Name(&ledger);
    return ledger;
  }
  void Name(zo::Ledger* ledger) { ledger->weights = one_.Expected(*ledger); }

  struct Replayed {
    Sha256Digest weights;
    uint64_t directions = 0, fetched = 0;
    bool left = false;
  };
  Replayed NewProcess(const zo::Ledger& ledger) {
    EXPECT_TRUE(WriteFileAtomically(folder_ / zo::kLedgerFile, zo::EncodeLedger(ledger)).ok());
    zo::LedgerHead head = ledger.head;
    const auto start = ReadStart(folder_.path(), &head);
    EXPECT_TRUE(start.ok()) << start.status();
    if (!start.ok()) return {};
    LedgerCache cache;
    auto parameters = one_.At(one_.start);
    const auto weights = cache.Replay(start->ledger, start->adapter.tensors, parameters, 1,
                                      start->fetched ? &*start->fetched : nullptr, folder_.path());
    EXPECT_TRUE(weights.ok()) << weights.status();
    return {weights.ok() ? *weights : Sha256Digest(), cache.directions(), cache.fetched(),
            std::filesystem::exists(folder_ / kReplayedWeightsFile)};
  }
  void KeepAsTheDaemonDoes(const zo::Ledger& ledger) {
    std::filesystem::rename(folder_ / kReplayedWeightsFile, folder_ / zo::kLedgerWeightsFile);
    ASSERT_TRUE(WriteFileAtomically(folder_ / zo::kLedgerOfWeightsFile, zo::EncodeLedger(ledger)).ok());
  }

  OneTensor one_{5000};
  TempDir folder_;
};

TEST_F(ManyProcesses, TheNextOneReplaysOnlyWhatHasChangedToTheSameBits) {
  for (const bool importance : {false, true}) {  // a log; a pool whose seeds are drawn by what they are worth
    const auto ledger_of = [&](uint32_t round, uint64_t directions) {
      zo::Ledger ledger = Ledger(round, directions);
      if (importance) {
        ledger.head.pool_size = 512;
        ledger.importance = std::vector<uint8_t>(512, static_cast<uint8_t>(round));
      }
      ledger.entries.front().n += 77 * round;
      Name(&ledger);
      return ledger;
    };
    const zo::Ledger first = ledger_of(1, 200), second = ledger_of(2, 240), third = ledger_of(3, 400);
    const Replayed begun = NewProcess(first);
    EXPECT_EQ(begun.weights, first.weights);
    EXPECT_EQ(begun.directions, 200U);
    ASSERT_TRUE(begun.left);
    KeepAsTheDaemonDoes(first);
    const Replayed next = NewProcess(second);
    EXPECT_EQ(next.weights, second.weights);
    EXPECT_EQ(next.directions, 41U) << "the changed one and the new ones";
    EXPECT_EQ(next.fetched, 1U);
    EXPECT_FALSE(next.left) << "so few are replayed sooner than weights are written";
    const Replayed later = NewProcess(third);
    EXPECT_EQ(later.weights, third.weights);
    EXPECT_EQ(later.directions, 201U);
    ASSERT_TRUE(later.left);
    KeepAsTheDaemonDoes(third);
    const Replayed same = NewProcess(third);
    EXPECT_EQ(same.weights, third.weights);
    EXPECT_EQ(same.directions, 0U);
    EXPECT_EQ(same.fetched, 1U);
    EXPECT_FALSE(same.left) << "nothing has changed";
    std::filesystem::remove(folder_ / zo::kLedgerWeightsFile);
    std::filesystem::remove(folder_ / zo::kLedgerOfWeightsFile);
  }
}

TEST_F(ManyProcesses, DamagedAndForeignWeightsCostTheReplayAndAreReplaced) {
  const zo::Ledger ledger = Ledger(2, 200), other = Ledger(1, 150), foreign = Ledger(2, 200, 8);
  ASSERT_TRUE(NewProcess(other).left);
  std::filesystem::remove(folder_ / kReplayedWeightsFile);
  ASSERT_TRUE(NewProcess(ledger).left);
  KeepAsTheDaemonDoes(ledger);
  const std::filesystem::path weights = folder_ / zo::kLedgerWeightsFile, of = folder_ / zo::kLedgerOfWeightsFile;
  const std::string good = Slurp(weights);
  std::string flipped = good;
  flipped.back() = static_cast<char>(flipped.back() ^ 1);
  const std::vector<std::function<void()>> damages = {
      [&] { folder_.Write(weights.filename().string(), flipped); },
      [&] { folder_.Write(weights.filename().string(), good.substr(0, good.size() / 2)); },
      [&] { folder_.Write(weights.filename().string(), ""); },
      [&] { std::filesystem::remove(weights); },
      [&] { folder_.Write(of.filename().string(), zo::EncodeLedger(other)); },  // not of these weights
      [&] { folder_.Write(of.filename().string(), zo::EncodeLedger(foreign)); },
      [&] { folder_.Write(of.filename().string(), "no ledger"); },
  };
  for (size_t i = 0; i < damages.size(); ++i) {
    damages[i]();
    const Replayed all = NewProcess(ledger);
    EXPECT_EQ(all.weights, ledger.weights) << i;
    EXPECT_EQ(all.directions, 200U) << i;
    EXPECT_EQ(all.fetched, 0U) << i;
    ASSERT_TRUE(all.left) << i;
    EXPECT_EQ(Slurp(folder_ / kReplayedWeightsFile), good) << i;
    KeepAsTheDaemonDoes(ledger);
    EXPECT_EQ(NewProcess(ledger).directions, 0U) << i;
  }
}

TEST_F(ManyProcesses, WeightsAreLeftWhereThatIsWorthWhileAndPossible) {
  EXPECT_FALSE(NewProcess(Ledger(1, kDirectionsWorthAFile - 1)).left);
  const zo::Ledger ledger = Ledger(1, kDirectionsWorthAFile);
  // Not without a name by which the next process could tell them, not without a daemon, and not where there is no disk.
  zo::Ledger unnamed = ledger;
  unnamed.weights = {};
  EXPECT_FALSE(NewProcess(unnamed).left);
  LedgerCache cache;
  EXPECT_FALSE(cache.leaves_weights());
  auto parameters = one_.At(one_.start);
  EXPECT_EQ(cache.Replay(ledger, one_.given, parameters, 1).value(), ledger.weights);
  LedgerCache fresh;
  parameters = one_.At(one_.start);
  EXPECT_EQ(fresh.Replay(ledger, one_.given, parameters, 1, nullptr, folder_ / "none").value(), ledger.weights);
  EXPECT_FALSE(std::filesystem::exists(folder_ / kReplayedWeightsFile));
  const size_t files = folder_.Count();
  EXPECT_TRUE(NewProcess(ledger).left);
  EXPECT_EQ(folder_.Count(), files + 1) << "nothing half written stays";
  // Also by a process that remembers them: it may end before the next task.
  std::filesystem::remove(folder_ / kReplayedWeightsFile);
  parameters = one_.At(one_.start);
  EXPECT_EQ(fresh.Replay(ledger, one_.given, parameters, 1, nullptr, folder_.path()).value(), ledger.weights);
  EXPECT_EQ(fresh.reused(), 1U);
  EXPECT_TRUE(std::filesystem::exists(folder_ / kReplayedWeightsFile));
}

TEST_F(ManyProcesses, WeightsTooLargeToBeRememberedAreLeftAndNeverCopied) {
  std::vector<float> large(LedgerCache::kMaxKeptBytes / sizeof(float) + 1);
  std::vector<zo::Parameter> parameters = {*zo::MakeParameter("w", large, 0)};
  zo::Ledger ledger = LedgerWith({});
  for (uint64_t ref = 0; ref < kDirectionsWorthAFile; ++ref) ledger.entries.push_back({ref, 1 << 20});
  LedgerCache naming;
  ledger.weights = naming.Replay(ledger, {}, parameters, 2).value();
  std::fill(large.begin(), large.end(), 0.0F);
  const int64_t before = CountingNew::live_bytes();
  CountingNew::ForgetPeak();
  LedgerCache leaving;
  ASSERT_EQ(leaving.Replay(ledger, {}, parameters, 2, nullptr, folder_.path()).value(), ledger.weights);
  auto file = ReadSafetensors(folder_ / kReplayedWeightsFile, Misaligned::kKeep);
  ASSERT_TRUE(file.ok()) << file.status();
  const FetchedWeights left{ledger, std::move(file->tensors), std::move(file->files)};
  std::fill(large.begin(), large.end(), 0.0F);
  LedgerCache next;
  EXPECT_EQ(next.Replay(ledger, {}, parameters, 2, &left, folder_.path()).value(), ledger.weights);
  EXPECT_EQ(next.directions(), 0U);
  EXPECT_EQ(next.fetched(), 1U);
  EXPECT_LT(CountingNew::peak_bytes() - before, 4'000'000) << "of 64 MiB";
}

}  // namespace
}  // namespace heddle::client
