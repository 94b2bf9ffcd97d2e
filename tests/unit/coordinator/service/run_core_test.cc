#include "coordinator/service/run_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "aggregation/compression/coded_model.h"
#include "common/safetensors.h"
#include "protocol/validate.h"
#include "tests/unit/coordinator/store/temp_folder.h"
#include "tests/unit/coordinator/upgrade/small_run.h"

namespace heddle::coordinator {
namespace {

// A run of two devices that both ask for work; nothing is committed yet.
class RunCoreTest : public ::testing::Test {
 protected:
  RunCoreTest() {
    EXPECT_TRUE(run_.Open().ok());
    run_.Create(folder_.path());
    core().Take(Checkin(1, testing::SmallRun::kFirst));
    core().Take(Checkin(2, testing::SmallRun::kSecond));
  }

  static Event Checkin(PollToken token, const char* device) {
    return CheckinEvent{.token = token, .device = DeviceId(device), .local_tasks = {"lora_sft"}};
  }
  // Commits and returns the assignments that were given out.
  std::vector<AssignmentId> Assigned() {
    std::vector<AssignmentId> ids;
    const auto answers = core().Commit();
    EXPECT_TRUE(answers.ok()) << answers.status().ToString();
    if (!answers.ok()) return ids;
    for (const AddressedAnswer& item : *answers) {
      const auto* checkin = std::get_if<v1::CheckinResponse>(&item.answer);
      if (checkin != nullptr && checkin->has_assignment()) ids.emplace_back(checkin->assignment().assignment_id());
    }
    return ids;
  }
  RunCore& core() { return run_.core(); }

 private:
  testing::TempFolder folder_;
  testing::SmallRun run_{folder_.path() / "state"};
};

TEST_F(RunCoreTest, AnAssignmentIsOpenOnceItIsGivenOut) {
  const std::vector<AssignmentId> ids = Assigned();
  ASSERT_EQ(ids.size(), 2u);
  for (const AssignmentId& id : ids) EXPECT_TRUE(core().open_assignments()->Find(id).has_value());
}

TEST_F(RunCoreTest, AnAssignmentGivenOutAndClosedInOneCommitIsNotOpen) {
  core().Take(StopRunEvent{.reason = "enough"});
  const std::vector<AssignmentId> ids = Assigned();
  ASSERT_EQ(ids.size(), 2u);
  for (const AssignmentId& id : ids) EXPECT_FALSE(core().open_assignments()->Find(id).has_value());
}

// Downloads in bfloat16: what a device starts from is a file of its own; the canonical model stays float32.
class RoundedDownloads : public ::testing::Test {
 protected:
  RoundedDownloads() {
    EXPECT_TRUE(run_.Open().ok());
    run_.Create(folder_.path(), {{"compression.download", "bf16"}});
  }
  StateDict Read(const Sha256Digest& digest) {
    auto file = ReadSafetensors(run_.blobs().Path(digest));
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? std::move(file->tensors) : StateDict();
  }

  testing::TempFolder folder_;
  testing::SmallRun run_{folder_.path() / "state"};
};

TEST_F(RoundedDownloads, AreWhatTheAssignmentNamesAndHalfAsLong) {
  run_.Round();
  const Sha256Digest model = run_.run().model;
  run_.CheckinBoth();
  const StateDict whole = Read(model);
  for (const char* device : {testing::SmallRun::kFirst, testing::SmallRun::kSecond}) {
    const v1::TaskAssignment& task = run_.task(device);
    const v1::BlobRef& given = task.plan().adapter(1);
    const Sha256Digest start = protocol::DigestOf(given).value();
    EXPECT_NE(start, model);
    EXPECT_TRUE(run_.core().IsPublished(start));
    EXPECT_EQ(run_.core().open_assignments()->Find(AssignmentId(task.assignment_id()))->start, start);
    const StateDict rounded = Read(start);
    ASSERT_EQ(rounded.size(), whole.size());
    for (const auto& [key, tensor] : whole) {
      ASSERT_EQ(rounded.at(key).spec(), (TensorSpec{DType::kBF16, tensor.shape()})) << key;
      const auto values = tensor.values<float>();
      const auto near = rounded.at(key).ToFloats();
      for (size_t i = 0; i < values.size(); ++i) {
        EXPECT_LE(std::abs(values[i] - (*near)[i]), std::ldexp(std::abs(values[i]), -8)) << key;
      }
    }
    EXPECT_EQ(TotalBytes(rounded) * 2, TotalBytes(whole));
    EXPECT_EQ(given.size_bytes(), SerializeSafetensors(rounded).size());
  }
}

TEST_F(RoundedDownloads, LeaveTheModelInFloat32AndAddUpWhatDevicesCannotSee) {
  const StateDict first = Read(run_.run().model);
  for (int round = 0; round < 3; ++round) run_.Round();
  // Both devices send 0.01 times the round's number and a little, whatever they start from.
  const double added = 0.01 * (1 + 2 + 3) + 3 * (0.001 + 0.002) / 2;
  const StateDict last = Read(run_.run().model);
  for (const auto& [key, tensor] : first) {
    ASSERT_EQ(last.at(key).dtype(), DType::kF32);
    const auto before = tensor.values<float>(), after = last.at(key).values<float>();
    for (size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(after[i], before[i] + added, 1e-6) << key;
  }
}

TEST_F(RoundedDownloads, AreTheSameAfterARestart) {
  run_.Round();
  run_.CheckinBoth();
  const v1::BlobRef before = run_.task(testing::SmallRun::kFirst).plan().adapter(1);
  run_.Resume();
  run_.Checkin(testing::SmallRun::kFirst);
  EXPECT_EQ(run_.task(testing::SmallRun::kFirst).plan().adapter(1).sha256(), before.sha256());
  EXPECT_TRUE(run_.core().IsPublished(protocol::DigestOf(before).value()));
}

// In adaptive levels, as FedOBD's server sends them.
TEST(CodedDownloads, AreTheLevelsOfTheModelAndTheSameAfterARestart) {
  testing::TempFolder folder;
  testing::SmallRun run(folder.path() / "state");
  ASSERT_TRUE(run.Open().ok());
  run.Create(folder.path(), {{"compression.download", "nnadq:0.001"}});
  const auto read = [&run](const Sha256Digest& digest) {
    auto file = ReadSafetensors(run.blobs().Path(digest));
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? std::move(file->tensors) : StateDict();
  };
  const StateDict model = read(run.run().model);
  run.CheckinBoth();
  const v1::BlobRef given = run.task(testing::SmallRun::kFirst).plan().adapter(1);
  const StateDict sent = read(protocol::DigestOf(given).value());
  const auto decoded = compression::DecodedModel(sent);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_EQ(SpecOf(*decoded), SpecOf(model));
  size_t coded = 0;
  for (const auto& [key, tensor] : sent) coded += key.ends_with(compression::kCodedEnding) ? 1 : 0;
  EXPECT_GT(coded, 0U);
  for (const auto& [key, tensor] : model) {
    const auto values = tensor.values<float>(), near = decoded->at(key).values<float>();
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    const double half = (double{*most} - *least) / 2;
    const double levels = std::max(1.0, std::floor(std::sqrt(32 * half * std::log(4.0) / 0.001)));
    for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], near[i], half / levels * 0.501 + 1e-7) << key;
  }
  run.Resume();
  run.Checkin(testing::SmallRun::kFirst);
  EXPECT_EQ(run.task(testing::SmallRun::kFirst).plan().adapter(1).sha256(), given.sha256());
}

}  // namespace
}  // namespace heddle::coordinator
