// The loopback API: every route and method, by who asks. Who may read may not change, and a browser may do neither.
// What is administered has no owner: there is one administrator, whose token is for every object. What belongs to one
// device and is closed to the others is in device_attacks_test.cc.
#include <algorithm>
#include <boost/json.hpp>
#include <memory>
#include <optional>

#include "protocol/validate.h"
#include "tests/integration/attacks/attack_world.h"

namespace heddle::coordinator {
namespace {

using protocol::Eventually;
using protocol::RawPeer;

struct Route {
  const char* method;
  std::string path;
  // Who has no token, who has a wrong one, and who has the right one; nothing: not asked, since it would be done.
  int without, wrong;
  std::optional<int> right;
};

// The run is replaced in every path; nothing here may change what the run's end depends on.
std::vector<Route> Routes() {
  return {
      {"GET", "/healthz", 200, 200, 200},
      {"GET", "/readyz", 200, 200, 200},
      {"GET", "/metrics", 200, 200, 200},
      {"GET", "/v1/config", 200, 200, 200},
      {"GET", "/v1/clients", 200, 200, 200},
      {"GET", "/v1/runs", 200, 200, 200},
      {"GET", "/v1/runs/RUN", 200, 200, 200},
      {"GET", "/v1/runs/RUN/rounds", 200, 200, 200},
      {"GET", "/v1/runs/RUN:watch?timeout_s=0", 200, 200, 200},
      {"HEAD", "/v1/runs/RUN", 200, 200, 200},
      // Changing needs the token, whether or not there is what is to be changed.
      {"POST", "/v1/runs", 401, 401, 400},
      {"POST", "/v1/runs/nothing:stop", 401, 401, 404},
      {"POST", "/v1/clients/nobody:revoke", 401, 401, 404},
      {"POST", "/v1/runs/RUN:stop", 401, 401, std::nullopt},
      {"POST", "/v1/clients/anna:revoke", 401, 401, std::nullopt},
      {"POST", "/v1/nothing", 401, 401, 404},
      {"POST", "/v1/runs/RUN:watch", 401, 401, 404},
      {"POST", "/healthz", 401, 401, 404},
      // Reading never changes, also with the token; other methods do not exist.
      {"GET", "/v1/runs/RUN:stop", 404, 404, 404},
      {"HEAD", "/v1/runs/RUN:stop", 404, 404, 404},
      {"GET", "/v1/clients/anna:revoke", 404, 404, 404},
      {"PUT", "/v1/runs/RUN:stop", 404, 404, 404},
      {"DELETE", "/v1/runs/RUN", 404, 404, 404},
      {"PATCH", "/v1/clients/anna", 404, 404, 404},
      {"OPTIONS", "/v1/runs", 404, 404, 404},
      {"post", "/v1/runs/RUN:stop", 404, 404, 404},
      {"GET", "/v1/config/", 404, 404, 404},
      {"GET", "/admin.token", 404, 404, 404},
      {"GET", "/v1/clients/anna", 404, 404, 404},
  };
}

std::string Target(const AttackWorld& world, std::string path) {
  const size_t at = path.find("RUN");
  if (at != std::string::npos) path.replace(at, 3, world.run_id_);
  return path;
}

TEST(Attacks, EveryRouteOfTheLoopbackApiIsOpenToWhomItShouldBe) {
  AttackWorld world;
  const std::string right = "Bearer " + world.AdminToken();
  std::string almost = right;
  almost.back() = almost.back() == '0' ? '1' : '0';
  std::vector<Attack> attacks;
  for (const Route& route : Routes()) {
    attacks.push_back({std::string(route.method) + " " + route.path, [&world, route, right, almost] {
                         const std::string target = Target(world, route.path);
                         const auto status = [&](const std::string& authorization) {
                           return static_cast<int>(world.Admin(route.method, target, "{}", authorization).status);
                         };
                         EXPECT_EQ(status(""), route.without);
                         for (const std::string& wrong :
                              {almost, right + "0", right.substr(0, right.size() - 1), right.substr(7),
                               "bearer" + right.substr(6), "Basic " + right.substr(7), std::string("Bearer "),
                               std::string("Bearer null")}) {
                           EXPECT_EQ(status(wrong), route.wrong) << wrong;
                         }
                         if (route.right) {
                           EXPECT_EQ(status(right), *route.right);
                         }
                       }});
  }
  world.Withstand(attacks);
  EXPECT_EQ(world.Metric("heddle_clients_enrolled"), 4) << "nobody was revoked";
  EXPECT_EQ(world.Admin("POST", "/v1/clients/anna:revoke", "{}", right).status, 200U)
      << "there was something to revoke";
  EXPECT_EQ(world.Metric("heddle_clients_enrolled"), 3);
}

// A page in a browser on this machine can make it send requests to 127.0.0.1, with the page's name in them.
TEST(Attacks, PagesInABrowserMayNeitherReadNorChange) {
  AttackWorld world;
  const std::string bearer = "Authorization: Bearer " + world.AdminToken() + "\r\n";
  const std::string port = std::to_string(world.admin_port());
  const auto ask = [&world](const std::string& method, const std::string& path, const std::string& headers) {
    RawPeer peer(world.admin_port());
    peer.Send(method + " " + Target(world, path) + " HTTP/1.1\r\n" + headers + "Content-Length: 0\r\n\r\n");
    return peer.ReadStatus();
  };
  struct BrowserRow {
    std::string headers;
    bool allowed;
  };
  const std::vector<BrowserRow> rows = {
      {"Host: 127.0.0.1:" + port + "\r\n", true},
      {"Host: localhost\r\n", true},
      {"Host: [::1]:" + port + "\r\n", true},
      {"Host: 127.0.0.1\r\nOrigin: http://127.0.0.1:" + port + "\r\nSec-Fetch-Site: same-origin\r\n", true},
      {"Host: 127.0.0.1\r\nSec-Fetch-Site: none\r\n", true},
      // A name that was bound to 127.0.0.1 after the page had been loaded.
      {"Host: evil.example\r\n", false},
      {"Host: evil.example:" + port + "\r\n", false},
      {"Host: 127.0.0.1.evil.example\r\n", false},
      {"Host: localhost.evil.example\r\n", false},
      {"Host: evil.example:127.0.0.1\r\n", false},
      {"Host: 127.0.0.1:7480@evil.example\r\n", false},
      {"Host: 127.1\r\n", false},
      {"Host: 2130706433\r\n", false},
      {"Host: 0.0.0.0:" + port + "\r\n", false},
      {"Host: [::ffff:127.0.0.1]\r\n", false},
      {"Host: 127.0.0.1:\r\n", false},
      {"Host: \r\n", false},
      // A page of another origin that sends to 127.0.0.1 itself.
      {"Host: 127.0.0.1\r\nOrigin: http://evil.example\r\n", false},
      {"Host: 127.0.0.1\r\nOrigin: https://127.0.0.1\r\n", false},
      {"Host: 127.0.0.1\r\nOrigin: null\r\n", false},
      {"Host: 127.0.0.1\r\nOrigin: http://127.0.0.1.evil.example\r\n", false},
      {"Host: 127.0.0.1\r\nOrigin: file://\r\n", false},
      {"Host: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\n", false},
      {"Host: 127.0.0.1\r\nSec-Fetch-Site: same-site\r\n", false},
  };
  std::vector<Attack> attacks;
  for (const BrowserRow& row : rows) {
    attacks.push_back({row.headers, [&ask, row, bearer] {
                         EXPECT_EQ(ask("GET", "/v1/clients", row.headers), row.allowed ? 200 : 403);
                         EXPECT_EQ(ask("GET", "/metrics", row.headers), row.allowed ? 200 : 403);
                         // Not even with the token, which it cannot have.
                         EXPECT_EQ(ask("POST", "/v1/clients/nobody:revoke", row.headers + bearer),
                                   row.allowed ? 404 : 403);
                       }});
  }
  world.Withstand(attacks);
}

// A device's certificate is nothing on the loopback listener, and the administrator's token nothing on the devices'.
TEST(Attacks, WhatOpensOneListenerDoesNotOpenTheOther) {
  AttackWorld world;
  std::vector<Attack> attacks;
  attacks.push_back({"a device that speaks TLS to the loopback listener", [&world] {
                       RawPeer peer(world.admin_port());
                       peer.Send(RawPeer::ClientHello(*world.TlsOf("anna")));
                       peer.EndSending();
                       std::string answer;
                       EXPECT_TRUE(peer.ReadToEnd(&answer));
                       EXPECT_EQ(answer.find("200"), std::string::npos) << answer;
                     }});
  for (const char* path : {"/v1/runs", "/v1/clients/anna:revoke", "/v1/runs/RUN:stop", "/metrics", "/v1/config"}) {
    attacks.push_back({std::string("the administrator's token on the devices' listener, for ") + path, [&world, path] {
                         for (const char* method : {"GET", "POST"}) {
                           HttpRequest request(method, Target(world, path));
                           request.headers.emplace_back("Authorization", "Bearer " + world.AdminToken());
                           ExpectRefused(world.SendAs("mallory", request), v1::REFUSAL_REASON_NOT_FOUND);
                           ExpectRefused(world.SendAs("", request), v1::REFUSAL_REASON_UNAUTHENTICATED);
                         }
                       }});
  }
  attacks.push_back({"a device's paths on the loopback listener", [&world] {
                       for (const char* path : {"/v1/enroll", "/v1/checkin", "/v1/reports", "/v1/uploads"}) {
                         EXPECT_EQ(world.Admin("POST", path, "x", "Bearer " + world.AdminToken()).status, 404U);
                         EXPECT_EQ(world.Admin("POST", path, "x").status, 401U);
                       }
                     }});
  world.Withstand(attacks);
}

// ---- too many at once ----

std::string GetBytes(const std::string& target) { return "GET " + target + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"; }

// Who may read without a token may read often.
TEST(Attacks, ManyReadersAtOnceAreAnsweredAndDoNotDisturbTheRun) {
  AttackWorld world;
  // There may be 256 connections, of which the administrator's own is one: what is beyond them is closed at once.
  const auto read = [&world](const std::vector<std::string>& targets, size_t count) {
    std::vector<std::unique_ptr<RawPeer>> readers;
    for (size_t i = 0; i < count; ++i) {
      readers.push_back(std::make_unique<RawPeer>(world.admin_port()));
      readers.back()->Send(GetBytes(targets[i % targets.size()]));
    }
    size_t answered = 0;
    for (const auto& reader : readers) {
      const int status = reader->ReadStatus();
      EXPECT_TRUE(status == 200 || status == 0) << status;
      answered += status == 200 ? 1 : 0;
    }
    EXPECT_GE(answered, std::min<size_t>(count, 220));
    readers.clear();
    EXPECT_TRUE(Eventually([&] {
      RawPeer peer(world.admin_port());
      peer.Send(GetBytes("/healthz"));
      return peer.ReadStatus() == 200;
    }));
  };
  const auto watch = [&world] {  // of what has not changed yet: answered when it does, or a second later
    const auto now = boost::json::parse(world.Admin("GET", Target(world, "/v1/runs/RUN:watch")).body);
    return Target(world, "/v1/runs/RUN:watch?timeout_s=1&version=") + boost::json::serialize(now.at("version"));
  };
  const std::vector<std::string> targets = {"/metrics",    "/healthz",
                                            "/readyz",     "/v1/config",
                                            "/v1/runs",    Target(world, "/v1/runs/RUN"),
                                            "/v1/clients", Target(world, "/v1/runs/RUN/rounds")};
  const auto watch_and_read = [&](bool at_rest) {
    // With two reports nothing changes until the third, which comes when this is over: they are held for their second.
    const auto rests = [&world] { return world.Run().at("reports_accepted").to_number<int>() == 2; };
    EXPECT_TRUE(!at_rest || Eventually(rests));
    const std::string target = watch();
    std::vector<std::unique_ptr<RawPeer>> watchers;
    for (int i = 0; i < 16; ++i) {
      watchers.push_back(std::make_unique<RawPeer>(world.admin_port()));
      watchers.back()->Send(GetBytes(target));
    }
    read(targets, 200);
    // A device is served meanwhile.
    ExpectRefused(world.SendAs("mallory", HttpRequest("GET", "/v1/blobs/" + std::string(64, 'a'))),
                  v1::REFUSAL_REASON_NOT_FOUND);
    for (const auto& watcher : watchers) {
      const std::string answer = watcher->ReadAnswer();
      EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 ")) << answer;
      EXPECT_NE(answer.find("\"version\""), std::string::npos) << answer;
    }
  };
  const auto watch_and_leave = [&] {
    const std::string target = watch();
    for (int i = 0; i < 16; ++i) {
      RawPeer watcher(world.admin_port());
      watcher.Send(GetBytes(target));
      if (i % 2 == 0) watcher.Reset();
    }
  };
  world.Withstand(
      {{"two hundred readers", [&] { read(targets, 200); }},
       {"more readers than there may be", [&] { read(targets, 300); }},
       {"sixteen that watch devices at work, and readers beside them", [&] { watch_and_read(false); }},
       {"sixteen that watch and go", watch_and_leave},
       {"sixteen that watch where nothing changes, and readers beside them", [&] { watch_and_read(true); }}});
}

}  // namespace
}  // namespace heddle::coordinator
