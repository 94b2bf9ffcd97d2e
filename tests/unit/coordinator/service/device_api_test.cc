// What devices may not do, each with its typed refusal, and that nothing else is disturbed by it.
#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <sstream>

#include "common/safetensors.h"
#include "coordinator/service/retry_spread.h"
#include "protocol/limits.h"
#include "protocol/validate.h"
#include "tests/unit/coordinator/service/service_fixture.h"

namespace heddle::coordinator {
namespace {

using protocol::Pki;
using DeviceApiTest = ServiceTest;

// ---- who may speak ----

TEST_F(DeviceApiTest, EnrolsOnceWithAGoodTokenOnly) {
  const std::string token = Token("anna");
  ExpectRefused(Enroll("anna", "nonsense"), v1::REFUSAL_REASON_BAD_TOKEN);
  ExpectRefused(Enroll("anna", Token("anna", 1e-9)), v1::REFUSAL_REASON_BAD_TOKEN);  // a few microseconds
  // A request without a certificate request is refused and leaves the token good.
  v1::EnrollRequest request;
  request.set_token(token);
  request.set_csr_der("not a certificate request");
  ExpectRefused(Send(Device(""), HttpRequest("POST", "/v1/enroll", request.SerializeAsString())),
                v1::REFUSAL_REASON_MALFORMED);
  EXPECT_EQ(Enroll("anna", token).status, 200U);
  ExpectRefused(Enroll("anna", token), v1::REFUSAL_REASON_BAD_TOKEN);
}

TEST_F(DeviceApiTest, AnotherAuthoritysCertificateDoesNotGetThroughTheHandshake) {
  const Pki other("Somebody else");
  other.Enrol("anna");
  protocol::ClientTlsOptions tls;
  tls.ca_pem = Pki::Value(ReadFile(config_.pki() / "ca.crt"));
  tls.certificate = other.dir() / "anna.crt";
  tls.key = other.dir() / "anna.key";
  const auto client = Connect(tls);
  const auto answer = TrySend(*client, CheckinRequestOf());
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.status().code(), Code::kUnauthenticated) << answer.status().message();
}

TEST_F(DeviceApiTest, ADeviceDoesNotSpeakToAnotherCoordinator) {
  const Pki other("Somebody else");
  protocol::ClientTlsOptions tls;
  tls.ca_pem = other.authority().certificate_pem();
  const auto client = Connect(tls);
  const auto answer = TrySend(*client, CheckinRequestOf());
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.status().code(), Code::kUnauthenticated) << answer.status().message();
}

TEST_F(DeviceApiTest, WithoutACertificateOnlyEnrolmentIsThere) {
  HttpClient& stranger = Device("");
  const std::string blob = "/v1/blobs/" + std::string(64, 'a');
  for (const auto& [method, path] : std::map<std::string, std::string>{
           {"POST", "/v1/checkin"}, {"GET", blob}, {"PATCH", "/v1/uploads/" + std::string(32, 'a')}}) {
    SCOPED_TRACE(path);
    ExpectRefused(Send(stranger, HttpRequest(method, path)), v1::REFUSAL_REASON_UNAUTHENTICATED);
  }
}

TEST_F(DeviceApiTest, AReplacedCertificateIsWorthless) {
  HttpClient& first = Device("anna");
  EXPECT_EQ(Send(first, HttpRequest("GET", "/v1/blobs/" + std::string(64, 'a'))).status, 404U);
  protocol::ClientTlsOptions old;
  old.ca_pem = Pki::Value(ReadFile(config_.pki() / "ca.crt"));
  old.certificate = temp_.path() / "old.crt";
  old.key = temp_.path() / "anna.key";
  std::filesystem::copy_file(temp_.path() / "anna.crt", old.certificate);
  EXPECT_EQ(Enroll("anna", Token("anna")).status, 200U);
  const auto client = Connect(old);
  ExpectRefused(Send(*client, CheckinRequestOf()), v1::REFUSAL_REASON_UNAUTHENTICATED);
}

TEST_F(DeviceApiTest, ARevokedDevicesPollEndsAtOnceAndItIsToldWhyWhenItComesBack) {
  SubmitRun();
  Asked poll = Ask(Device("anna"), CheckinRequestOf());
  ASSERT_TRUE(protocol::Eventually([&] { return Run().at("devices_waiting").to_number<int>() == 1; }));
  Pki::Check(admin().Post("/v1/clients/anna:revoke", "").status());
  ASSERT_EQ(poll.done.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  ASSERT_TRUE(poll.answer->has_value());
  // The last word, or the closed connection: whichever comes first.
  if ((*poll.answer)->ok()) {
    ExpectRefused((*poll.answer)->value(), v1::REFUSAL_REASON_REVOKED);
  } else {
    EXPECT_EQ((*poll.answer)->status().code(), Code::kUnavailable) << (*poll.answer)->status().message();
  }
  ExpectRefused(Send(Device("anna"), CheckinRequestOf()), v1::REFUSAL_REASON_REVOKED);
  ExpectRefused(Send(Device("anna"), HttpRequest("GET", "/v1/blobs/" + std::string(64, 'a'))),
                v1::REFUSAL_REASON_REVOKED);
  EXPECT_TRUE(protocol::Eventually([&] { return Run().at("devices_waiting").to_number<int>() == 0; }));
}

TEST_F(DeviceApiTest, DevicesThatWaitAreToldToComeBackEachAtATimeOfItsOwn) {
  SubmitRun({{"min_available_devices", "10"}});
  std::vector<Asked> polls;
  for (const char* name : {"anna", "bert", "carl", "dora"}) polls.push_back(Ask(Device(name), CheckinRequestOf()));
  ASSERT_TRUE(protocol::Eventually([&] { return Run().at("devices_waiting").to_number<int>() == 4; }));
  service_->Stop();
  std::set<uint32_t> times;
  for (Asked& poll : polls) {
    ASSERT_EQ(poll.done.wait_for(std::chrono::seconds(10)), std::future_status::ready);
    ASSERT_TRUE(poll.answer->has_value() && (*poll.answer)->ok());
    const auto response = Pki::Value(protocol::ParseMessage<v1::CheckinResponse>((*poll.answer)->value().body));
    EXPECT_EQ(response.rejection().reason(), v1::REJECTION_REASON_SHUTTING_DOWN);
    EXPECT_GE(response.rejection().retry_after_ms(), 2000U);
    EXPECT_LE(response.rejection().retry_after_ms(), 3000U);
    times.insert(response.rejection().retry_after_ms());
  }
  EXPECT_EQ(times.size(), 4U);
}

TEST(RetrySpread, KeepsTheLeastAndSpreadsOverHalfAsMuchAgain) {
  RetrySpread spread("test");
  std::vector<double> drawn;
  for (int i = 0; i < 1000; ++i) drawn.push_back(ToSeconds(spread.From(Seconds(10))));
  const auto [least, most] = std::minmax_element(drawn.begin(), drawn.end());
  EXPECT_GE(*least, 10);
  EXPECT_LT(*least, 10.1);
  EXPECT_GT(*most, 14.9);
  EXPECT_LT(*most, 15);
  EXPECT_NEAR(std::accumulate(drawn.begin(), drawn.end(), 0.0) / 1000, 12.5, 0.3);  // 6 standard errors
  EXPECT_EQ(spread.From(Duration(0)), Duration(0));
}

TEST_F(DeviceApiTest, PlainTcpIsForLoopbackOnly) {
  service_->Stop();
  config_.listen_address = "0.0.0.0";
  const auto started = Service::Start(config_, {.insecure = true});
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.status().code(), Code::kInvalidArgument);
  EXPECT_NE(started.status().message().find("0.0.0.0"), std::string::npos) << started.status().message();
}

// ---- what they may say ----

TEST_F(DeviceApiTest, RefusesWhatItDoesNotUnderstand) {
  SubmitRun();
  auto round = NextRound();
  HttpClient& anna = Device("anna");
  for (const char* path : {"/v1/checkin", "/v1/reports", "/v1/enroll"}) {
    SCOPED_TRACE(path);
    ExpectRefused(Send(anna, HttpRequest("POST", path, "\xff\xff garbage \x01")), v1::REFUSAL_REASON_MALFORMED);
    ExpectRefused(Send(anna, HttpRequest("POST", path, std::string(protocol::kMaxMessageBytes + 1, 'x'))),
                  v1::REFUSAL_REASON_TOO_LARGE);
    ExpectRefused(Send(anna, HttpRequest("DELETE", path)), v1::REFUSAL_REASON_UNSUPPORTED);
  }
  ExpectRefused(Send(anna, CheckinRequestOf(99)), v1::REFUSAL_REASON_UNSUPPORTED_VERSION);
  for (const char* path : {"/", "/v2/checkin", "/v1/checkin/", "/v1/../v1/checkin", "/etc/passwd"}) {
    SCOPED_TRACE(path);
    ExpectRefused(Send(anna, HttpRequest("POST", path)), v1::REFUSAL_REASON_NOT_FOUND);
  }
  CommitRound("bert", round["bert"]);
}

// ---- blobs ----

TEST_F(DeviceApiTest, ServesPublishedBlobsWholeAndInParts) {
  SubmitRun();
  auto round = NextRound();
  const v1::BlobRef& ref = round["anna"].plan().adapter(1);
  const std::string hex = Pki::Value(protocol::DigestOf(ref)).ToHex();
  const std::string target = "/v1/blobs/" + hex, size = std::to_string(ref.size_bytes());
  HttpClient& anna = Device("anna");
  auto get = [&](protocol::Headers headers, const char* method = "GET") {
    HttpRequest request(method, target);
    request.headers = std::move(headers);
    return Send(anna, std::move(request));
  };
  const HttpResponse whole = get({});
  EXPECT_EQ(whole.status, 200U);
  EXPECT_EQ(Sha256(whole.body).ToHex(), hex);
  EXPECT_EQ(whole.Header("ETag"), "\"" + hex + "\"");
  EXPECT_EQ(whole.Header("Accept-Ranges"), "bytes");

  const HttpResponse middle = get({{"Range", "bytes=10-19"}});
  EXPECT_EQ(middle.status, 206U);
  EXPECT_EQ(middle.body, whole.body.substr(10, 10));
  EXPECT_EQ(middle.Header("Content-Range"), "bytes 10-19/" + size);
  EXPECT_EQ(get({{"Range", "bytes=-7"}}).body, whole.body.substr(whole.body.size() - 7));
  EXPECT_EQ(get({{"Range", "bytes=100-"}}).body, whole.body.substr(100));
  // A part of something else than what the device has is of no use to it.
  EXPECT_EQ(get({{"Range", "bytes=10-19"}, {"If-Range", "\"other\""}}).status, 200U);

  const HttpResponse beyond = get({{"Range", "bytes=" + size + "-"}});
  EXPECT_EQ(beyond.status, 416U);
  EXPECT_EQ(beyond.Header("Content-Range"), "bytes */" + size);
  const HttpResponse same = get({{"If-None-Match", "\"" + hex + "\""}});
  EXPECT_EQ(same.status, 304U);
  EXPECT_TRUE(same.body.empty());
  const HttpResponse head = get({}, "HEAD");
  EXPECT_EQ(head.status, 200U);
  EXPECT_EQ(head.Header("Content-Length"), size);
  EXPECT_TRUE(head.body.empty());
}

TEST_F(DeviceApiTest, ABlobThatIsNotPublishedIsNobodysBusiness) {
  SubmitRun();
  auto round = NextRound();
  const std::string secret = "bert's update";
  const HttpResponse uploaded = Upload("bert", round["bert"].assignment_id(), secret);
  EXPECT_EQ(uploaded.status, 201U);
  EXPECT_EQ(uploaded.Header("Upload-Complete"), "1");
  for (const std::string& name : {Sha256(secret).ToHex(), std::string(64, '0'), std::string("../coordinator.db"),
                                  std::string("%2e%2e%2fcoordinator.db"), std::string("x")}) {
    SCOPED_TRACE(name);
    ExpectRefused(Send(Device("anna"), HttpRequest("GET", "/v1/blobs/" + name)), v1::REFUSAL_REASON_NOT_FOUND);
  }
  CommitRound("bert", round["bert"]);
}

TEST_F(DeviceApiTest, OfTheModelsTheNewestTwoAreServed) {
  SubmitRun();
  std::vector<std::string> models;
  for (int i = 0; i < 3; ++i) {
    auto round = NextRound();
    models.push_back("/v1/blobs/" + protocol::DigestOf(round["anna"].plan().adapter(1)).value().ToHex());
    CommitRound("anna", round["anna"]);
  }
  ExpectRefused(Send(Device("anna"), HttpRequest("GET", models[0])), v1::REFUSAL_REASON_NOT_FOUND);
  ExpectRefused(Send(Device("anna"), HttpRequest("GET", models[1])), v1::REFUSAL_REASON_NOT_FOUND);
  EXPECT_EQ(Send(Device("anna"), HttpRequest("GET", models[2])).status, 200U) << "the parent of the present one";
}

// ---- reports ----

TEST_F(DeviceApiTest, AnAssignmentIsItsDevicesOnly) {
  SubmitRun();
  auto round = NextRound();
  const std::string bytes = SerializeSafetensors(GoodUpdate(round["anna"]));
  v1::ReportRequest report = ReportOf(round["anna"], bytes);
  // Not uploaded yet.
  ExpectRefused(Report("anna", report), v1::REFUSAL_REASON_NOT_FOUND);
  EXPECT_EQ(Upload("bert", round["bert"].assignment_id(), bytes).status, 201U);
  ExpectRefused(Report("bert", report), v1::REFUSAL_REASON_NOT_YOURS);
  report.set_assignment_id(std::string(32, 'a'));
  ExpectRefused(Report("anna", report), v1::REFUSAL_REASON_NOT_FOUND);
  report.set_assignment_id("../../etc");
  ExpectRefused(Report("anna", report), v1::REFUSAL_REASON_MALFORMED);
  CommitRound("anna", round["anna"]);
}

TEST_F(DeviceApiTest, AReportIsAnsweredTheSameTheSecondTime) {
  SubmitRun();
  auto round = NextRound();
  const std::string bytes = SerializeSafetensors(GoodUpdate(round["anna"]));
  CommitRound("anna", round["anna"]);
  for (int i = 0; i < 2; ++i) {
    const HttpResponse again = Report("anna", ReportOf(round["anna"], bytes));
    v1::ReportResponse verdict;
    ASSERT_TRUE(verdict.ParseFromString(again.body));
    EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_ACCEPTED);
  }
  EXPECT_EQ(CommittedRounds(), 1);
}

struct BadUpdate {
  const char* name;
  v1::RefusalReason reason;
  std::function<std::string(StateDict)> bytes;
  std::function<void(v1::ReportRequest&)> say = {};  // what the report says beside it
};

constexpr const char* kMaxNorm = "8";  // far above the good updates

std::string WithValue(StateDict update, float value) {
  Tensor& first = update.begin()->second;
  std::vector<float> values(static_cast<size_t>(first.numel()), 0.0F);
  values[values.size() / 2] = value;
  first = Tensor::FromFloats(first.shape(), values);
  return SerializeSafetensors(update);
}

// Each element within max_abs.
std::string Long(StateDict update) {
  Tensor& first = update.begin()->second;
  first = Tensor::FromFloats(first.shape(), std::vector<float>(static_cast<size_t>(first.numel()), 3.0F));
  return SerializeSafetensors(update);
}

std::string OfRank(StateDict update, int64_t rank) {
  for (auto& [name, tensor] : update) {
    std::vector<int64_t> shape = tensor.shape();
    shape[name.ends_with("lora_A.weight") ? 0 : 1] = rank;
    tensor = Tensor::FromFloats(shape, std::vector<float>(static_cast<size_t>(shape[0] * shape[1]), 0.001F));
  }
  return SerializeSafetensors(update);
}

std::string Whole(const StateDict& update) { return SerializeSafetensors(update); }

std::string WithHeader(const std::string& header) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i) & 255);
  return bytes + header + std::string(64, '\0');
}

std::vector<BadUpdate> BadUpdates() {
  constexpr auto kBad = v1::REFUSAL_REASON_BAD_UPDATE;
  constexpr auto kNotFinite = v1::REFUSAL_REASON_NOT_FINITE;
  return {
      {"NaN", kNotFinite, [](StateDict u) { return WithValue(std::move(u), NAN); }},
      {"infinity", kNotFinite,
       [](StateDict u) { return WithValue(std::move(u), -std::numeric_limits<float>::infinity()); }},
      {"out of bounds", v1::REFUSAL_REASON_OUT_OF_BOUNDS, [](StateDict u) { return WithValue(std::move(u), 4.5F); }},
      {"too long", v1::REFUSAL_REASON_NORM_TOO_LARGE, [](StateDict u) { return Long(std::move(u)); }},
      {"a smaller rank", v1::REFUSAL_REASON_WRONG_RANK, [](StateDict u) { return OfRank(std::move(u), 1); }},
      {"a larger rank", v1::REFUSAL_REASON_WRONG_RANK, [](StateDict u) { return OfRank(std::move(u), 3); }},
      {"another base", v1::REFUSAL_REASON_WRONG_BASE, Whole,
       [](v1::ReportRequest& report) { report.set_parent_sha256(std::string(32, 'x')); }},
      {"no examples", v1::REFUSAL_REASON_BAD_NUM_EXAMPLES, Whole,
       [](v1::ReportRequest& report) { report.mutable_metrics()->set_num_examples(0); }},
      {"another shape", v1::REFUSAL_REASON_WRONG_SHAPE,
       [](StateDict u) {
         Tensor& first = u.begin()->second;
         const std::vector<float> values(static_cast<size_t>(first.numel()), 0.0F);
         first = Tensor::FromFloats({first.shape()[1], first.shape()[0]}, values);
         return SerializeSafetensors(u);
       }},
      {"another type", v1::REFUSAL_REASON_WRONG_DTYPE,
       [](StateDict u) {
         Tensor& first = u.begin()->second;
         std::span<std::byte> bytes;
         first = Tensor::Allocate({DType::kF16, first.shape()}, &bytes);
         return SerializeSafetensors(u);
       }},
      {"a missing tensor", v1::REFUSAL_REASON_WRONG_TENSORS,
       [](StateDict u) {
         u.erase(u.begin());
         return SerializeSafetensors(u);
       }},
      {"one tensor more", v1::REFUSAL_REASON_WRONG_TENSORS,
       [](StateDict u) {
         u.emplace("more", u.begin()->second);
         return SerializeSafetensors(u);
       }},
      {"truncated", kBad,
       [](const StateDict& u) {
         const std::string whole = SerializeSafetensors(u);
         return whole.substr(0, whole.size() - 100);
       }},
      {"a header longer than the file", kBad,
       [](const StateDict& u) {
         std::string bytes = SerializeSafetensors(u);
         bytes[5] = '\x7f';
         return bytes;
       }},
      {"offsets beyond the file", kBad,
       [](const StateDict&) {
         return WithHeader(R"({"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}})");
       }},
      {"overlapping tensors", kBad,
       [](const StateDict&) {
         return WithHeader(
             R"({"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"b":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}})");
       }},
      {"no safetensors", kBad, [](const StateDict&) { return std::string("hello"); }},
  };
}

TEST_F(DeviceApiTest, ABadUpdateIsRefusedWithItsReasonAndTheRoundCommitsWithAGoodOne) {
  // Every reason that has refused something, with how often.
  const auto refusals = [this] {
    constexpr std::string_view kFamily = "heddle_refusals_total{";
    std::map<std::string, double> counts;
    std::istringstream lines(Admin("GET", "/metrics").body);
    for (std::string line; std::getline(lines, line);) {
      const size_t space = line.rfind(' ');
      if (line.starts_with(kFamily)) counts[line.substr(0, space)] = std::stod(line.substr(space));
    }
    return counts;
  };
  SubmitRun({{"max_norm", kMaxNorm}});
  for (const BadUpdate& bad : BadUpdates()) {
    SCOPED_TRACE(bad.name);
    auto round = NextRound();
    const std::string bytes = bad.bytes(GoodUpdate(round["anna"]));
    EXPECT_EQ(Upload("anna", round["anna"].assignment_id(), bytes).status, 201U);
    v1::ReportRequest report = ReportOf(round["anna"], bytes);
    if (bad.say) bad.say(report);
    std::map<std::string, double> expected = refusals();
    ++expected["heddle_refusals_total{reason=\"" + std::string(protocol::ReasonName(bad.reason)) + "\"}"];
    const double invalid = Metric(R"(heddle_client_updates_total{result="invalid"})");
    const HttpResponse response = Report("anna", report);
    EXPECT_EQ(response.status, 200U);
    v1::ReportResponse verdict;
    ASSERT_TRUE(verdict.ParseFromString(response.body));
    EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_INVALID);
    EXPECT_EQ(protocol::ReasonName(verdict.refusal().reason()), protocol::ReasonName(bad.reason));
    EXPECT_FALSE(verdict.refusal().message().empty());
    EXPECT_EQ(verdict.refusal().message().find(config_.state_dir), std::string::npos) << verdict.refusal().message();
    EXPECT_EQ(refusals(), expected) << "counted once, as that and nothing else";
    EXPECT_EQ(Metric(R"(heddle_client_updates_total{result="invalid"})"), invalid + 1);
    CommitRound("bert", round["bert"]);
  }
}

TEST_F(DeviceApiTest, AWeightThatCannotBeIsRefused) {
  SubmitRun();
  for (const uint64_t examples : {uint64_t{0}, uint64_t{5}, uint64_t{1} << 40, ~uint64_t{0}}) {
    SCOPED_TRACE(examples);
    auto round = NextRound();
    const std::string bytes = SerializeSafetensors(GoodUpdate(round["anna"]));
    EXPECT_EQ(Upload("anna", round["anna"].assignment_id(), bytes).status, 201U);
    v1::ReportRequest report = ReportOf(round["anna"], bytes);
    report.mutable_metrics()->set_num_examples(examples);
    const HttpResponse response = Report("anna", report);
    v1::ReportResponse verdict;
    if (response.status != 200) {  // beyond what the protocol itself allows
      ExpectRefused(response, v1::REFUSAL_REASON_MALFORMED);
      EXPECT_GT(examples, protocol::kMaxNumExamples);
    } else {
      ASSERT_TRUE(verdict.ParseFromString(response.body));
      EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_INVALID);
      EXPECT_EQ(protocol::ReasonName(verdict.refusal().reason()), "BAD_NUM_EXAMPLES");
    }
    CommitRound("bert", round["bert"]);
  }
}

TEST_F(DeviceApiTest, ASizeThatIsNotTheUpdatesIsRefused) {
  SubmitRun();
  auto round = NextRound();
  const std::string bytes = SerializeSafetensors(GoodUpdate(round["anna"]));
  EXPECT_EQ(Upload("anna", round["anna"].assignment_id(), bytes).status, 201U);
  v1::ReportRequest report = ReportOf(round["anna"], bytes);
  report.mutable_update()->set_size_bytes(bytes.size() - 1);
  v1::ReportResponse verdict;
  ASSERT_TRUE(verdict.ParseFromString(Report("anna", report).body));
  EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_INVALID);
  EXPECT_EQ(protocol::ReasonName(verdict.refusal().reason()), "BAD_UPDATE");
  CommitRound("bert", round["bert"]);
}

}  // namespace
}  // namespace heddle::coordinator
