// docs/openapi.yaml against the coordinator: what the file names is answered, what the code answers is in the file.
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/json.hpp>
#include <optional>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/service/service.h"
#include "protocol/transport/client.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::coordinator {
namespace {

namespace json = boost::json;

using Route = std::pair<std::string, std::string>;  // "GET", "/v1/runs/{run_id}"

// Of the file: paths stand two spaces deep under `paths:`, methods four.
std::set<Route> RoutesOfTheFile() {
  std::istringstream lines(Slurp(HEDDLE_SOURCE_DIR "/docs/openapi.yaml"));
  const std::regex path_line("^  (/[^ ]*):$"), method_line("^    (get|post|put|patch|delete):$");
  std::set<Route> routes;
  bool in_paths = false;
  std::string path;
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (!line.empty() && line[0] != ' ') {
      in_paths = line == "paths:";
    } else if (in_paths && std::regex_match(line, match, path_line)) {
      path = match[1];
    } else if (in_paths && std::regex_match(line, match, method_line)) {
      std::string method = match[1];
      for (char& c : method) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      routes.emplace(method, path);
    }
  }
  return routes;
}

// Of AdminApi::Route: `get && path == "…"`, and between(kRuns, "…") inside `if (get) {`.
std::set<Route> RoutesOfTheCode() {
  const std::string source = Slurp(HEDDLE_SOURCE_DIR "/coordinator/service/admin_api.cc");
  const size_t begin = source.find("AdminApi::Route("), end = source.find("\n}\n", begin);
  std::istringstream lines(source.substr(begin, end - begin));
  const std::regex exact(R"re((get|post) && path == "([^"]+)")re"), block(R"re(^  if \((get|post)\) \{$)re"),
      nested(R"re(between\((kRuns|kClients), "([^"]*)"\))re");
  std::set<Route> routes;
  std::string method;
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (std::regex_search(line, match, exact)) routes.emplace(match[1] == "get" ? "GET" : "POST", match[2]);
    if (std::regex_search(line, match, block)) method = match[1] == "get" ? "GET" : "POST";
    if (std::regex_search(line, match, nested)) {
      const std::string prefix = match[1] == "kRuns" ? "/v1/runs/{run_id}" : "/v1/clients/{device}";
      routes.emplace(method, prefix + match[2].str());
    }
  }
  return routes;
}

class OpenApiTest : public ::testing::Test {
 protected:
  void SetUp() override {
    CoordinatorConfig config;
    config.listen_address = "127.0.0.1";
    config.listen_port = 0;
    config.admin_port = 0;
    config.state_dir = folder_ / "state";
    config.threads = 1;
    config.aggregation_threads = 1;
    config.shutdown_grace_s = 0;
    config.resolved = "threads = 1\n";
    auto started = Service::Start(config, {.insecure = true});
    ASSERT_TRUE(started.ok()) << started.status();
    service_ = *std::move(started);
    token_ = Slurp(config.admin_token());
    while (!token_.empty() && token_.back() == '\n') token_.pop_back();
    protocol::ClientOptions options;
    options.host = "127.0.0.1";
    options.port = service_->admin_port();
    client_.emplace(io_.get_executor(), options);
  }
  void TearDown() override {
    client_.reset();
    if (service_) service_->Stop();
  }

  protocol::HttpResponse Send(const std::string& method, const std::string& target, const std::string& body,
                              const std::string& authorization) {
    protocol::HttpRequest request(method, target, body);
    request.content_type = "application/json";
    if (!authorization.empty()) request.headers.emplace_back("Authorization", authorization);
    std::optional<Result<protocol::HttpResponse>> answer;
    auto call = [&]() -> protocol::Awaitable<void> { answer.emplace(co_await client_->Send(request)); };
    io_.restart();
    boost::asio::co_spawn(io_, call(), boost::asio::detached);
    while (!answer && io_.run_one() > 0) {
    }
    if (!answer || !answer->ok()) {
      ADD_FAILURE() << method << " " << target << ": " << (answer ? answer->status().ToString() : "no answer");
      return {};
    }
    return **answer;
  }
  protocol::HttpResponse Send(const std::string& method, const std::string& target, const std::string& body = "") {
    return Send(method, target, body, "Bearer " + token_);
  }

  // The path with names of what does not exist, and without waiting.
  static std::string Filled(std::string path) {
    if (path.ends_with(":watch")) path += "?timeout_s=0";
    path = std::regex_replace(path, std::regex(R"(\{run_id\})"), "none-00000000");
    return std::regex_replace(path, std::regex(R"(\{device\})"), "nobody");
  }

  // The problem's code; checks that it is one, complete and at odds with nothing.
  static std::string CodeOf(const protocol::HttpResponse& response) {
    EXPECT_EQ(response.Header("Content-Type").value_or(""), "application/problem+json");
    json::error_code error;
    const json::value value = json::parse(response.body, error);
    if (error || !value.is_object()) {
      ADD_FAILURE() << "not a problem: " << response.body;
      return "";
    }
    const json::object& problem = value.get_object();
    for (const char* key : {"type", "title", "status", "code", "detail"}) EXPECT_TRUE(problem.contains(key)) << key;
    EXPECT_EQ(problem.at("status").to_number<unsigned>(), response.status);
    EXPECT_FALSE(problem.at("detail").as_string().empty());
    return json::value_to<std::string>(problem.at("code"));
  }

  TempDir folder_;
  std::unique_ptr<Service> service_;
  std::string token_;
  boost::asio::io_context io_;
  std::optional<protocol::HttpClient> client_;
};

TEST(OpenApiFile, NamesExactlyTheRoutesOfTheCode) {
  const std::set<Route> file = RoutesOfTheFile(), code = RoutesOfTheCode();
  EXPECT_GE(code.size(), 12U) << "the routes are no longer found in the source";
  EXPECT_EQ(file, code);
}

TEST_F(OpenApiTest, EveryPathOfTheFileIsAnsweredByTheCoordinator) {
  for (const auto& [method, path] : RoutesOfTheFile()) {
    SCOPED_TRACE(method + " " + path);
    const auto response = Send(method, Filled(path), method == "POST" ? "{}" : "");
    EXPECT_EQ(response.body.find("see docs/openapi.yaml"), std::string::npos) << response.body;
    if (path.find('{') != std::string::npos) {
      EXPECT_EQ(response.status, 404U) << response.body;
      EXPECT_EQ(CodeOf(response), "NOT_FOUND");
    } else if (method == "POST") {
      EXPECT_EQ(response.status, 400U) << response.body;
      EXPECT_EQ(CodeOf(response), "INVALID_ARGUMENT");
    } else {
      EXPECT_EQ(response.status, 200U) << response.body;
    }
  }
}

TEST_F(OpenApiTest, WhatTheFileDoesNotNameIsAProblemThatPointsToIt) {
  const Route unknown[] = {{"GET", "/"},           {"GET", "/v1"},          {"GET", "/v1/runs/"},
                           {"DELETE", "/v1/runs"}, {"POST", "/v1/clients"}, {"POST", "/v1/runs/x"},
                           {"PUT", "/healthz"}};
  for (const auto& [method, path] : unknown) {
    SCOPED_TRACE(method + " " + path);
    const auto response = Send(method, path);
    EXPECT_EQ(response.status, 404U);
    EXPECT_EQ(CodeOf(response), "NOT_FOUND");
    EXPECT_NE(response.body.find("see docs/openapi.yaml"), std::string::npos);
  }
}

TEST_F(OpenApiTest, EveryPostNeedsTheTokenAndNoGetDoes) {
  for (const auto& [method, path] : RoutesOfTheFile()) {
    SCOPED_TRACE(method + " " + path);
    for (const std::string& given : std::vector<std::string>{"", "Bearer " + token_ + "x", "Bearer x", token_}) {
      const auto response = Send(method, Filled(path), method == "POST" ? "{}" : "", given);
      if (method == "POST") {
        EXPECT_EQ(response.status, 401U) << response.body;
        EXPECT_EQ(CodeOf(response), "UNAUTHENTICATED");
        EXPECT_EQ(response.body.find(token_), std::string::npos) << "an answer tells the token";
      } else {
        EXPECT_NE(response.status, 401U);
      }
    }
  }
}

TEST_F(OpenApiTest, HeadIsAnsweredAsGetWithoutABody) {
  for (const auto& [method, path] : RoutesOfTheFile()) {
    if (method != "GET" || path.find('{') != std::string::npos || path == "/metrics") continue;
    SCOPED_TRACE(path);
    const auto get = Send("GET", path), head = Send("HEAD", path);
    EXPECT_EQ(head.status, get.status);
    EXPECT_EQ(head.body, "");
    EXPECT_EQ(head.Header("Content-Type"), get.Header("Content-Type"));
    EXPECT_EQ(head.Header("Content-Length").value_or(""), std::to_string(get.body.size()));
  }
}

TEST_F(OpenApiTest, ASubmissionThatIsNotTheDocumentedObjectIsRefusedWithASentence) {
  for (const char* body : {"", "[]", "{", "null", "{\"recipe\":1,\"folder\":\"/\"}", "{\"recipe\":\"\"}",
                           "{\"recipe\":\"\",\"folder\":\"relative\"}", "{\"recipe\":\"x\",\"folder\":\"/\"}",
                           "{\"recipe\":\"\",\"folder\":\"/\",\"overrides\":{\"seed\":1}}"}) {
    SCOPED_TRACE(body);
    const auto response = Send("POST", "/v1/runs", body);
    EXPECT_EQ(response.status, 400U) << response.body;
    EXPECT_EQ(CodeOf(response), "INVALID_ARGUMENT");
  }
  EXPECT_EQ(Send("GET", "/v1/runs").body, "{\"runs\":[]}\n");
}

}  // namespace
}  // namespace heddle::coordinator
