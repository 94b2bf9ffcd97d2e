// A real coordinator in this process, on free ports in a temporary folder, and devices that speak to it over TLS in
// whatever way a test wants.
#pragma once

#include <gtest/gtest.h>

#include <boost/json/object.hpp>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/state_dict.h"
#include "coordinator/admin/admin_client.h"
#include "coordinator/service/service.h"
#include "protocol/refusal.h"
#include "protocol/transport/client.h"
#include "tests/unit/protocol/transport_fixture.h"

namespace heddle::coordinator {

using protocol::HttpClient;
using protocol::HttpRequest;
using protocol::HttpResponse;

// The answer has the reason's HTTP status and says so in a Refusal with a sentence.
void ExpectRefused(const HttpResponse& response, v1::RefusalReason reason);

// A request that is answered later.
struct Asked {
  std::shared_ptr<std::optional<Result<HttpResponse>>> answer;
  std::future<void> done;
};

class ServiceTest : public ::testing::Test {
 protected:
  // `adjust` may change the configuration before the coordinator starts.
  explicit ServiceTest(const std::function<void(CoordinatorConfig&)>& adjust = {});
  ~ServiceTest() override;

  // ---- enrolment ----
  // The secret half of what `heddle device token` prints.
  std::string Token(const std::string& device, std::optional<double> hours = std::nullopt);
  // POST /v1/enroll with a key made for `device`; keeps the certificate when one is given.
  HttpResponse Enroll(const std::string& device, const std::string& token);

  // ---- speaking ----
  // A connection of the enrolled device; empty: without a certificate. Enrols it when it is not.
  HttpClient& Device(const std::string& device);
  std::unique_ptr<HttpClient> Connect(const protocol::ClientTlsOptions& tls);
  Result<HttpResponse> TrySend(HttpClient& client, HttpRequest request);
  HttpResponse Send(HttpClient& client, HttpRequest request);  // a failure of the test without an answer
  Asked Ask(HttpClient& client, HttpRequest request);
  static HttpRequest CheckinRequestOf(uint32_t version = 1);

  // ---- a run of rounds that one accepted report of two assigned devices commits ----
  // `tables`: more of the recipe.
  void SubmitRun(const std::map<std::string, std::string>& strategy = {}, const std::string& tables = "");
  // Both devices check in; their assignments.
  std::map<std::string, v1::TaskAssignment> NextRound();
  // The adapter that the assignment starts from, fetched.
  StateDict GoodUpdateBase(const v1::TaskAssignment& assignment);
  StateDict GoodUpdate(const v1::TaskAssignment& assignment);
  // Begins an upload that carries `bytes`. The digest header is that of `declared` (default: of the bytes).
  HttpResponse Upload(const std::string& device, const std::string& assignment_id, const std::string& bytes);
  HttpRequest UploadRequest(const std::string& assignment_id, const std::string& bytes);
  v1::ReportRequest ReportOf(const v1::TaskAssignment& assignment, const std::string& bytes);
  HttpResponse Report(const std::string& device, const v1::ReportRequest& report);
  // A good update of the device commits the round.
  void CommitRound(const std::string& device, const v1::TaskAssignment& assignment);

  // ---- administration ----
  AdminClient& admin() { return *admin_; }
  boost::json::object Run();
  double CommittedRounds();
  // Straight to the loopback listener; empty token: no Authorization header.
  HttpResponse Admin(const std::string& method, const std::string& target, const std::string& body = "",
                     const std::string& authorization = "");
  // The value of one line of /metrics; 0 where it is missing.
  double Metric(const std::string& name_and_labels);
  std::string AdminToken();

  protocol::TempDir temp_;
  CoordinatorConfig config_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<AdminClient> admin_;
  protocol::Threads threads_{1};
  std::map<std::string, std::unique_ptr<HttpClient>> clients_;
  std::string run_id_;
  int round_ = 0;
};

}  // namespace heddle::coordinator
