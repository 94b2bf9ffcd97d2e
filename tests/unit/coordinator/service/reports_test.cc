// Reports: updates that travel inside them, and that a report may only name what its device has shown to have.
#include <boost/json.hpp>
#include <cstring>
#include <limits>

#include "aggregation/compression/compressor.h"
#include "common/safetensors.h"
#include "protocol/limits.h"
#include "protocol/validate.h"
#include "tests/unit/coordinator/service/service_fixture.h"

namespace heddle::coordinator {
namespace {

using protocol::Pki;

class ReportsTest : public ServiceTest {
 protected:
  v1::ReportRequest InlineReportOf(const v1::TaskAssignment& assignment, const std::string& bytes) {
    v1::ReportRequest report = ReportOf(assignment, bytes);
    report.set_inline_update(bytes);
    return report;
  }
  v1::ReportResponse VerdictOn(const std::string& device, const v1::ReportRequest& report) {
    const HttpResponse response = Report(device, report);
    EXPECT_EQ(response.status, 200U);
    v1::ReportResponse verdict;
    EXPECT_TRUE(verdict.ParseFromString(response.body));
    return verdict;
  }
  std::string Good(const v1::TaskAssignment& assignment) { return SerializeSafetensors(GoodUpdate(assignment)); }
  void Restart() {
    clients_.clear();
    service_->Stop();
    service_.reset();
    service_ = Pki::Value(Service::Start(config_));
    admin_ = Pki::Value(AdminClient::Make(config_));
  }
};

TEST_F(ReportsTest, AnUpdateInsideItsReportCountsLikeOneThatWasUploaded) {
  SubmitRun();
  auto round = NextRound();
  const std::string bytes = Good(round["anna"]);
  ASSERT_LE(bytes.size(), protocol::kMaxInlineUpdateBytes);
  EXPECT_EQ(VerdictOn("anna", InlineReportOf(round["anna"], bytes)).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  ASSERT_TRUE(protocol::Eventually([&] { return CommittedRounds() == 1; }));
  // The mean of one update is the initial adapter plus that update.
  const StateDict update = GoodUpdate(round["anna"]);
  auto next = NextRound();
  const auto start = GoodUpdateBase(round["anna"]), model = GoodUpdateBase(next["anna"]);
  ASSERT_EQ(model.size(), update.size());
  for (const auto& [name, tensor] : update) {
    const auto values = tensor.values<float>(), before = start.at(name).values<float>(),
               after = model.at(name).values<float>();
    for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(after[i], before[i] + values[i], 1e-6) << name;
  }
  // Again, and as a bare reference: the same answer, counted once.
  EXPECT_EQ(VerdictOn("anna", InlineReportOf(round["anna"], bytes)).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  EXPECT_EQ(VerdictOn("anna", ReportOf(round["anna"], bytes)).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  EXPECT_EQ(CommittedRounds(), 1);
}

TEST_F(ReportsTest, WhatATaskWithoutGradientsSaysOfItselfIsCountedOnce) {
  SubmitRun();
  auto round = NextRound();
  v1::ReportRequest report = InlineReportOf(round["anna"], Good(round["anna"]));
  report.mutable_metrics()->set_skipped_directions(3);
  report.mutable_metrics()->set_loss_stalled(true);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(VerdictOn("anna", report).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  const std::string metrics = Admin("GET", "/metrics").body;
  EXPECT_NE(metrics.find("\nheddle_zeroth_order_skipped_directions_total 3\n"), std::string::npos) << metrics;
  EXPECT_NE(metrics.find("\nheddle_zeroth_order_stalled_total 1\n"), std::string::npos) << metrics;
}

TEST_F(ReportsTest, AnAcceptedUpdateOfAnOpenRoundOutlivesARestart) {
  SubmitRun({{"cohort_size", "2"}, {"over_selection", "1"}});
  auto round = NextRound();
  const std::string bytes = Good(round["anna"]);
  const StateDict base = GoodUpdateBase(round["anna"]), update = GoodUpdate(round["anna"]);
  EXPECT_EQ(VerdictOn("anna", InlineReportOf(round["anna"], bytes)).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  Restart();
  EXPECT_EQ(VerdictOn("anna", InlineReportOf(round["anna"], bytes)).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  // Bert says the opposite, so that the model shows whether anna's half is in it.
  StateDict opposite;
  for (const auto& [name, tensor] : update) {
    std::vector<float> values;
    for (const float value : tensor.values<float>()) values.push_back(-3 * value);
    opposite.emplace(name, Tensor::FromFloats(tensor.shape(), values));
  }
  EXPECT_EQ(VerdictOn("bert", InlineReportOf(round["bert"], SerializeSafetensors(opposite))).verdict(),
            v1::REPORT_VERDICT_ACCEPTED);
  ASSERT_TRUE(protocol::Eventually([&] { return CommittedRounds() == 1; }));
  auto next = NextRound();
  for (const auto& [name, tensor] : GoodUpdateBase(next["anna"])) {
    const auto after = tensor.values<float>(), before = base.at(name).values<float>(),
               change = update.at(name).values<float>();
    for (size_t i = 0; i < after.size(); ++i) EXPECT_NEAR(after[i], before[i] - change[i], 1e-6) << name;
  }
}

TEST_F(ReportsTest, AnInlineUpdateThatIsNotWhatItSaysIsRefused) {
  SubmitRun();
  auto round = NextRound();
  const std::string bytes = Good(round["anna"]);
  v1::ReportRequest report = InlineReportOf(round["anna"], bytes);
  (*report.mutable_inline_update())[bytes.size() / 2] ^= 1;
  ExpectRefused(Report("anna", report), v1::REFUSAL_REASON_DIGEST_MISMATCH);
  report = InlineReportOf(round["anna"], bytes);
  report.mutable_inline_update()->pop_back();
  ExpectRefused(Report("anna", report), v1::REFUSAL_REASON_MALFORMED);
  report = InlineReportOf(round["anna"], std::string(protocol::kMaxInlineUpdateBytes + 1, 'x'));
  ExpectRefused(Report("anna", report), v1::REFUSAL_REASON_MALFORMED);
  report = InlineReportOf(round["anna"], bytes);
  report.set_outcome(v1::TASK_OUTCOME_FAILED);
  report.clear_update();
  ExpectRefused(Report("anna", report), v1::REFUSAL_REASON_MALFORMED);
  // None of these decided anything. What can be read but is no update does.
  const v1::ReportResponse verdict = VerdictOn("anna", InlineReportOf(round["anna"], "no safetensors"));
  EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_INVALID);
  EXPECT_EQ(verdict.refusal().reason(), v1::REFUSAL_REASON_BAD_UPDATE);
  CommitRound("bert", round["bert"]);
}

TEST_F(ReportsTest, AnUpdateOfAnotherVersionOfTheModelIsRefused) {
  SubmitRun();
  auto round = NextRound();
  CommitRound("anna", round["anna"]);
  auto next = NextRound();
  v1::ReportRequest report = InlineReportOf(next["anna"], Good(next["anna"]));
  report.set_parent_sha256(round["anna"].plan().adapter(1).sha256());
  const v1::ReportResponse verdict = VerdictOn("anna", report);
  EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_INVALID);
  EXPECT_EQ(protocol::ReasonName(verdict.refusal().reason()), "WRONG_BASE");
  report = InlineReportOf(next["bert"], Good(next["bert"]));
  report.clear_parent_sha256();  // of a device that does not say: its assignment stands for it
  EXPECT_EQ(VerdictOn("bert", report).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  report.set_parent_sha256("short");
  ExpectRefused(Report("bert", report), v1::REFUSAL_REASON_MALFORMED);
}

TEST_F(ReportsTest, WhereDownloadsAreRoundedAnUpdateIsOfTheRoundingAndNotOfTheModel) {
  SubmitRun({{"cohort_size", "2"}, {"over_selection", "1"}}, "[compression]\ndownload = \"bf16\"\n");
  auto round = NextRound();
  // Made by a device that widens what it got; its own update is float32.
  const auto update = [&](const char* device) {
    StateDict out;
    for (const auto& [name, tensor] : GoodUpdateBase(round[device])) {
      EXPECT_EQ(tensor.dtype(), DType::kBF16) << name;
      const std::vector<float> values(static_cast<size_t>(tensor.numel()), 0.01F);
      out.emplace(name, Tensor::FromFloats(tensor.shape(), values));
    }
    return SerializeSafetensors(out);
  };
  const std::string bytes = update("anna");
  v1::ReportRequest report = InlineReportOf(round["bert"], bytes);
  const Sha256Digest canonical =
      Pki::Value(Sha256Digest::FromHex(boost::json::value_to<std::string>(Run().at("model_sha256"))));
  EXPECT_NE(report.parent_sha256(), canonical.raw());
  report.set_parent_sha256(std::string(canonical.raw()));
  EXPECT_EQ(protocol::ReasonName(VerdictOn("bert", report).refusal().reason()), "WRONG_BASE");
  // An update in the dtype of the download is none.
  StateDict half;
  for (const auto& [name, tensor] : GoodUpdateBase(round["anna"])) half.emplace(name, tensor);
  const v1::ReportResponse verdict = VerdictOn("anna", InlineReportOf(round["anna"], SerializeSafetensors(half)));
  EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_INVALID);
  EXPECT_EQ(protocol::ReasonName(verdict.refusal().reason()), "WRONG_DTYPE");
}

// ---- whose update it is ----

TEST_F(ReportsTest, ToKnowTheDigestOfAnothersUpdateIsNotToHaveIt) {
  SubmitRun({{"cohort_size", "2"}, {"over_selection", "1"}});
  auto round = NextRound();
  const std::string bytes = Good(round["anna"]);
  EXPECT_EQ(Upload("anna", round["anna"].assignment_id(), bytes).status, 201U);
  // Bert names it without having sent a byte.
  ExpectRefused(Report("bert", ReportOf(round["bert"], bytes)), v1::REFUSAL_REASON_NOT_FOUND);
  HttpRequest claim = UploadRequest(round["bert"].assignment_id(), bytes);
  claim.body.clear();
  const HttpResponse claimed = Send(Device("bert"), std::move(claim));
  EXPECT_EQ(claimed.status, 201U);
  EXPECT_EQ(claimed.Header("Upload-Complete"), std::nullopt);
  EXPECT_EQ(claimed.Header("Upload-Offset"), "0");
  ExpectRefused(Report("bert", ReportOf(round["bert"], bytes)), v1::REFUSAL_REASON_NOT_FOUND);
  // Who really has the same bytes may send them.
  EXPECT_EQ(Upload("bert", round["bert"].assignment_id(), bytes).Header("Upload-Complete"), "1");
  EXPECT_EQ(VerdictOn("bert", ReportOf(round["bert"], bytes)).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  EXPECT_EQ(VerdictOn("anna", ReportOf(round["anna"], bytes)).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  EXPECT_TRUE(protocol::Eventually([&] { return CommittedRounds() == 1; }));
}

TEST_F(ReportsTest, AnUploadOfAnEarlierTaskDoesNotServeForALaterOne) {
  SubmitRun();
  auto round = NextRound();
  const std::string bytes = Good(round["anna"]);
  CommitRound("anna", round["anna"]);
  auto next = NextRound();
  ExpectRefused(Report("anna", ReportOf(next["anna"], bytes)), v1::REFUSAL_REASON_NOT_FOUND);
  CommitRound("bert", next["bert"]);
}

TEST_F(ReportsTest, ADeviceThatUploadsAgainKeepsOneUpdateOnTheDisk) {
  SubmitRun();
  auto round = NextRound();
  const std::string id = round["anna"].assignment_id();
  const std::string first = protocol::MakeBytes(3000), second = protocol::MakeBytes(4000);
  const auto path = [&](const std::string& bytes) {
    const std::string hex = Sha256(bytes).ToHex();
    return std::filesystem::path(config_.state_dir) / "blobs" / hex.substr(0, 2) / hex;
  };
  EXPECT_EQ(Upload("anna", id, first).Header("Upload-Complete"), "1");
  EXPECT_TRUE(std::filesystem::exists(path(first)));
  EXPECT_EQ(Upload("anna", id, second).Header("Upload-Complete"), "1");
  EXPECT_FALSE(std::filesystem::exists(path(first)));
  EXPECT_TRUE(std::filesystem::exists(path(second)));
  // Asked again about what it has sent: there is nothing left to send, also after a restart.
  Restart();
  HttpRequest again = UploadRequest(id, second);
  again.body.clear();
  EXPECT_EQ(Send(Device("anna"), std::move(again)).Header("Upload-Complete"), "1");
}

// As a device does it that follows its plan.
compression::Compressor CompressorOf(const v1::TaskPlan& plan) {
  const auto& words = plan.train().rules().upload();
  auto stages = compression::Pipeline::Parse(std::vector<std::string>(words.begin(), words.end()));
  EXPECT_TRUE(stages.ok() && !stages->empty()) << plan.ShortDebugString();
  return compression::Compressor(*stages, plan.seed());
}

std::string Encoded(const v1::TaskAssignment& assignment, const StateDict& update) {
  auto encoded = CompressorOf(assignment.plan()).Encode(update, nullptr);
  EXPECT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_LE(encoded->bytes.size(), assignment.plan().max_update_bytes());
  return encoded->bytes;
}

TEST_F(ReportsTest, AnUpdateThatWasMadeSmallerIsDecodedBeforeItIsCountedAlsoAfterARestart) {
  SubmitRun({{"cohort_size", "2"}, {"over_selection", "1"}},
            "[compression]\nupload = [\"random_mask:0.5\", \"int8\"]\n");
  auto round = NextRound();
  const StateDict base = GoodUpdateBase(round["anna"]), update = GoodUpdate(round["anna"]);
  std::map<std::string, StateDict> decoded;
  std::map<std::string, std::string> bytes;
  for (const char* device : {"anna", "bert"}) {
    bytes[device] = Encoded(round[device], update);
    EXPECT_LT(2 * bytes[device].size(), SerializeSafetensors(update).size());
    decoded[device] = Pki::Value(
        CompressorOf(round[device].plan()).Decode(std::as_bytes(std::span(bytes[device])), SpecOf(update), 1 << 20));
  }
  // Another seed for each device, and so another mask.
  EXPECT_NE(bytes["anna"], bytes["bert"]);
  EXPECT_EQ(VerdictOn("anna", InlineReportOf(round["anna"], bytes["anna"])).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  Restart();
  // The other one's is uploaded, not sent inside its report.
  EXPECT_EQ(Upload("bert", round["bert"].assignment_id(), bytes["bert"]).Header("Upload-Complete"), "1");
  EXPECT_EQ(VerdictOn("bert", ReportOf(round["bert"], bytes["bert"])).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  ASSERT_TRUE(protocol::Eventually([&] { return CommittedRounds() == 1; }));
  auto next = NextRound();
  for (const auto& [name, tensor] : GoodUpdateBase(next["anna"])) {
    const auto after = tensor.values<float>(), before = base.at(name).values<float>(),
               one = decoded["anna"].at(name).values<float>(), two = decoded["bert"].at(name).values<float>();
    for (size_t i = 0; i < after.size(); ++i) EXPECT_NEAR(after[i], before[i] + (one[i] + two[i]) / 2, 1e-6) << name;
  }
}

TEST_F(ReportsTest, BytesThatNoDeviceCanHaveEncodedForItsTaskAreRefused) {
  SubmitRun({}, "[compression]\nupload = [\"int8\"]\n");
  using Assignments = std::map<std::string, v1::TaskAssignment>;
  struct Bad {
    const char* what;
    std::function<std::string(Assignments& round, const StateDict& update)> bytes;
    v1::RefusalReason reason;
  };
  const Bad bad[] = {
      {"safetensors, as without compression",
       [](Assignments& round, const StateDict& update) {
         return SerializeSafetensors(update).substr(0, round["anna"].plan().max_update_bytes());
       },
       v1::REFUSAL_REASON_BAD_UPDATE},
      {"of another device's task",
       [](Assignments& round, const StateDict& update) { return Encoded(round["bert"], update); },
       v1::REFUSAL_REASON_BAD_UPDATE},
      {"cut off",
       [](Assignments& round, const StateDict& update) {
         const std::string whole = Encoded(round["anna"], update);
         return whole.substr(0, whole.size() - 1);
       },
       v1::REFUSAL_REASON_BAD_UPDATE},
      {"a scale that is no number",
       [](Assignments& round, const StateDict& update) {
         auto encoded = CompressorOf(round["anna"].plan()).Encode(update, nullptr);
         const float scale = std::numeric_limits<float>::quiet_NaN();
         std::memcpy(encoded->bytes.data() + encoded->count.header, &scale, sizeof scale);
         return encoded->bytes;
       },
       v1::REFUSAL_REASON_NOT_FINITE},
      {"too large once it is decoded",
       [](Assignments& round, const StateDict& update) {
         StateDict large;
         for (const auto& [name, tensor] : update) {
           const std::vector<float> values(static_cast<size_t>(tensor.numel()), 100.0F);
           large.emplace(name, Tensor::FromFloats(tensor.shape(), values));
         }
         return Encoded(round["anna"], large);
       },
       v1::REFUSAL_REASON_OUT_OF_BOUNDS},
  };
  int rounds = 0;
  for (const Bad& one : bad) {
    SCOPED_TRACE(one.what);
    auto round = NextRound();
    const StateDict update = GoodUpdate(round["anna"]);
    const v1::ReportResponse verdict = VerdictOn("anna", InlineReportOf(round["anna"], one.bytes(round, update)));
    EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_INVALID);
    EXPECT_EQ(verdict.refusal().reason(), one.reason) << verdict.refusal().message();
    EXPECT_EQ(VerdictOn("bert", InlineReportOf(round["bert"], Encoded(round["bert"], update))).verdict(),
              v1::REPORT_VERDICT_ACCEPTED);
    ++rounds;
    ASSERT_TRUE(protocol::Eventually([&] { return CommittedRounds() == rounds; }));
  }
}

}  // namespace
}  // namespace heddle::coordinator
