// The daemon in this process against a fake coordinator over TLS, with a worker process of arithmetic.
#include "client/daemon/daemon.h"

#include <gmock/gmock.h>

#include <cmath>

#include "aggregation/privacy/update_privacy.h"
#include "client/daemon/enroll.h"
#include "common/file.h"
#include "common/safetensors.h"
#include "tests/unit/client/breaking_proxy.h"
#include "tests/unit/client/fake_coordinator.h"
#include "tests/unit/client/one_device.h"

namespace heddle::client {
namespace {

namespace fs = std::filesystem;
using protocol::Eventually;
using protocol::TempDir;
using testing::HasSubstr;

class DaemonTest : public OneDevice {
 protected:
  DaemonTest() : OneDevice(HEDDLE_BINARY_DIR) { config_.inline_update_bytes = 0; }
  ~DaemonTest() override { (void)Stop(); }

  void StartInBackground() {
    auto daemon = Daemon::Open(config_, options_);
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
    thread_ = std::thread([this] { end_ = daemon_->Run(); });
  }
  Status Stop() {
    if (daemon_) daemon_->RequestStop();
    if (thread_.joinable()) thread_.join();
    daemon_.reset();
    return end_;
  }
  v1::ReportRequest OnlyReport() {
    const auto reports = coordinator_.reports();
    EXPECT_EQ(reports.size(), 1u);
    return reports.empty() ? v1::ReportRequest() : reports.front();
  }
  void ExpectDelivered(const v1::TaskAssignment& assignment) {
    const auto upload = coordinator_.Upload(assignment.assignment_id());
    ASSERT_TRUE(upload);
    const v1::ReportRequest report = coordinator_.reports().back();
    EXPECT_EQ(report.assignment_id(), assignment.assignment_id());
    EXPECT_EQ(report.outcome(), v1::TASK_OUTCOME_COMPLETED);
    EXPECT_EQ(report.update().sha256(), Sha256(*upload).raw());
    EXPECT_EQ(report.update().size_bytes(), upload->size());
    EXPECT_EQ(report.metrics().num_examples(), 3 * assignment.plan().train().batch_size());
    EXPECT_GT(report.metrics().peak_memory_bytes(), 0u);
    auto owner = std::make_shared<std::string>(*upload);
    const auto file = ParseSafetensors(std::as_bytes(std::span(*owner)), owner);
    ASSERT_TRUE(file.ok()) << file.status();
    const size_t inputs = 2 + ("adapter " + std::to_string(assignment.plan().seed())).size();
    EXPECT_EQ(file->tensors.at("base_model.model.w").values<float>()[1],
              static_cast<float>(1 + assignment.plan().seed() + inputs));
  }

  std::unique_ptr<Daemon> daemon_;
  std::thread thread_;
  Status end_;
};

// ---- enrolment ----

TEST_F(DaemonTest, EnrolmentLeavesAnIdentityThatOnlyTheOwnerCanRead) {
  EnrollDevice();
  const IdentityFiles files = IdentityIn(config_.state_dir);
  EXPECT_EQ(fs::status(files.key).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(protocol::ReadAllOf(files.ca), coordinator_.pki().authority().certificate_pem());
  EXPECT_FALSE(fs::exists(files.certificate.string() + ".new"));
  EXPECT_EQ(Enroll(config_, coordinator_.IssueToken("phone-2")).status().code(), Code::kAlreadyExists);
}

TEST_F(DaemonTest, UsedOrUnknownTokenIsAClearSentence) {
  const std::string token = coordinator_.IssueToken("phone-1");
  ASSERT_TRUE(Enroll(config_, token).ok());
  config_.state_dir = temp_.path() / "other";
  const Status status = Enroll(config_, token).status();
  EXPECT_EQ(status.code(), Code::kPermissionDenied);
  EXPECT_THAT(status.message(), HasSubstr("unknown, used or expired"));
  EXPECT_FALSE(fs::exists(IdentityIn(config_.state_dir).certificate));
  // The key of the failed attempt serves the next one.
  EXPECT_TRUE(Enroll(config_, coordinator_.IssueToken("phone-3")).ok());
}

TEST_F(DaemonTest, TokenOfAnotherCoordinatorGoesToNobody) {
  protocol::Pki other("Another authority");
  const std::string token = coordinator_.IssueToken("phone-1");
  const std::string foreign = token.substr(0, token.rfind('.') + 1) + other.authority().fingerprint();
  EXPECT_EQ(Enroll(config_, foreign).status().code(), Code::kUnauthenticated);
  EXPECT_EQ(coordinator_.CountRequests("/v1/enroll"), 0u);
  EXPECT_TRUE(Enroll(config_, token).ok()) << "the secret was not spent";
}

TEST(EnrolmentTokens, MustBeWhole) {
  const std::string fingerprint(64, 'a');
  EXPECT_EQ(ParseToken("secret." + fingerprint)->secret, "secret");
  EXPECT_EQ(ParseToken("with.dot." + fingerprint)->secret, "with.dot");
  for (const std::string& bad : {std::string(), std::string("secret"), "." + fingerprint, "secret." + fingerprint + "a",
                                 "secret.zz" + fingerprint.substr(2), std::string(300, 'x') + "." + fingerprint})
    EXPECT_EQ(ParseToken(bad).status().code(), Code::kInvalidArgument) << bad;
}

// ---- the day of a device ----

TEST_F(DaemonTest, DeviceTrainsOneTaskAfterAnother) {
  EnrollDevice();
  const v1::TaskAssignment first = coordinator_.MakeAssignment(1), second = coordinator_.MakeAssignment(2);
  coordinator_.Offer(first);
  coordinator_.Offer(second);
  const Status end = RunTasks(2);
  EXPECT_TRUE(end.ok()) << end;
  ASSERT_EQ(coordinator_.reports().size(), 2u);
  ExpectDelivered(second);
  EXPECT_EQ(coordinator_.devices(), std::set<std::string>{"phone-1"});
  // Two files of the base model, one adapter each: what is there already is not fetched again.
  EXPECT_EQ(coordinator_.CountRequests("GET /v1/blobs/"), 4u);
  EXPECT_FALSE(fs::exists(config_.state_dir / "journal"));
  EXPECT_FALSE(fs::exists(config_.state_dir / "work" / "update.safetensors"));
}

TEST_F(DaemonTest, SmallUpdateTravelsInsideItsReport) {
  EnrollDevice();
  config_.inline_update_bytes = protocol::kMaxInlineUpdateBytes;
  const v1::TaskAssignment small = coordinator_.MakeAssignment(1), large = coordinator_.MakeAssignment(2, 1000, 64);
  coordinator_.Offer(small);
  coordinator_.Offer(large);
  EXPECT_TRUE(RunTasks(2).ok());
  ExpectDelivered(large);
  const auto update = coordinator_.InlineUpdate(small.assignment_id());
  ASSERT_TRUE(update);
  EXPECT_EQ(Sha256(*update).raw(), coordinator_.reports().front().update().sha256());
  EXPECT_EQ(coordinator_.Upload(small.assignment_id()), std::nullopt);
  EXPECT_EQ(coordinator_.InlineUpdate(large.assignment_id()), std::nullopt);
}

TEST_F(DaemonTest, KeptWorkerServesTheNextTask) {
  EnrollDevice();
  config_.worker_keep_alive = Seconds(60);
  for (int i = 1; i <= 3; ++i) coordinator_.Offer(coordinator_.MakeAssignment(i));
  EXPECT_TRUE(RunTasks(3).ok());
  EXPECT_EQ(coordinator_.reports().size(), 3u);
}

TEST_F(DaemonTest, BrokenDownloadGoesOnByRange) {
  EnrollDevice();
  BreakingProxy proxy(coordinator_.port());
  config_.port = proxy.port();
  const v1::TaskAssignment assignment = coordinator_.MakeAssignment(1, 3'000'000);
  coordinator_.Offer(assignment);
  proxy.BreakDownAfter(1'500'000);
  const Status end = RunTasks(1);
  EXPECT_TRUE(end.ok()) << end;
  ExpectDelivered(assignment);
  EXPECT_EQ(proxy.breaks(), 1);
  ASSERT_EQ(coordinator_.CountRequests("bytes="), 1u);
  EXPECT_EQ(coordinator_.CountRequests("bytes=0-"), 0u);
}

TEST_F(DaemonTest, DownloadOfAnEarlierProcessGoesOnByRange) {
  EnrollDevice();
  const v1::TaskAssignment assignment = coordinator_.MakeAssignment(1, 100'000);
  const v1::BlobRef& model = assignment.plan().base_model(1);
  const std::string hex = Sha256Digest::FromBytes(model.sha256())->ToHex();
  fs::create_directories(config_.state_dir / "cache");
  ASSERT_TRUE(WriteFileAtomically(config_.state_dir / "cache" / (hex + ".part"),
                                  protocol::MakeBytes(100'000, 77).substr(0, 60'000))
                  .ok());
  coordinator_.Offer(assignment);
  EXPECT_TRUE(RunTasks(1).ok());
  ExpectDelivered(assignment);
  EXPECT_EQ(coordinator_.CountRequests(hex + " bytes=60000-"), 1u);
}

TEST_F(DaemonTest, BrokenUploadGoesOnWhereItBroke) {
  EnrollDevice();
  BreakingProxy proxy(coordinator_.port());
  config_.port = proxy.port();
  const v1::TaskAssignment assignment = coordinator_.MakeAssignment(1, 1000, 512);  // 2 MB
  coordinator_.Offer(assignment);
  proxy.BreakUpAfter(1'000'000);
  const Status end = RunTasks(1);
  EXPECT_TRUE(end.ok()) << end;
  ExpectDelivered(assignment);
  EXPECT_EQ(proxy.breaks(), 1);
  EXPECT_EQ(coordinator_.CountRequests("POST /v1/uploads "), 2u);
  EXPECT_EQ(coordinator_.CountRequests("PATCH /v1/uploads/"), 1u);
}

TEST_F(DaemonTest, UploadBrokenInItsContinuationAsksForTheOffset) {
  EnrollDevice();
  BreakingProxy proxy(coordinator_.port());
  config_.port = proxy.port();
  const v1::TaskAssignment assignment = coordinator_.MakeAssignment(1, 1000, 512);
  coordinator_.Offer(assignment);
  proxy.BreakUpAfter(500'000);
  std::thread again([&] {
    if (Eventually([&] { return proxy.breaks() == 1; })) proxy.BreakUpAfter(700'000);
  });
  EXPECT_TRUE(RunTasks(1).ok());
  again.join();
  ExpectDelivered(assignment);
  EXPECT_EQ(proxy.breaks(), 2);
  EXPECT_EQ(coordinator_.CountRequests("HEAD /v1/uploads/"), 1u);
  EXPECT_EQ(coordinator_.CountRequests("PATCH /v1/uploads/"), 2u);
}

TEST_F(DaemonTest, RefusalsForNowAreWaitedOut) {
  EnrollDevice();
  const v1::TaskAssignment assignment = coordinator_.MakeAssignment(1);
  coordinator_.Offer(assignment);
  for (const char* path : {"/v1/checkin", "/v1/blobs/", "/v1/uploads", "/v1/reports"}) {
    for (int i = 0; i < 2; ++i)
      coordinator_.RefuseNext(path, protocol::MakeRefusal(v1::REFUSAL_REASON_OVERLOADED, "busy", Seconds(0.01)));
  }
  const Status end = RunTasks(1);
  EXPECT_TRUE(end.ok()) << end;
  ExpectDelivered(assignment);
}

TEST_F(DaemonTest, RevokedDeviceStopsWithASentence) {
  EnrollDevice();
  coordinator_.RefuseNext("/v1/checkin", protocol::MakeRefusal(v1::REFUSAL_REASON_REVOKED, "revoked yesterday"));
  const Status end = RunTasks(1);
  EXPECT_EQ(end.code(), Code::kPermissionDenied);
  EXPECT_THAT(end.message(), HasSubstr("revoked yesterday"));
}

TEST_F(DaemonTest, BlobWithOtherBytesIsFetchedTwiceAndThenFailsTheTask) {
  EnrollDevice();
  const v1::TaskAssignment assignment = coordinator_.MakeAssignment(1);
  coordinator_.Corrupt(assignment.plan().base_model(1), protocol::MakeBytes(1000, 5));
  coordinator_.Offer(assignment);
  EXPECT_TRUE(RunTasks(1).ok());
  EXPECT_EQ(OnlyReport().outcome(), v1::TASK_OUTCOME_FAILED);
  EXPECT_THAT(OnlyReport().message(), HasSubstr("model.safetensors"));
  const std::string hex = Sha256Digest::FromBytes(assignment.plan().base_model(1).sha256())->ToHex();
  EXPECT_EQ(coordinator_.CountRequests(hex), 2u);
}

TEST_F(DaemonTest, TaskLargerThanTheCacheIsReportedAsFailed) {
  EnrollDevice();
  config_.cache_max_bytes = 5000;
  coordinator_.Offer(coordinator_.MakeAssignment(1, 10'000));
  EXPECT_TRUE(RunTasks(1).ok());
  EXPECT_EQ(OnlyReport().outcome(), v1::TASK_OUTCOME_FAILED);
  EXPECT_THAT(OnlyReport().message(), HasSubstr("max_bytes"));
  EXPECT_EQ(coordinator_.CountRequests("GET /v1/blobs/"), 0u);
}

// The links to a model's files would keep what the cache has deleted on the disk.
TEST_F(DaemonTest, AnotherModelIsFetchedWithinTheLimitOfTheDisk) {
  EnrollDevice();
  config_.cache_max_bytes = 15'000;
  coordinator_.Offer(coordinator_.MakeAssignment(1, 10'000));
  EXPECT_TRUE(RunTasks(1).ok());
  EXPECT_EQ(OnlyReport().outcome(), v1::TASK_OUTCOME_COMPLETED) << OnlyReport().message();
  const v1::TaskAssignment other = coordinator_.MakeAssignment(2, 10'001);
  coordinator_.Corrupt(other.plan().base_model(1), protocol::MakeBytes(10'001, 5));  // so that it gets no further
  coordinator_.Offer(other);
  EXPECT_TRUE(RunTasks(1).ok());
  EXPECT_EQ(coordinator_.reports().back().outcome(), v1::TASK_OUTCOME_FAILED);
  for (const auto& entry : fs::directory_iterator(config_.state_dir / "work")) {
    EXPECT_FALSE(entry.path().filename().string().starts_with("base-")) << "still holds the first model";
  }
}

// ---- workers that go wrong ----

TEST_F(DaemonTest, EndsOfTheWorkerAreReportedWithTheirReason) {
  EnrollDevice();
  struct Case {
    const char* mode;
    v1::TaskOutcome outcome;
    const char* reason;
  };
  for (const Case& c :
       {Case{"kill", v1::TASK_OUTCOME_INTERRUPTED, "signal 9"}, Case{"abort", v1::TASK_OUTCOME_FAILED, "signal 6"},
        Case{"exit", v1::TASK_OUTCOME_FAILED, "status 7"}, Case{"fail", v1::TASK_OUTCOME_FAILED, "not to my taste"}}) {
    Mode(c.mode);
    coordinator_.Offer(coordinator_.MakeAssignment(1));
    EXPECT_TRUE(RunTasks(1).ok());
    ASSERT_FALSE(coordinator_.reports().empty());
    EXPECT_EQ(coordinator_.reports().back().outcome(), c.outcome) << c.mode;
    EXPECT_THAT(coordinator_.reports().back().message(), HasSubstr(c.reason));
  }
  Mode("ok");
  const v1::TaskAssignment assignment = coordinator_.MakeAssignment(2);
  coordinator_.Offer(assignment);
  EXPECT_TRUE(RunTasks(1).ok());
  ExpectDelivered(assignment);
}

TEST_F(DaemonTest, MissingWorkerStopsTheDaemonWithItsName) {
  EnrollDevice();
  config_.worker_binary = "/nonexistent/worker";
  const Status end = RunTasks(1);
  EXPECT_FALSE(end.ok());
  EXPECT_THAT(end.message(), HasSubstr("/nonexistent/worker"));
}

// ---- interruptions ----

TEST_F(DaemonTest, DeviceThatMayNoLongerTrainInterruptsAndTakesUpAgain) {
  EnrollDevice();
  Mode("slow");
  config_.eligibility.file = temp_.path() / "may-train";
  StartInBackground();
  coordinator_.Offer(coordinator_.MakeAssignment(1));
  // Nothing happens before the file is there.
  EXPECT_EQ(coordinator_.requests().size(), 1u) << "the enrolment";
  ASSERT_TRUE(WriteFileAtomically(config_.eligibility.file, "").ok());
  ASSERT_TRUE(Eventually([&] { return coordinator_.CountRequests("GET /v1/blobs/") == 3; }));
  fs::remove(config_.eligibility.file);
  ASSERT_TRUE(Eventually([&] { return !coordinator_.reports().empty(); }));
  EXPECT_EQ(OnlyReport().outcome(), v1::TASK_OUTCOME_INTERRUPTED);
  EXPECT_THAT(OnlyReport().message(), HasSubstr("may-train"));
  Mode("ok");
  const v1::TaskAssignment next = coordinator_.MakeAssignment(2);
  coordinator_.Offer(next);
  ASSERT_TRUE(WriteFileAtomically(config_.eligibility.file, "").ok());
  ASSERT_TRUE(Eventually([&] { return coordinator_.reports().size() == 2; }));
  EXPECT_TRUE(Stop().ok());
  ExpectDelivered(next);
}

TEST_F(DaemonTest, StopWhileTrainingReportsTheInterruption) {
  EnrollDevice();
  Mode("slow");
  coordinator_.Offer(coordinator_.MakeAssignment(1));
  StartInBackground();
  ASSERT_TRUE(Eventually([&] { return coordinator_.CountRequests("GET /v1/blobs/") == 3; }));
  EXPECT_TRUE(Stop().ok());
  EXPECT_EQ(OnlyReport().outcome(), v1::TASK_OUTCOME_INTERRUPTED);
}

TEST_F(DaemonTest, StopWhileWaitingForWorkIsClean) {
  EnrollDevice();
  StartInBackground();
  ASSERT_TRUE(Eventually([&] { return coordinator_.CountRequests("/v1/checkin") == 1; }));
  EXPECT_TRUE(Stop().ok());
  EXPECT_TRUE(coordinator_.reports().empty());
}

TEST_F(DaemonTest, FinishedWorkSurvivesARestart) {
  EnrollDevice();
  const v1::TaskAssignment assignment = coordinator_.MakeAssignment(1, 1000, 64);
  coordinator_.Offer(assignment);
  for (int i = 0; i < 1000; ++i)
    coordinator_.RefuseNext("/v1/uploads", protocol::MakeRefusal(v1::REFUSAL_REASON_UNAVAILABLE, "", Seconds(0.01)));
  StartInBackground();
  ASSERT_TRUE(Eventually([&] { return coordinator_.CountRequests("/v1/uploads") >= 2; }));
  EXPECT_TRUE(Stop().ok());
  EXPECT_TRUE(coordinator_.reports().empty());
  EXPECT_TRUE(fs::exists(config_.state_dir / "journal"));
  coordinator_.StopRefusing();
  Mode("fail");  // a task trained anew would show
  EXPECT_TRUE(RunTasks(1).ok());
  ExpectDelivered(assignment);
  EXPECT_FALSE(fs::exists(config_.state_dir / "journal"));
  EXPECT_EQ(coordinator_.CountRequests("GET /v1/blobs/"), 3u);
}

// What it keeps of an accepted task cannot be put in place, not before the next task either, and then the daemon ends.
TEST_F(DaemonTest, WhatWasAcceptedIsKeptThroughAFailedRenameAndARestart) {
  EnrollDevice();
  Mode("keep");
  const std::string name = Sha256("run-1").ToHex().substr(0, 32) + ".safetensors";
  const fs::path kept = config_.state_dir / "personal" / name, journal = config_.state_dir / "journal";
  fs::create_directories(kept / "in the way");
  for (const int number : {1, 2}) coordinator_.Offer(coordinator_.MakeAssignment(number));
  EXPECT_TRUE(RunTasks(2).ok());
  ASSERT_EQ(coordinator_.reports().size(), 2u);
  EXPECT_EQ(coordinator_.reports()[1].outcome(), v1::TASK_OUTCOME_FAILED) << "it would go on from an earlier state";
  fs::remove_all(kept);
  EXPECT_TRUE(RunTasks(1).ok());
  EXPECT_EQ(coordinator_.reports().back().assignment_id(), coordinator_.reports().front().assignment_id());
  EXPECT_TRUE(fs::is_regular_file(kept) && !fs::exists(journal));
}

TEST_F(DaemonTest, BrokenJournalIsDropped) {
  EnrollDevice();
  ASSERT_TRUE(WriteFileAtomically(config_.state_dir / "journal", "\xff\xff rubbish").ok());
  const v1::TaskAssignment assignment = coordinator_.MakeAssignment(1);
  coordinator_.Offer(assignment);
  EXPECT_TRUE(RunTasks(1).ok());
  ExpectDelivered(assignment);
}

// ---- noise on updates ----

// The tensors of what was uploaded for the assignment.
StateDict Uploaded(const FakeCoordinator& coordinator, const v1::TaskAssignment& assignment) {
  const auto upload = coordinator.Upload(assignment.assignment_id());
  EXPECT_TRUE(upload);
  if (!upload) return {};
  auto owner = std::make_shared<std::string>(*upload);
  auto file = ParseSafetensors(std::as_bytes(std::span(*owner)), owner);
  EXPECT_TRUE(file.ok()) << file.status();
  return file.ok() ? file->tensors : StateDict();
}

TEST_F(DaemonTest, NoiseComesFromTheDevicesOwnSecretAndATaskDoneAgainSendsTheSameBytes) {
  EnrollDevice();
  const auto task = [&](int number, uint32_t round, uint32_t attempt) {
    v1::TaskAssignment assignment = coordinator_.MakeAssignment(1);  // the same plan
    assignment.set_assignment_id(std::string(24, 'b') + std::to_string(10'000'000 + number));
    assignment.set_round(round);
    // What a plan's next round differs in, though the worker here would not notice.
    assignment.mutable_plan()->mutable_train()->set_learning_rate(1.0 / round);
    assignment.set_attempt(attempt);
    assignment.mutable_plan()->mutable_train()->mutable_rules()->add_upload("clip:1");
    assignment.mutable_plan()->mutable_train()->mutable_rules()->add_upload("noise:2");
    return assignment;
  };
  v1::TaskAssignment plain = coordinator_.MakeAssignment(1);
  const std::vector<v1::TaskAssignment> tasks = {task(1, 1, 1), task(2, 1, 2), task(3, 2, 1)};
  coordinator_.Offer(plain);
  for (const v1::TaskAssignment& one : tasks) coordinator_.Offer(one);
  EXPECT_TRUE(RunTasks(2).ok());
  EXPECT_TRUE(RunTasks(2).ok()) << "another process goes on with the same secret";
  const auto sent = [&](size_t i) { return *coordinator_.Upload(tasks[i].assignment_id()); };
  EXPECT_EQ(sent(0), sent(1)) << "another attempt of the round";
  EXPECT_NE(sent(0), sent(2));
  EXPECT_TRUE(std::isnan(coordinator_.reports().back().metrics().train_loss()));

  const fs::path file = config_.state_dir / "noise.secret";
  EXPECT_EQ(fs::status(file).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  const auto secret = ReadFile(file);
  ASSERT_TRUE(secret.ok()) << secret.status();
  for (size_t i : {size_t{0}, size_t{2}}) {
    const auto expected = privacy::MakePrivate(Uploaded(coordinator_, plain), {.clip = 1, .noise_multiplier = 2},
                                               privacy::TaskSecret(*secret, tasks[i].plan().SerializeAsString()));
    ASSERT_TRUE(expected.ok()) << expected.status();
    EXPECT_EQ(SerializeSafetensors(*expected), sent(i));
  }
}

TEST_F(DaemonTest, ASecretThatIsNoneFailsTheTaskInsteadOfSendingItsUpdate) {
  EnrollDevice();
  ASSERT_TRUE(WriteFileAtomically(config_.state_dir / "noise.secret", "").ok());
  v1::TaskAssignment assignment = coordinator_.MakeAssignment(1);
  assignment.mutable_plan()->mutable_train()->mutable_rules()->add_upload("clip:1");
  assignment.mutable_plan()->mutable_train()->mutable_rules()->add_upload("noise:2");
  coordinator_.Offer(assignment);
  EXPECT_TRUE(RunTasks(1).ok());
  const v1::ReportRequest report = OnlyReport();
  EXPECT_EQ(report.outcome(), v1::TASK_OUTCOME_FAILED);
  EXPECT_THAT(report.message(), HasSubstr("noise.secret is no secret"));
  EXPECT_EQ(coordinator_.Upload(assignment.assignment_id()), std::nullopt);
}

// ---- refusals to start ----

TEST_F(DaemonTest, SecondDaemonOnTheSameFolderIsRefused) {
  EnrollDevice();
  const auto first = Daemon::Open(config_, options_);
  ASSERT_TRUE(first.ok());
  const auto second = Daemon::Open(config_, options_);
  EXPECT_EQ(second.status().code(), Code::kFailedPrecondition);
  EXPECT_THAT(second.status().message(), HasSubstr("another heddle-client"));
}

TEST_F(DaemonTest, DeviceThatIsNotEnrolledIsToldHow) {
  const auto daemon = Daemon::Open(config_, options_);
  EXPECT_EQ(daemon.status().code(), Code::kFailedPrecondition);
  EXPECT_THAT(daemon.status().message(), HasSubstr("heddle-client enroll"));
}

TEST_F(DaemonTest, InsecureIsForLoopbackAndNeedsAName) {
  options_.insecure = true;
  EXPECT_EQ(Daemon::Open(config_, options_).status().code(), Code::kInvalidArgument);
  options_.insecure_device = "phone-9";
  EXPECT_TRUE(Daemon::Open(config_, options_).ok());
  config_.host = "192.0.2.7";
  EXPECT_THAT(Daemon::Open(config_, options_).status().message(), HasSubstr("loopback"));
}

TEST_F(DaemonTest, InsecureDeviceSaysItsNameWithEveryRequest) {
  FakeCoordinator plain(/*tls=*/false);
  config_.port = plain.port();
  options_.insecure = true;
  options_.insecure_device = "phone-9";
  plain.Offer(plain.MakeAssignment(1));
  EXPECT_TRUE(RunTasks(1).ok());
  EXPECT_EQ(plain.reports().size(), 1u);
  EXPECT_EQ(plain.devices(), std::set<std::string>{"phone-9"});
}

}  // namespace
}  // namespace heddle::client
