// A real coordinator with real TLS, three devices that behave, and "mallory", who is enrolled too and does not. Each
// test lays one table of attacks on it while the three carry a run to its end.
//
// The devices that behave send updates that depend on round and device only, so the model of the last round is the same
// whoever else speaks to the coordinator: ExpectedModel is that of a coordinator that nobody attacked.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/unit/coordinator/service/service_fixture.h"
#include "tests/unit/protocol/raw_peer.h"

namespace heddle::coordinator {

inline constexpr int kRounds = 3;

struct Attack {
  std::string name;           // what is sent and what is expected, as a sentence's beginning
  std::function<void()> run;  // sends it and expects the answer
};

class AttackWorld : public ServiceTest {
 public:
  // `strategy`, `tables`: more of the recipe, as for SubmitRun; of plain adapters or with shared seeds.
  explicit AttackWorld(const std::function<void(CoordinatorConfig&)>& adjust = {},
                       const std::map<std::string, std::string>& strategy = {}, const std::string& tables = "");

  // Runs the attacks while the run's rounds are open, and expects that each round commits, the run completes with the
  // right model, nobody was told that something failed inside, and the connections of the attackers are gone.
  void Withstand(const std::vector<Attack>& attacks);
  // The model of the same run without attacks, in hex.
  std::string ExpectedModel() const;

  // ---- what attacks are made of ----
  uint16_t port() const { return service_->device_port(); }
  uint16_t admin_port() const { return service_->admin_port(); }
  // A raw connection with the device's certificate; empty: without any.
  std::unique_ptr<protocol::RawPeer> Peer(const std::string& device = "mallory");
  std::shared_ptr<boost::asio::ssl::context> TlsOf(const std::string& device);
  HttpResponse SendAs(const std::string& device, HttpRequest request);
  Result<HttpResponse> TrySendAs(const std::string& device, HttpRequest request);
  // The open round's task of a device that behaves ("anna", "bert", "carl") or of mallory.
  const v1::TaskAssignment& TaskOf(const std::string& device) { return tasks_.at(device); }
  const std::map<std::string, v1::TaskAssignment>& last_tasks() const { return last_tasks_; }
  // The update that `device` sends in the open round.
  std::string UpdateOf(const std::string& device);
  // Connects the device anew, with the certificate that it has now.
  void Reconnect(const std::string& device);
  // A connection of its own: for attacks from other threads, which may not share one.
  std::unique_ptr<HttpClient> ClientOf(const std::string& device);

  using ServiceTest::Admin;
  using ServiceTest::admin;
  using ServiceTest::AdminToken;
  using ServiceTest::Ask;
  using ServiceTest::CheckinRequestOf;
  using ServiceTest::config_;
  using ServiceTest::Connect;
  using ServiceTest::Device;
  using ServiceTest::Enroll;
  using ServiceTest::Metric;
  using ServiceTest::ReportOf;
  using ServiceTest::Run;
  using ServiceTest::run_id_;
  using ServiceTest::service_;
  using ServiceTest::temp_;
  using ServiceTest::threads_;
  using ServiceTest::Token;
  using ServiceTest::TrySend;
  using ServiceTest::UploadRequest;

 private:
  void TestBody() override {}
  void BeginRound();                       // everybody has a task
  void FetchModel();                       // of the open round
  void WorkAs(const std::string& device);  // fetches, uploads, reports; accepted
  void Besiege(const std::vector<Attack>& attacks, size_t begin, size_t end);

  std::map<std::string, v1::TaskAssignment> tasks_, last_tasks_;
  StateDict adapter_;                    // of the open round
  std::optional<Sha256Digest> weights_;  // with shared seeds: of the model of the open round
  std::function<void(CoordinatorConfig&)> adjust_;
  std::map<std::string, std::string> strategy_;
  std::string tables_;
  int current_ = 0;
};

}  // namespace heddle::coordinator
