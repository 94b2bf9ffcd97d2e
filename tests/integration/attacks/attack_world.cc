#include "tests/integration/attacks/attack_world.h"

#include <signal.h>

#include <algorithm>
#include <boost/json.hpp>
#include <thread>

#include "aggregation/ledger/ledger_model.h"
#include "common/safetensors.h"
#include "protocol/validate.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::coordinator {

namespace json = boost::json;
using protocol::Eventually;
using protocol::Pki;
using protocol::RawPeer;

namespace {

const std::array<std::string, 4> kDevices = {"anna", "bert", "carl", "mallory"};

}  // namespace

AttackWorld::AttackWorld(const std::function<void(CoordinatorConfig&)>& adjust,
                         const std::map<std::string, std::string>& strategy, const std::string& tables)
    : ServiceTest([&adjust](CoordinatorConfig& config) {
        config.device_requests_per_s = 0;  // the floods set it
        config.max_connections_per_address = 0;
        if (adjust) adjust(config);
      }),
      adjust_(adjust),
      strategy_(strategy),
      tables_(tables) {
  ::signal(SIGPIPE, SIG_IGN);  // raw peers write to connections that have been closed
  for (const std::string& device : kDevices) Device(device);
  Device("");
  // Of four that have the task the first three reports commit the round: mallory is never needed.
  std::map<std::string, std::string> whole = {
      {"num_server_rounds", std::to_string(kRounds)}, {"cohort_size", "3"}, {"over_selection", "1.33"}};
  whole.insert(strategy.begin(), strategy.end());
  SubmitRun(whole, tables);
}

// ---- the run ----

void AttackWorld::BeginRound() {
  ++current_;
  last_tasks_ = std::move(tasks_);
  tasks_.clear();
  std::map<std::string, Asked> asked;
  for (const std::string& device : kDevices) asked.emplace(device, Ask(Device(device), CheckinRequestOf()));
  // Who has flooded the coordinator has to ask until it is heard again, and the others wait for it.
  const auto answered = [this](const std::string& device, Asked& poll) {
    if (poll.done.wait_for(std::chrono::milliseconds(20)) != std::future_status::ready) return false;
    if (device != "mallory" || !(*poll.answer)->ok() || (*poll.answer)->value().status != 429) return true;
    poll = Ask(Device(device), CheckinRequestOf());
    return false;
  };
  for (size_t done = 0; done < asked.size();) {
    done = 0;
    for (auto& [device, poll] : asked) done += answered(device, poll) ? 1 : 0;
  }
  for (auto& [device, poll] : asked) {
    Pki::Check((*poll.answer)->status());
    v1::CheckinResponse response;
    EXPECT_TRUE(response.ParseFromString((*poll.answer)->value().body));
    ASSERT_TRUE(response.has_assignment()) << device << ": " << response.ShortDebugString();
    tasks_[device] = response.assignment();
  }
  FetchModel();
}

void AttackWorld::FetchModel() {
  const v1::TaskPlan& plan = tasks_["anna"].plan();
  const auto fetch = [this](const v1::BlobRef& ref) {
    HttpRequest get("GET", "/v1/blobs/" + Pki::Value(protocol::DigestOf(ref)).ToHex());
    get.max_body = ref.size_bytes();
    HttpResponse fetched = SendAs("anna", std::move(get));
    EXPECT_EQ(fetched.status, 200U);
    return std::make_shared<const std::string>(std::move(fetched.body));
  };
  const auto bytes = fetch(plan.adapter(1));
  adapter_ = Pki::Value(ParseSafetensors(std::as_bytes(std::span(*bytes)), bytes)).tensors;
  if (plan.local_task() != "zo_ledger") return;
  if (plan.adapter_size() == 2) {  // no ledger before the first commit
    weights_ = zo::DigestOfWeights(Pki::Value(aggregation::WeightsOf(adapter_, plan.train().zo().zo_eps())).parameters);
  } else {
    weights_ = Pki::Value(zo::DecodeLedger(std::as_bytes(std::span(*fetch(plan.adapter(2)))))).weights;
  }
}

std::string AttackWorld::UpdateOf(const std::string& device) {
  const float value = 0.001F * static_cast<float>(current_) + 0.0001F * static_cast<float>(device[0]);
  if (weights_) {
    const zo::Scalars scalars{.steps = {{1, 100 * value}, {77, -50 * value}}, .weights = *weights_, .skipped = 0};
    return zo::UpdateOfScalars(zo::EncodeScalars(scalars, zo::ScalarFormat::kFloat32));
  }
  StateDict update;
  for (const auto& [name, tensor] : adapter_) {
    update.emplace(name,
                   Tensor::FromFloats(tensor.shape(), std::vector<float>(static_cast<size_t>(tensor.numel()), value)));
  }
  return SerializeSafetensors(update);
}

void AttackWorld::WorkAs(const std::string& device) {
  const v1::TaskAssignment& task = tasks_.at(device);
  const std::string bytes = UpdateOf(device);
  const HttpResponse uploaded = SendAs(device, UploadRequest(task.assignment_id(), bytes));
  EXPECT_TRUE(uploaded.status == 200 || uploaded.status == 201) << device << " " << uploaded.status;
  v1::ReportRequest report = ReportOf(task, bytes);
  report.set_parent_sha256(task.plan().adapter().rbegin()->sha256());  // the ledger, where there is one
  const HttpResponse reported = SendAs(device, HttpRequest("POST", "/v1/reports", report.SerializeAsString()));
  v1::ReportResponse verdict;
  EXPECT_TRUE(reported.status == 200 && verdict.ParseFromString(reported.body)) << device << " " << reported.status;
  EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_ACCEPTED) << device << ": " << verdict.ShortDebugString();
}

void AttackWorld::Besiege(const std::vector<Attack>& attacks, size_t begin, size_t end) {
  BeginRound();
  if (testing::Test::HasFatalFailure()) return;
  // Two work while the attacks run; the third comes after them, so that the round is open all the time.
  std::jthread honest([this] {
    WorkAs("anna");
    WorkAs("bert");
  });
  for (size_t i = begin; i < end; ++i) {
    SCOPED_TRACE(attacks[i].name);
    attacks[i].run();
  }
  honest.join();
  WorkAs("carl");
  EXPECT_TRUE(Eventually([this] { return CommittedRounds() == current_; }));
}

void AttackWorld::Withstand(const std::vector<Attack>& attacks) {
  for (int round = 0; round < kRounds && !HasFatalFailure(); ++round) {
    const size_t share = (attacks.size() + kRounds - 1) / kRounds;
    const size_t begin = std::min(attacks.size(), share * static_cast<size_t>(round));
    Besiege(attacks, begin, std::min(attacks.size(), begin + share));
  }
  EXPECT_TRUE(Eventually([this] { return Run().at("state").as_string() == "complete"; }));
  EXPECT_EQ(json::value_to<std::string>(Run().at("model_sha256")), ExpectedModel());
  const std::string metrics = Admin("GET", "/metrics").body;
  EXPECT_EQ(metrics.find("reason=\"INTERNAL\""), std::string::npos) << metrics;
  EXPECT_EQ(metrics.find("status=\"5"), std::string::npos) << metrics;
  EXPECT_EQ(Metric("heddle_request_failures_total"), 0);
  clients_.clear();
  EXPECT_TRUE(Eventually([this] { return Metric("heddle_clients_connected") == 0; }));
}

std::string AttackWorld::ExpectedModel() const {
  static std::map<std::string, std::string> models;  // by what is more in the recipe
  std::string more = tables_;
  for (const auto& [key, value] : strategy_) more += "\n" + key + " = " + value;
  std::string& model = models[more];
  if (model.empty()) {
    AttackWorld quiet(adjust_, strategy_, tables_);
    for (int round = 0; round < kRounds; ++round) quiet.Besiege({}, 0, 0);
    EXPECT_TRUE(Eventually([&] { return quiet.Run().at("state").as_string() == "complete"; }));
    model = json::value_to<std::string>(quiet.Run().at("model_sha256"));
  }
  return model;
}

// ---- what attacks are made of ----

std::shared_ptr<boost::asio::ssl::context> AttackWorld::TlsOf(const std::string& device) {
  protocol::ClientTlsOptions tls;
  tls.ca_pem = Pki::Value(ReadFile(config_.pki() / "ca.crt"));
  if (!device.empty()) {
    tls.certificate = temp_.path() / (device + ".crt");
    tls.key = temp_.path() / (device + ".key");
  }
  return Pki::Value(protocol::MakeClientTls(tls));
}

std::unique_ptr<RawPeer> AttackWorld::Peer(const std::string& device) {
  return std::make_unique<RawPeer>(port(), TlsOf(device).get());
}

void AttackWorld::Reconnect(const std::string& device) { clients_.at(device) = ClientOf(device); }

std::unique_ptr<HttpClient> AttackWorld::ClientOf(const std::string& device) {
  protocol::ClientOptions options;
  options.host = "127.0.0.1";
  options.port = port();
  options.tls = TlsOf(device);
  return std::make_unique<HttpClient>(threads_.io().get_executor(), options);
}

Result<HttpResponse> AttackWorld::TrySendAs(const std::string& device, HttpRequest request) {
  return TrySend(*clients_.at(device), std::move(request));
}

HttpResponse AttackWorld::SendAs(const std::string& device, HttpRequest request) {
  return Send(*clients_.at(device), std::move(request));
}

}  // namespace heddle::coordinator
