#include "tests/unit/coordinator/service/service_fixture.h"

#include <boost/json.hpp>
#include <sstream>

#include "common/safetensors.h"
#include "coordinator/admin/commands.h"
#include "protocol/validate.h"

namespace heddle::coordinator {

namespace fs = std::filesystem;
namespace json = boost::json;
using protocol::Pki;

void ExpectRefused(const HttpResponse& response, v1::RefusalReason reason) {
  EXPECT_EQ(response.status, protocol::HttpStatusOf(reason));
  EXPECT_EQ(response.Header("Content-Type"), protocol::kProtobufContentType);
  v1::Refusal refusal;
  ASSERT_TRUE(refusal.ParseFromString(response.body));
  EXPECT_EQ(protocol::ReasonName(refusal.reason()), protocol::ReasonName(reason)) << refusal.message();
  EXPECT_FALSE(refusal.message().empty());
}

ServiceTest::ServiceTest(const std::function<void(CoordinatorConfig&)>& adjust) {
  config_.listen_address = "127.0.0.1";
  config_.listen_port = 0;
  config_.admin_port = 0;
  config_.admin_port_file = (temp_.path() / "admin.port").string();
  config_.state_dir = (temp_.path() / "state").string();
  config_.max_upload_bytes = 1 << 20;
  config_.threads = 2;
  config_.aggregation_threads = 1;
  config_.shutdown_grace_s = 2;
  config_.log.level = "error";
  if (adjust) adjust(config_);
  Pki::Check(InitLogging(config_.log));
  Pki::Check(InitCoordinator(config_));
  service_ = Pki::Value(Service::Start(config_));
  admin_ = Pki::Value(AdminClient::Make(config_));
}

ServiceTest::~ServiceTest() {
  service_->Stop();
  threads_.Join();
}

// ---- enrolment ----

std::string ServiceTest::Token(const std::string& device, std::optional<double> hours) {
  std::ostringstream out;
  CommandContext context;
  context.config = config_;
  context.out = &out;
  Pki::Check(DeviceToken(context, device, hours));
  const std::string text = out.str();
  return text.substr(0, text.find('.'));
}

HttpResponse ServiceTest::Enroll(const std::string& device, const std::string& token) {
  const fs::path key = temp_.path() / (device + ".key");
  std::error_code error;
  if (!fs::exists(key, error)) Pki::Check(protocol::GenerateKeyFile(key));
  v1::EnrollRequest request;
  request.set_token(token);
  request.set_csr_der(Pki::Value(protocol::MakeCsrDer(key, "whoever")));
  HttpResponse response = Send(Device(""), HttpRequest("POST", "/v1/enroll", request.SerializeAsString()));
  if (response.status == 200) {
    v1::EnrollResponse enrolled;
    EXPECT_TRUE(enrolled.ParseFromString(response.body));
    EXPECT_EQ(enrolled.device_id(), device);
    Pki::Check(WriteFileAtomically(temp_.path() / (device + ".crt"), enrolled.certificate_pem()));
  }
  return response;
}

// ---- speaking ----

std::unique_ptr<HttpClient> ServiceTest::Connect(const protocol::ClientTlsOptions& tls) {
  protocol::ClientOptions options;
  options.host = "127.0.0.1";
  options.port = service_->device_port();
  options.tls = Pki::Value(protocol::MakeClientTls(tls));
  return std::make_unique<HttpClient>(threads_.io().get_executor(), options);
}

HttpClient& ServiceTest::Device(const std::string& device) {
  auto& client = clients_[device];
  if (client) return *client;
  protocol::ClientTlsOptions tls;
  tls.ca_pem = Pki::Value(ReadFile(config_.pki() / "ca.crt"));
  if (!device.empty()) {
    std::error_code error;
    tls.certificate = temp_.path() / (device + ".crt");
    tls.key = temp_.path() / (device + ".key");
    if (!fs::exists(tls.certificate, error)) {
      EXPECT_EQ(Enroll(device, Token(device)).status, 200U);
    }
  }
  client = Connect(tls);
  return *client;
}

Result<HttpResponse> ServiceTest::TrySend(HttpClient& client, HttpRequest request) {
  return protocol::Await(threads_.io(), client.Send(std::move(request)));
}

HttpResponse ServiceTest::Send(HttpClient& client, HttpRequest request) {
  Result<HttpResponse> response = TrySend(client, std::move(request));
  if (response.ok()) return *std::move(response);
  ADD_FAILURE() << response.status().ToString();
  return {};
}

Asked ServiceTest::Ask(HttpClient& client, HttpRequest request) {
  Asked asked;
  asked.answer = std::make_shared<std::optional<Result<HttpResponse>>>();
  auto body = [](HttpClient* speaker, HttpRequest what,
                 std::shared_ptr<std::optional<Result<HttpResponse>>> answer) -> protocol::Awaitable<void> {
    Result<HttpResponse> response = co_await speaker->Send(std::move(what));
    answer->emplace(std::move(response));
  };
  request.answer_timeout = Seconds(300);
  asked.done =
      boost::asio::co_spawn(threads_.io(), body(&client, std::move(request), asked.answer), boost::asio::use_future);
  return asked;
}

HttpRequest ServiceTest::CheckinRequestOf(uint32_t version) {
  v1::CheckinRequest checkin;
  checkin.set_protocol_version(version);
  checkin.set_software_version("test");
  checkin.add_local_tasks("lora_sft");
  checkin.add_local_tasks("sft");
  checkin.add_local_tasks("zo_ledger");
  return {"POST", "/v1/checkin", checkin.SerializeAsString()};
}

// ---- rounds ----

void ServiceTest::SubmitRun(const std::map<std::string, std::string>& more, const std::string& tables) {
  std::map<std::string, std::string> strategy = {
      {"num_server_rounds", "1000"}, {"cohort_size", "1"}, {"over_selection", "2"}, {"max_abs", "4.0"}};
  for (const auto& [key, value] : more) strategy[key] = value;
  std::string recipe = "name = \"service\"\n[model]\nbase = \"" HEDDLE_SOURCE_DIR
                       "/model/pretrained/heddle-tiny\"\n[lora]\nr = 2\ntarget_modules = [\"q_proj\"]\n"
                       "[train]\nlocal_steps = 2\nbatch_size = 2\nsequence_length = 32\n[strategy]\n";
  for (const auto& [key, value] : strategy) recipe += key + " = " + value + "\n";
  recipe += tables;
  const json::object body = {{"recipe", recipe}, {"folder", temp_.path().string()}};
  const json::object answer = Pki::Value(admin().Post("/v1/runs", json::serialize(body)));
  run_id_ = json::value_to<std::string>(answer.at("run_id"));
}

std::map<std::string, v1::TaskAssignment> ServiceTest::NextRound() {
  ++round_;
  std::map<std::string, Asked> asked;
  for (const char* device : {"anna", "bert"}) asked.emplace(device, Ask(Device(device), CheckinRequestOf()));
  std::map<std::string, v1::TaskAssignment> assignments;
  for (auto& [device, poll] : asked) {
    poll.done.get();
    if (!(*poll.answer)->ok()) throw std::runtime_error((*poll.answer)->status().ToString());
    v1::CheckinResponse response;
    EXPECT_TRUE(response.ParseFromString((*poll.answer)->value().body));
    EXPECT_TRUE(response.has_assignment()) << response.ShortDebugString();
    assignments[device] = response.assignment();
  }
  return assignments;
}

StateDict ServiceTest::GoodUpdateBase(const v1::TaskAssignment& assignment) {
  const v1::BlobRef& adapter = assignment.plan().adapter(1);
  HttpResponse fetched =
      Send(Device("bert"), HttpRequest("GET", "/v1/blobs/" + Pki::Value(protocol::DigestOf(adapter)).ToHex()));
  EXPECT_EQ(fetched.status, 200U);
  auto bytes = std::make_shared<std::string>(std::move(fetched.body));
  return Pki::Value(ParseSafetensors(std::as_bytes(std::span(*bytes)), bytes)).tensors;
}

StateDict ServiceTest::GoodUpdate(const v1::TaskAssignment& assignment) {
  StateDict update;
  for (const auto& [name, tensor] : GoodUpdateBase(assignment)) {
    // Differs from round to round, so that every committed model is another one.
    const std::vector<float> values(static_cast<size_t>(tensor.numel()), 0.001F * static_cast<float>(round_));
    update.emplace(name, Tensor::FromFloats(tensor.shape(), values));
  }
  return update;
}

HttpRequest ServiceTest::UploadRequest(const std::string& assignment_id, const std::string& bytes) {
  HttpRequest request("POST", "/v1/uploads", bytes);
  request.headers = {{"Heddle-Assignment", assignment_id},
                     {"Heddle-Digest", Sha256(bytes).ToHex()},
                     {"Upload-Length", std::to_string(bytes.size())}};
  return request;
}

HttpResponse ServiceTest::Upload(const std::string& device, const std::string& assignment_id,
                                 const std::string& bytes) {
  return Send(Device(device), UploadRequest(assignment_id, bytes));
}

v1::ReportRequest ServiceTest::ReportOf(const v1::TaskAssignment& assignment, const std::string& bytes) {
  v1::ReportRequest report;
  report.set_assignment_id(assignment.assignment_id());
  report.set_outcome(v1::TASK_OUTCOME_COMPLETED);
  *report.mutable_update() = protocol::MakeBlobRef(Sha256(bytes), bytes.size(), "update.safetensors");
  report.mutable_metrics()->set_num_examples(4);
  report.mutable_metrics()->set_num_tokens(128);
  report.mutable_metrics()->set_steps(2);
  report.mutable_metrics()->set_train_loss(2.5);
  report.set_parent_sha256(assignment.plan().adapter(1).sha256());
  return report;
}

HttpResponse ServiceTest::Report(const std::string& device, const v1::ReportRequest& report) {
  return Send(Device(device), HttpRequest("POST", "/v1/reports", report.SerializeAsString()));
}

void ServiceTest::CommitRound(const std::string& device, const v1::TaskAssignment& assignment) {
  const double before = CommittedRounds();
  const std::string bytes = SerializeSafetensors(GoodUpdate(assignment));
  const HttpResponse uploaded = Upload(device, assignment.assignment_id(), bytes);
  EXPECT_TRUE(uploaded.status == 201 || uploaded.status == 200) << uploaded.status;
  EXPECT_EQ(uploaded.Header("Upload-Complete"), "1");
  const HttpResponse response = Report(device, ReportOf(assignment, bytes));
  ASSERT_EQ(response.status, 200U) << response.body;
  v1::ReportResponse verdict;
  ASSERT_TRUE(verdict.ParseFromString(response.body));
  EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_ACCEPTED) << verdict.ShortDebugString();
  EXPECT_TRUE(protocol::Eventually([&] { return CommittedRounds() == before + 1; }));
}

// ---- administration ----

json::object ServiceTest::Run() { return Pki::Value(admin().Get("/v1/runs/" + run_id_)); }

double ServiceTest::CommittedRounds() { return Run().at("committed_rounds").to_number<double>(); }

HttpResponse ServiceTest::Admin(const std::string& method, const std::string& target, const std::string& body,
                                const std::string& authorization) {
  protocol::ClientOptions options;
  options.host = "127.0.0.1";
  options.port = service_->admin_port();
  HttpClient client(threads_.io().get_executor(), options);
  HttpRequest request(method, target, body);
  request.content_type = "application/json";
  if (!authorization.empty()) request.headers.emplace_back("Authorization", authorization);
  HttpResponse response = Send(client, std::move(request));
  return response;
}

double ServiceTest::Metric(const std::string& name_and_labels) {
  std::istringstream lines(Admin("GET", "/metrics").body);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name_and_labels + " ")) return std::stod(line.substr(name_and_labels.size() + 1));
  }
  return 0;
}

std::string ServiceTest::AdminToken() {
  std::string token = Pki::Value(ReadFile(config_.admin_token()));
  while (!token.empty() && token.back() == '\n') token.pop_back();
  return token;
}

}  // namespace heddle::coordinator
