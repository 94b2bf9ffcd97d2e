// Whether a device fetches the weights of a ledger or replays it: by how many directions it would have to replay.
#include "client/daemon/ledger_weights.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>

#include "common/file.h"
#include "tests/unit/client/one_device.h"
#include "zo_optim/ledger/ledger.h"

namespace heddle::client {
namespace {

namespace fs = std::filesystem;

class LedgerWeightsTest : public OneDevice {
 protected:
  LedgerWeightsTest() : OneDevice(HEDDLE_BINARY_DIR) {}

  // A log of so many directions, as a run has it after `round`.
  static std::string LedgerOf(uint32_t round, uint64_t directions, uint64_t seed = 3) {
    zo::Ledger ledger{.head = {.seed = seed}, .round = round, .entries = {}, .importance = {}, .weights = Sha256("w")};
    for (uint64_t ref = 0; ref < directions; ++ref) ledger.entries.push_back({ref, static_cast<int64_t>(ref % 7) + 1});
    return zo::EncodeLedger(ledger);
  }
  // One task with this ledger, done. `sent`: the bytes that are sent as the weights, where they are others.
  void Task(const std::string& ledger, const std::optional<std::string>& weights,
            const std::optional<std::string>& sent = std::nullopt) {
    v1::TaskAssignment assignment = coordinator_.MakeAssignment(++tasks_);
    coordinator_.AddLedger(ledger, weights, &assignment);
    if (sent) coordinator_.Corrupt(protocol::MakeBlobRef(Sha256(*weights), weights->size(), "weights"), *sent);
    coordinator_.Offer(assignment);
    const Status end = RunTasks(1);
    EXPECT_TRUE(end.ok()) << end;
    ASSERT_EQ(coordinator_.reports().size(), static_cast<size_t>(tasks_));
    EXPECT_EQ(coordinator_.reports().back().outcome(), v1::TASK_OUTCOME_COMPLETED)
        << coordinator_.reports().back().message();
  }
  // What the worker was given beside the first adapter, by name.
  std::map<std::string, std::string> Given() {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(config_.state_dir / "work" / "adapter")) {
      const std::string name = entry.path().filename();
      if (name != "adapter_model.safetensors") files[name] = ReadFile(entry.path()).value();
    }
    return files;
  }
  size_t Asked() const { return coordinator_.CountRequests("/weights"); }

  int tasks_ = 0;
};

TEST_F(LedgerWeightsTest, ALongReplayIsFetchedAndTheNextOneIsOfWhatHasChangedSince) {
  EnrollDevice();
  config_.max_replayed_directions = 50;
  const std::string first = LedgerOf(1, 50), second = LedgerOf(2, 51), third = LedgerOf(3, 101),
                    fourth = LedgerOf(4, 102);
  Task(first, "weights 1");
  EXPECT_EQ(Asked(), 0U);
  EXPECT_EQ(Given(), (std::map<std::string, std::string>{{"ledger.bin", first}}));
  Task(second, "weights 2");
  EXPECT_EQ(Asked(), 1U);
  using Files = std::map<std::string, std::string>;
  EXPECT_EQ(
      Given(),
      (Files{{"ledger.bin", second}, {"ledger_weights.safetensors", "weights 2"}, {"ledger_of_weights.bin", second}}));
  Task(third, "weights 3");
  EXPECT_EQ(Asked(), 1U) << "50 directions since the second";
  EXPECT_EQ(
      Given(),
      (Files{{"ledger.bin", third}, {"ledger_weights.safetensors", "weights 2"}, {"ledger_of_weights.bin", second}}));
  Task(fourth, "weights 4");
  EXPECT_EQ(Asked(), 2U);
  EXPECT_EQ(Given().at("ledger_weights.safetensors"), "weights 4");
  EXPECT_EQ(Given().at("ledger_of_weights.bin"), fourth);
  // Another run's weights are of no use to this one.
  const std::string other = LedgerOf(4, 50, 8);
  Task(other, "weights of another run");
  EXPECT_EQ(Given(), (Files{{"ledger.bin", other}}));
}

TEST_F(LedgerWeightsTest, WithoutTheWeightsTheTaskIsDoneByReplay) {
  EnrollDevice();
  config_.max_replayed_directions = 10;
  const std::string ledger = LedgerOf(1, 400);
  Task(ledger, std::nullopt);  // the coordinator has them no more
  EXPECT_EQ(Asked(), 1U);
  EXPECT_EQ(Given(), (std::map<std::string, std::string>{{"ledger.bin", ledger}}));
  const std::string later = LedgerOf(2, 500);
  Task(later, "weights");
  EXPECT_EQ(Given().size(), 3U);
  // Other bytes than were named are not taken.
  const std::string last = LedgerOf(3, 900);
  Task(last, "right", "wrong");
  EXPECT_EQ(Asked(), 3U);
  EXPECT_EQ(Given().at("ledger_of_weights.bin"), later);
}

// Each task is done by a daemon and a worker of its own.
TEST_F(LedgerWeightsTest, WhatAWorkerLeavesIsWhereTheNextOneBegins) {
  EnrollDevice();
  using Files = std::map<std::string, std::string>;
  const auto cached = [&](const std::string& bytes) { return config_.state_dir / "cache" / Sha256(bytes).ToHex(); };
  const std::string first = LedgerOf(1, 50), second = LedgerOf(2, 60), third = LedgerOf(3, 70),
                    fourth = LedgerOf(4, 80), other = LedgerOf(4, 80, 8);
  Mode("leave");
  Task(first, std::nullopt);
  EXPECT_EQ(Given(), (Files{{"ledger.bin", first}})) << "what was left has been taken";
  EXPECT_TRUE(fs::exists(cached("replayed " + first)));
  Mode("ok");
  Task(second, std::nullopt);
  EXPECT_EQ(Given(), (Files{{"ledger.bin", second},
                            {"ledger_weights.safetensors", "replayed " + first},
                            {"ledger_of_weights.bin", first}}));
  Mode("leave");
  Task(second, std::nullopt);
  EXPECT_FALSE(fs::exists(cached("replayed " + first))) << "the newer ones take their place";
  EXPECT_FALSE(Given().contains("ledger_weights.safetensors")) << "and no name keeps them on the disk";
  Mode("ok");
  for (const std::string& ledger : {third, fourth}) {
    Task(ledger, std::nullopt);
    EXPECT_EQ(Given(), (Files{{"ledger.bin", ledger},
                              {"ledger_weights.safetensors", "replayed " + second},
                              {"ledger_of_weights.bin", second}}));
  }
  // To another run they are of no use, and other bytes are not taken for them.
  Task(other, std::nullopt);
  EXPECT_EQ(Given(), (Files{{"ledger.bin", other}}));
  std::string changed = "replayed " + second;
  changed.back() = static_cast<char>(changed.back() ^ 1);
  ASSERT_TRUE(WriteFileAtomically(cached("replayed " + second), changed).ok());
  Task(fourth, std::nullopt);
  EXPECT_EQ(Given(), (Files{{"ledger.bin", fourth}}));
  EXPECT_FALSE(fs::exists(cached("replayed " + second)));
  EXPECT_EQ(Asked(), 0U);
}

// The weights that a ledger leads to say nothing of the frozen ones below: those are held to the plan by their digest.
TEST_F(LedgerWeightsTest, ASpoiltOrAnotherFrozenBaseIsRefusedBeforeTheTask) {
  EnrollDevice();
  const std::string ledger = LedgerOf(1, 50), right = protocol::MakeBytes(1000, 77),
                    wrong = protocol::MakeBytes(1000, 5);
  Task(ledger, std::nullopt);
  // On the device's disk its base is spoilt, and what the coordinator sends in its place is another.
  const fs::path base = config_.state_dir / "cache" / Sha256(right).ToHex();
  ASSERT_EQ(ReadFile(base).value(), right);
  ASSERT_TRUE(WriteFileAtomically(base, wrong).ok());
  v1::TaskAssignment assignment = coordinator_.MakeAssignment(++tasks_);
  coordinator_.AddLedger(ledger, std::nullopt, &assignment);
  coordinator_.Corrupt(assignment.plan().base_model(1), wrong);
  coordinator_.Offer(assignment);
  EXPECT_TRUE(RunTasks(1).ok());
  ASSERT_EQ(coordinator_.reports().size(), 2U);
  EXPECT_EQ(coordinator_.reports().back().outcome(), v1::TASK_OUTCOME_FAILED);
  EXPECT_NE(coordinator_.reports().back().message().find(Sha256(right).ToHex()), std::string::npos)
      << coordinator_.reports().back().message();
  EXPECT_FALSE(fs::exists(config_.state_dir / "work" / "adapter")) << "a task was made ready";
  EXPECT_FALSE(fs::exists(base));
  coordinator_.Corrupt(assignment.plan().base_model(1), right);
  Task(ledger, std::nullopt);
  EXPECT_EQ(ReadFile(base).value(), right);
}

TEST(LedgerReplays, WhatIsLeftCountsInTheCacheAndWhatDoesNotFitIsThrownAway) {
  protocol::TempDir temp;
  const fs::path folder = temp.path() / "adapter", file = folder / "replayed_weights.safetensors";
  ASSERT_TRUE(MakeDirectories(folder).ok());
  BlobCache cache = *BlobCache::Open(temp.path() / "cache", 10'000);
  const auto put = [&](const std::string& bytes) {
    const CachedBlob blob{Sha256(bytes), bytes.size(), "ledger.bin"};
    EXPECT_TRUE(cache.Put(blob, bytes).ok());
    return blob;
  };
  zo::Ledger run{.head = {.seed = 3}, .round = 1, .entries = {{1, 5}}, .importance = {}, .weights = Sha256("w")};
  const CachedBlob ledger = put(zo::EncodeLedger(run));
  v1::TaskPlan plan;
  *plan.add_adapter() = protocol::MakeBlobRef(ledger.digest, ledger.size_bytes, ledger.name);
  const CachedBlob task = put(std::string(4000, 't')), old = put(std::string(3000, 'o'));
  ASSERT_TRUE(cache.Pin({ledger, task}).ok());
  const auto leave = [&](const std::string& bytes, const v1::TaskPlan& of) {
    ASSERT_TRUE(WriteFileAtomically(file, bytes).ok());
    TakeReplayedWeights(of, folder, &cache);
    EXPECT_FALSE(fs::exists(fs::symlink_status(file)));
    EXPECT_LE(cache.TotalBytes(), 10'000U);
  };
  TakeReplayedWeights(plan, folder, &cache);  // nothing was left
  EXPECT_TRUE(NearestWeights({ledger}, &cache).empty());
  leave("of no ledger", {});
  EXPECT_TRUE(NearestWeights({ledger}, &cache).empty());
  leave(std::string(5000, 'w'), plan);
  auto nearest = NearestWeights({ledger}, &cache);
  ASSERT_EQ(nearest.size(), 2U);
  EXPECT_EQ(nearest[0].digest, Sha256(std::string(5000, 'w')));
  EXPECT_EQ(nearest[0].size_bytes, 5000U);
  EXPECT_EQ(nearest[1].digest, ledger.digest);
  EXPECT_FALSE(cache.Find(old).has_value()) << "it had to make room";
  EXPECT_TRUE(cache.Find(task).has_value());
  // The next ones fit only where those were.
  leave(std::string(5500, 'x'), plan);
  nearest = NearestWeights({ledger}, &cache);
  ASSERT_EQ(nearest.size(), 2U);
  EXPECT_EQ(nearest[0].digest, Sha256(std::string(5500, 'x')));
  // Of those that never fit nothing is kept, and nothing makes room for them.
  leave(std::string(9000, 'y'), plan);
  nearest = NearestWeights({ledger}, &cache);
  ASSERT_EQ(nearest.size(), 2U);
  EXPECT_EQ(nearest[0].digest, Sha256(std::string(5500, 'x')));
  EXPECT_TRUE(cache.Find(task).has_value());
  // What a killed worker had begun, and the task's own name for weights that newer ones replace.
  for (const char* name : {"replayed_weights.safetensors.part", "ledger_weights.safetensors"}) {
    ASSERT_TRUE(WriteFileAtomically(folder / name, "of before").ok());
  }
  leave(std::string(5600, 'z'), plan);
  EXPECT_TRUE(fs::is_empty(folder));
  nearest = NearestWeights({ledger}, &cache);
  ASSERT_EQ(nearest.size(), 2U);
  EXPECT_EQ(nearest[0].digest, Sha256(std::string(5600, 'z')));
  // A link to what is the daemon's alone.
  ASSERT_TRUE(WriteFileAtomically(temp.path() / "secret", "secret").ok());
  fs::create_symlink(temp.path() / "secret", file);
  TakeReplayedWeights(plan, folder, &cache);
  nearest = NearestWeights({ledger}, &cache);
  ASSERT_EQ(nearest.size(), 2U);
  EXPECT_EQ(nearest[0].digest, Sha256(std::string(5600, 'z')));
  EXPECT_FALSE(cache.Find({Sha256("secret"), 6, "secret"}).has_value());
}

TEST(LedgerReplays, AShortLedgerIsNotEvenReadAndOneTooLongForThisProcessIsLong) {
  protocol::TempDir temp;
  BlobCache cache = *BlobCache::Open(temp.path() / "cache", 1 << 24);
  const auto put = [&](const std::string& bytes) {
    const CachedBlob blob{Sha256(bytes), bytes.size(), "ledger.bin"};
    EXPECT_TRUE(cache.Put(blob, bytes).ok());
    return blob;
  };
  const auto is_there = [&](const CachedBlob& blob) {
    std::error_code error;
    return fs::exists(temp.path() / "cache" / blob.digest.ToHex(), error);
  };
  // To be read it would have to be hashed, and be deleted for its other bytes.
  const CachedBlob spoilt = put(std::string(100, 'x'));
  ASSERT_TRUE(WriteFileAtomically(temp.path() / "cache" / spoilt.digest.ToHex(), std::string(100, 'y')).ok());
  EXPECT_FALSE(ReplaysMoreThan(400, spoilt, &cache));
  EXPECT_TRUE(NearestWeights({spoilt}, &cache).empty());
  EXPECT_TRUE(is_there(spoilt));
  EXPECT_FALSE(ReplaysMoreThan(399, spoilt, &cache)) << "it cannot be told";
  EXPECT_FALSE(is_there(spoilt));
  const CachedBlob large = put(std::string(protocol::kMaxPatchedLedgerBytes + 1, 'x'));
  EXPECT_TRUE(ReplaysMoreThan(65536, large, &cache));
  const CachedBlob weights = put("weights");
  RememberWeights(weights, large, &cache);
  EXPECT_FALSE(ReplaysMoreThan(65536, large, &cache));
  const auto nearest = NearestWeights({large}, &cache);
  ASSERT_EQ(nearest.size(), 2U);
  EXPECT_EQ(nearest[0].digest, weights.digest);
  EXPECT_EQ(nearest[1].digest, large.digest);
  EXPECT_EQ(nearest[1].name, zo::kLedgerOfWeightsFile);
  // Nothing is packed more tightly than the shortcut takes for granted.
  zo::Ledger dense{
      .head = {.seed = 1, .pool_size = zo::kMaxPoolSize}, .round = 1, .entries = {}, .importance = {}, .weights = {}};
  for (uint64_t ref = 0; ref < 100'000; ++ref) dense.entries.push_back({ref, -1});
  EXPECT_GE(4 * zo::EncodeLedger(dense).size(), dense.entries.size());
}

}  // namespace
}  // namespace heddle::client
