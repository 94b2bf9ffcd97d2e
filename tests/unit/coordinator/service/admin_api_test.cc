// The loopback API: who may change something, what it answers, and mistakes in what it is told.
#include <boost/json.hpp>

#include "tests/unit/coordinator/service/service_fixture.h"

namespace heddle::coordinator {
namespace {

namespace json = boost::json;
using AdminApiTest = ServiceTest;

json::object Parsed(const HttpResponse& response) {
  boost::system::error_code error;
  const json::value value = json::parse(response.body, error);
  if (error || !value.is_object()) {
    ADD_FAILURE() << "no JSON object: " << response.body;
    return {};
  }
  return value.get_object();
}

void ExpectProblem(const HttpResponse& response, unsigned status) {
  EXPECT_EQ(response.status, status) << response.body;
  EXPECT_EQ(response.Header("Content-Type"), "application/problem+json");
  const json::object problem = Parsed(response);
  EXPECT_EQ(problem.at("status").to_number<unsigned>(), status);
  EXPECT_FALSE(problem.at("detail").as_string().empty());
}

TEST_F(AdminApiTest, ChangesNothingWithoutTheToken) {
  SubmitRun();
  Device("anna");
  const std::string changes[] = {"/v1/runs", "/v1/runs/" + run_id_ + ":stop", "/v1/clients/anna:revoke"};
  for (const std::string& target : changes) {
    SCOPED_TRACE(target);
    const std::string token = AdminToken();
    for (const std::string& authorization :
         {std::string(), std::string("Bearer "), std::string("Bearer wrong"), token, "Bearer " + token + "x",
          "Basic " + token, "Bearer " + std::string(token.size(), 'x')}) {
      ExpectProblem(Admin("POST", target, "{}", authorization), 401);
    }
  }
  EXPECT_EQ(Run().at("state").as_string(), "running");
  EXPECT_EQ(Send(Device("anna"), HttpRequest("GET", "/v1/blobs/" + std::string(64, 'a'))).status, 404U);
  EXPECT_EQ(Admin("POST", "/v1/runs/" + run_id_ + ":stop", "", "Bearer " + AdminToken()).status, 200U);
  EXPECT_EQ(Run().at("state").as_string(), "stopped");
}

TEST_F(AdminApiTest, AnswersHealthReadinessAndMetrics) {
  EXPECT_EQ(Admin("GET", "/healthz").body, "ok\n");
  EXPECT_EQ(Admin("GET", "/readyz").status, 200U);
  Device("anna");
  ExpectRefused(Send(Device("anna"), HttpRequest("GET", "/v1/blobs/x")), v1::REFUSAL_REASON_NOT_FOUND);
  const HttpResponse metrics = Admin("GET", "/metrics");
  EXPECT_EQ(metrics.status, 200U);
  EXPECT_NE(metrics.body.find("\nheddle_clients_enrolled 1"), std::string::npos) << metrics.body;
  EXPECT_NE(metrics.body.find("\nheddle_refusals_total{reason=\"NOT_FOUND\"} 1"), std::string::npos) << metrics.body;
  EXPECT_EQ(Admin("HEAD", "/healthz").status, 200U);
}

TEST_F(AdminApiTest, ListsShowsAndStopsRuns) {
  EXPECT_TRUE(Parsed(Admin("GET", "/v1/runs")).at("runs").as_array().empty());
  SubmitRun();
  auto round = NextRound();
  CommitRound("anna", round["anna"]);
  const json::object listed = Parsed(Admin("GET", "/v1/runs"));
  ASSERT_EQ(listed.at("runs").as_array().size(), 1U);
  EXPECT_EQ(listed.at("runs").as_array()[0].as_object().at("run_id").as_string(), run_id_);
  const json::object rounds = Parsed(Admin("GET", "/v1/runs/" + run_id_ + "/rounds"));
  EXPECT_EQ(rounds.at("rounds").as_array()[0].as_object().at("phase").as_string(), "committed");
  const json::object shown = Parsed(Admin("GET", "/v1/runs/" + run_id_));
  EXPECT_EQ(shown.at("state").as_string(), "running");
  EXPECT_EQ(shown.at("committed_rounds").to_number<int>(), 1);

  const std::string bearer = "Bearer " + AdminToken();
  ExpectProblem(Admin("POST", "/v1/runs/nothing:stop", "", bearer), 404);
  EXPECT_EQ(Parsed(Admin("POST", "/v1/runs/" + run_id_ + ":stop", "", bearer)).at("state").as_string(), "stopped");
  EXPECT_EQ(Run().at("state").as_string(), "stopped");
  ExpectProblem(Admin("POST", "/v1/runs/" + run_id_ + ":stop", "", bearer), 404);
}

TEST_F(AdminApiTest, SaysWhatIsWrongWithWhatItIsTold) {
  const std::string bearer = "Bearer " + AdminToken();
  auto submit = [&](const std::string& recipe) {
    return Admin("POST", "/v1/runs", json::serialize(json::object{{"recipe", recipe}, {"folder", "/"}}), bearer);
  };
  for (const char* body : {"", "{", "[]", "{\"recipe\": 1, \"folder\": \"/\"}", "{\"recipe\": \"\"}",
                           "{\"recipe\": \"\", \"folder\": \"relative\"}"}) {
    SCOPED_TRACE(body);
    ExpectProblem(Admin("POST", "/v1/runs", body, bearer), 400);
  }
  const HttpResponse unknown = submit("name = \"x\"\n[model]\nbase = \"nowhere\"\n[strategy]\ncohort_sise = 2\n");
  ExpectProblem(unknown, 400);
  EXPECT_NE(unknown.body.find("cohort_size"), std::string::npos) << unknown.body;
  ExpectProblem(submit("name = \"x\"\n[model]\nbase = \"nowhere\"\n"), 404);
  for (const char* target : {"/", "/v1/runs/nothing", "/v1/runs/nothing/rounds", "/v1/runs/nothing:watch", "/v2"}) {
    SCOPED_TRACE(target);
    ExpectProblem(Admin("GET", target), 404);
  }
  ExpectProblem(Admin("POST", "/v1/clients/nobody:revoke", "", bearer), 404);
  ExpectProblem(Admin("DELETE", "/v1/runs", "", bearer), 404);
  ExpectProblem(Admin("POST", "/v1/runs", std::string((1 << 20) + 1, ' '), bearer), 413);
  // And a good one is taken afterwards, but not a second beside it.
  SubmitRun();
  EXPECT_THROW(SubmitRun(), std::runtime_error);
  EXPECT_EQ(Run().at("state").as_string(), "running");
}

TEST_F(AdminApiTest, AWaitingWatcherDoesNotHoldUpTheEnd) {
  SubmitRun();
  protocol::ClientOptions options;
  options.host = "127.0.0.1";
  options.port = service_->admin_port();
  HttpClient client(threads_.io().get_executor(), options);
  const json::object now = Parsed(Admin("GET", "/v1/runs/" + run_id_ + ":watch?version=0"));
  const std::string target =
      "/v1/runs/" + run_id_ + ":watch?timeout_s=20&version=" + json::serialize(now.at("version"));
  Asked watch = Ask(client, HttpRequest("GET", target));
  EXPECT_EQ(watch.done.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  service_->Stop();
  EXPECT_EQ(watch.done.wait_for(std::chrono::seconds(5)), std::future_status::ready);
  client.Close();
}

}  // namespace
}  // namespace heddle::coordinator
