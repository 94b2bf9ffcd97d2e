// The audit log of a real coordinator: every act of an administrator is in it before it is answered, refusals are
// gathered in it, and without it nothing is changed.
#include <gmock/gmock.h>

#include <boost/json.hpp>
#include <fstream>
#include <map>
#include <sstream>
#include <vector>

#include "common/file.h"
#include "coordinator/admin/commands.h"
#include "coordinator/audit/audit_check.h"
#include "coordinator/audit/audit_head.h"
#include "coordinator/audit/audit_log.h"
#include "coordinator/store/store.h"
#include "tests/unit/coordinator/service/service_fixture.h"
#include "tests/unit/protocol/raw_peer.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using protocol::Pki;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

class ServiceAuditTest : public ServiceTest {
 protected:
  std::vector<AuditRecord> Records() {
    std::vector<AuditRecord> records;
    const auto lines = Pki::Value(LastAuditLines(config_.audit(), 1000));
    for (const std::string& line : lines) {
      records.push_back(Pki::Value(ParseRecord(line)));
    }
    return records;
  }
  // "kind outcome object" of every act.
  std::vector<std::string> Acts() {
    std::vector<std::string> acts;
    for (const AuditRecord& record : Records()) {
      if (record.event.kind == AuditKind::kRefusal) continue;
      acts.push_back(std::string(AuditKindName(record.event.kind)) + " " + record.event.outcome + " " +
                     record.event.object);
    }
    return acts;
  }
  uint64_t Refusals(const std::string& reason, const std::string& actor = "") {
    uint64_t count = 0;
    for (const AuditRecord& record : Records()) {
      if (record.event.outcome == reason && record.event.actor == actor) count += record.event.count;
    }
    return count;
  }
  HttpResponse Post(const std::string& target) { return Admin("POST", target, "", "Bearer " + AdminToken()); }
  CommandContext Context(bool as_json = false) {
    out_.str("");
    CommandContext context;
    context.config = config_;
    context.json = as_json;
    context.out = &out_;
    return context;
  }

  std::ostringstream out_;
};

TEST_F(ServiceAuditTest, HasEveryActOfAnAdministratorWithItsOutcome) {
  Device("anna");
  SubmitRun();
  EXPECT_EQ(Post("/v1/runs/" + run_id_ + ":stop").status, 200U);
  EXPECT_EQ(Post("/v1/runs/" + run_id_ + ":stop").status, 404U);  // it has ended
  EXPECT_EQ(Post("/v1/clients/anna:revoke").status, 200U);
  EXPECT_EQ(Post("/v1/clients/nobody:revoke").status, 404U);
  EXPECT_TRUE(service_->ReloadTls().ok());
  const std::string certificate = (config_.pki() / "server.crt").string();
  std::vector<std::string> acts = Acts();
  ASSERT_THAT(acts, SizeIs(18));
  EXPECT_THAT(acts[6], HasSubstr("run_submitted begun recipe "));
  acts.erase(acts.begin() + 6);
  const std::string run = run_id_;
  EXPECT_THAT(
      acts, ElementsAre("init begun authority", "init done authority", "token_made begun anna", "token_made done anna",
                        "device_enrolled begun anna", "device_enrolled done anna", "run_submitted done " + run,
                        "run_stopped begun " + run, "run_stopped done " + run, "run_stopped begun " + run,
                        "run_stopped failed " + run, "device_revoked begun anna", "device_revoked done anna",
                        "device_revoked begun nobody", "device_revoked failed nobody",
                        "certificate_reloaded begun " + certificate, "certificate_reloaded done " + certificate));
  for (const AuditRecord& record : Records()) {
    const AuditEvent& event = record.event;
    const bool by_api = event.kind == AuditKind::kRunSubmitted || event.kind == AuditKind::kRunStopped ||
                        event.kind == AuditKind::kDeviceRevoked;
    const bool enrolled = event.kind == AuditKind::kDeviceEnrolled, token = event.kind == AuditKind::kTokenMade;
    EXPECT_EQ(event.actor == "admin", by_api);
    EXPECT_EQ(event.from.starts_with("127.0.0.1:"), by_api || enrolled);
    EXPECT_EQ(event.actor == ProcessActor(), token || event.kind == AuditKind::kInit);
  }
  const AuditReport report = Pki::Value(CheckAudit(config_.audit()));
  EXPECT_FALSE(report.fault);
}

TEST_F(ServiceAuditTest, HasARevocationThatWasMadeWhileNoCoordinatorRan) {
  Device("anna");
  // While one runs it is the one that revokes, and where it cannot be found nothing is done behind its back.
  CommandContext lost = Context();
  lost.config.admin_port = 0;
  lost.config.admin_port_file = (temp_.path() / "nowhere").string();
  const Status refused = DeviceRevoke(lost, "anna");
  EXPECT_EQ(refused.code(), Code::kUnavailable);
  EXPECT_THAT(refused.message(), HasSubstr("anna is not revoked"));
  EXPECT_FALSE(Pki::Value(Store::Open(config_.database()))->ListDevices()->at(0).revoked_at);
  service_->Stop();
  EXPECT_TRUE(DeviceRevoke(lost, "anna").ok());
  const auto acts = Acts();
  EXPECT_EQ(acts.back(), "device_revoked done anna");
  EXPECT_EQ(Records().back().event.actor, ProcessActor());
}

TEST_F(ServiceAuditTest, GathersRefusalsOfStrangersDevicesAndTheAdminApi) {
  Device("anna");
  for (int i = 0; i < 5; ++i) {
    ExpectRefused(Send(Device(""), HttpRequest("POST", "/v1/checkin", "")), v1::REFUSAL_REASON_UNAUTHENTICATED);
  }
  for (int i = 0; i < 3; ++i) {
    ExpectRefused(Send(Device("anna"), HttpRequest("GET", "/v1/nothing")), v1::REFUSAL_REASON_NOT_FOUND);
  }
  EXPECT_EQ(Enroll("bert", "no such token").status, 403U);
  EXPECT_EQ(Admin("POST", "/v1/clients/anna:revoke", "", "Bearer wrong").status, 401U);
  // Refused before any handler: who it was is not looked at.
  for (const char* head : {"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/2.0\r\nHost: x\r\n\r\n"}) {
    protocol::RawPeer peer(service_->admin_port());
    peer.Send(head);
    EXPECT_EQ(peer.ReadStatus(), 400);
  }
  protocol::RawPeer long_winded(service_->admin_port());
  long_winded.Send("GET / HTTP/1.1\r\nHost: x\r\nX: " + std::string(100'000, 'a') + "\r\n\r\n");
  EXPECT_EQ(long_winded.ReadStatus(), 431);
  EXPECT_EQ(Metric(R"(heddle_heads_refused_total{reason="MALFORMED"})"), 2);
  EXPECT_EQ(Metric(R"(heddle_heads_refused_total{reason="TOO_LARGE"})"), 1);
  // A bad update is refused inside of an answer of status 200.
  SubmitRun();
  auto assignments = NextRound();
  StateDict update = GoodUpdate(assignments["anna"]);
  const std::string bytes = "no safetensors";
  Upload("anna", assignments["anna"].assignment_id(), bytes);
  EXPECT_EQ(Report("anna", ReportOf(assignments["anna"], bytes)).status, 200U);
  service_->Stop();  // what is gathered is written
  EXPECT_EQ(Refusals("UNAUTHENTICATED"), 6U);
  EXPECT_EQ(Refusals("NOT_FOUND", "anna"), 3U);
  EXPECT_EQ(Refusals("BAD_TOKEN"), 1U);
  EXPECT_EQ(Refusals("BAD_UPDATE", "anna"), 1U);
  EXPECT_EQ(Refusals("MALFORMED_HEAD"), 2U);
  EXPECT_EQ(Refusals("LARGE_HEAD"), 1U);
  EXPECT_EQ(Refusals("REQUEST_FAILED"), 0U);
  for (const AuditRecord& record : Records()) {
    const bool named = record.event.kind == AuditKind::kRefusal && record.event.object != "connection";
    EXPECT_EQ(named, record.event.from == "127.0.0.0/24");
  }
  EXPECT_FALSE(Pki::Value(CheckAudit(config_.audit())).fault);
}

TEST_F(ServiceAuditTest, HasEveryRefusalOfTheAdminApiOnceAndTheMetricsCountIt) {
  enum class In { kRefusals, kActs, kMetricsOnly };
  const struct {
    std::string method, target, body;
    bool token;
    std::string code;
    In in;
  } requests[] = {
      {"POST", "/v1/runs", "", true, "INVALID_ARGUMENT", In::kRefusals},
      {"POST", "/v1/runs", "[]", true, "INVALID_ARGUMENT", In::kRefusals},
      {"POST", "/v1/runs", R"({"recipe": "", "folder": "relative"})", true, "INVALID_ARGUMENT", In::kRefusals},
      {"POST", "/v1/runs", std::string((1 << 20) + 1, ' '), true, "RESOURCE_EXHAUSTED", In::kRefusals},
      {"POST", "/v1/runs", "{}", false, "UNAUTHENTICATED", In::kRefusals},
      {"POST", "/", "", true, "NOT_FOUND", In::kRefusals},
      {"POST", "/v1/runs/nothing:start", "", true, "NOT_FOUND", In::kRefusals},
      {"POST", "/v1/clients", "", true, "NOT_FOUND", In::kRefusals},
      {"DELETE", "/v1/runs/nothing", "", true, "NOT_FOUND", In::kRefusals},
      {"POST", "/v1/runs", R"({"recipe": "", "folder": "/"})", true, "INVALID_ARGUMENT", In::kActs},
      {"POST", "/v1/runs/nothing:stop", "", true, "NOT_FOUND", In::kActs},
      {"POST", "/v1/clients/nobody:revoke", "", true, "NOT_FOUND", In::kActs},
      {"GET", "/v1/nothing", "", false, "NOT_FOUND", In::kMetricsOnly},
      {"HEAD", "/", "", false, "NOT_FOUND", In::kMetricsOnly},
      {"GET", "/v1/runs/nothing", "", true, "NOT_FOUND", In::kMetricsOnly},
  };
  std::map<std::string, uint64_t> refused, expected;
  std::vector<std::string> outcomes;
  const std::string token = "Bearer " + AdminToken();
  for (const auto& request : requests) {
    SCOPED_TRACE(request.method + " " + request.target + " " + request.body.substr(0, 40));
    const std::string metric = "heddle_admin_refusals_total{code=\"" + request.code + "\"}";
    const double before = Metric(metric);
    EXPECT_GE(Admin(request.method, request.target, request.body, request.token ? token : "").status, 400U);
    EXPECT_EQ(Metric(metric), before + 1);
    if (request.in == In::kRefusals) ++expected[request.code];
    if (request.in == In::kActs) outcomes.insert(outcomes.end(), {"begun", "failed"});
  }
  service_->Stop();  // what is gathered is written
  std::vector<std::string> of_acts;
  for (const AuditRecord& record : Records()) {
    if (record.event.kind == AuditKind::kRefusal) refused[record.event.outcome] += record.event.count;
    if (record.event.actor == "admin") of_acts.push_back(record.event.outcome);
  }
  EXPECT_EQ(refused, expected);
  EXPECT_EQ(of_acts, outcomes);
}

TEST_F(ServiceAuditTest, HasAnActThatItForbadeAsARefusalWhenItCanBeWrittenAgain) {
  fs::rename(config_.audit(), temp_.path() / "away");
  EXPECT_EQ(Post("/v1/clients/anna:revoke").status, 503U);
  EXPECT_EQ(Metric(R"(heddle_admin_refusals_total{code="UNAVAILABLE"})"), 1);
  fs::rename(temp_.path() / "away", config_.audit());
  service_->Stop();
  EXPECT_EQ(Refusals("UNAVAILABLE"), 1U);
  EXPECT_THAT(Acts(), SizeIs(2)) << "of the authority alone";
}

TEST_F(ServiceAuditTest, ThatCannotBeWrittenForbidsEveryActUntilItCan) {
  Device("anna");
  SubmitRun();
  const std::string token = Token("bert");
  fs::rename(config_.audit(), temp_.path() / "away");
  for (const std::string& target : {std::string("/v1/clients/anna:revoke"), "/v1/runs/" + run_id_ + ":stop"}) {
    const HttpResponse refused = Post(target);
    EXPECT_EQ(refused.status, 503U) << target;
    EXPECT_THAT(refused.body, HasSubstr("nothing was changed"));
  }
  EXPECT_EQ(Enroll("bert", token).status, 503U);
  EXPECT_FALSE(service_->ReloadTls().ok());
  EXPECT_EQ(Run().at("state").as_string(), "running");
  EXPECT_EQ(Send(Device("anna"), HttpRequest("GET", "/v1/blobs/x")).status, 404U);  // it is not revoked
  EXPECT_THAT(Admin("GET", "/metrics").body, HasSubstr("\nheddle_audit_failures_total 4"));
  fs::rename(temp_.path() / "away", config_.audit());
  EXPECT_EQ(Enroll("bert", token).status, 200U);  // the token was not used up
  EXPECT_EQ(Post("/v1/clients/anna:revoke").status, 200U);
  EXPECT_FALSE(Pki::Value(CheckAudit(config_.audit())).fault);
}

TEST_F(ServiceAuditTest, IsNotTouchedByReading) {
  SubmitRun();
  const size_t before = Records().size();
  for (const std::string& target : {std::string("/v1/runs"), "/v1/runs/" + run_id_, std::string("/v1/clients"),
                                    std::string("/metrics"), std::string("/v1/config"), std::string("/healthz")}) {
    EXPECT_EQ(Admin("GET", target).status, 200U) << target;
  }
  service_->Stop();
  EXPECT_THAT(Records(), SizeIs(before));
}

TEST_F(ServiceAuditTest, CanBeVerifiedAndShownWhileTheCoordinatorRuns) {
  Device("anna");
  ASSERT_TRUE(AuditVerify(Context(), "").ok());
  EXPECT_THAT(out_.str(), HasSubstr("The chain is whole: 6 lines"));
  ASSERT_TRUE(AuditVerify(Context(/*as_json=*/true), "").ok());
  const json::object report = json::parse(out_.str()).as_object();
  EXPECT_EQ(report.at("whole").as_bool(), true);
  EXPECT_EQ(report.at("lines").to_number<int>(), 6);
  const std::string head(report.at("head").as_string());
  EXPECT_TRUE(AuditVerify(Context(), head).ok());
  EXPECT_EQ(AuditVerify(Context(), "6:" + std::string(64, 'a')).code(), Code::kDataLoss);
  EXPECT_EQ(AuditVerify(Context(), "no anchor").code(), Code::kInvalidArgument);

  ASSERT_TRUE(AuditShow(Context(), 2).ok());
  EXPECT_THAT(out_.str(), HasSubstr("device_enrolled  begun  anna  by anna  from 127.0.0.1:"));
  EXPECT_THAT(out_.str(), HasSubstr("device_enrolled  done  anna"));
  ASSERT_TRUE(AuditShow(Context(/*as_json=*/true), 3).ok());
  EXPECT_THAT(json::parse(out_.str()).at("lines").as_array(), SizeIs(3));

  // One digit of the second line.
  const fs::path file = Pki::Value(ListAuditFiles(config_.audit())).at(0);
  std::string content = Pki::Value(ReadFile(file));
  const size_t at = content.find("\"done\"");
  content.replace(at, 6, "\"gone\"");
  std::ofstream(file, std::ios::binary | std::ios::trunc) << content;
  const Status status = AuditVerify(Context(/*as_json=*/true), "");
  EXPECT_EQ(status.code(), Code::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr("audit-000000000001.jsonl, line 2: its hash is not that of its content"));
  EXPECT_EQ(json::parse(out_.str()).at("fault").at("line").to_number<int>(), 2);
  ASSERT_TRUE(AuditShow(Context(), 20).ok());
  EXPECT_THAT(out_.str(), HasSubstr("(damaged) {\"seq\":2,"));
}

}  // namespace
}  // namespace heddle::coordinator
