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
