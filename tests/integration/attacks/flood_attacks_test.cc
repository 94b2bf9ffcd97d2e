// One device that asks for nothing but what it may ask for, and far too often: each answer is the one that a single
// request gets, or says to come back later, and the others' run does not notice.
#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/use_future.hpp>
#include <filesystem>
#include <thread>

#include "protocol/validate.h"
#include "tests/integration/attacks/attack_world.h"

namespace heddle::coordinator {
namespace {

using protocol::Eventually;
using protocol::Pki;
using protocol::RawPeer;

constexpr int kConnections = 4;

// What `one` does on so many connections of mallory's at once.
void OnEach(AttackWorld& world, const std::function<void(HttpClient& client, int connection)>& one) {
  std::vector<std::thread> crowd;
  for (int i = 0; i < kConnections; ++i) {
    crowd.emplace_back([&world, &one, i] {
      const auto client = world.ClientOf("mallory");
      one(*client, i);
    });
  }
  for (std::thread& thread : crowd) thread.join();
}

// The answer, unless it says to come back later; none is an error of ours.
std::optional<HttpResponse> Heard(const Result<HttpResponse>& answer) {
  EXPECT_TRUE(answer.ok()) << answer.status();
  if (!answer.ok()) return std::nullopt;
  EXPECT_LT(answer->status, 500U);
  if (answer->status != 429) return *answer;
  EXPECT_TRUE(answer->Header("Retry-After"));
  return std::nullopt;
}

// ---- uploads ----

// Every other one is sent by all connections at the same time.
void UploadAgainAndAgain(AttackWorld& world) {
  const std::string& task = world.TaskOf("mallory").assignment_id();
  OnEach(world, [&](HttpClient& client, int connection) {
    for (uint64_t i = 0; i < 75; ++i) {
      const uint64_t seed = i % 2 == 0 ? i : 1000 * static_cast<uint64_t>(connection + 1) + i;
      const std::string bytes = protocol::MakeBytes(2000, seed);
      const auto answer = Heard(world.TrySend(client, world.UploadRequest(task, bytes)));
      if (!answer) continue;
      if (answer->status == 409) {
        ExpectRefused(*answer, v1::REFUSAL_REASON_WRONG_OFFSET);
      } else if (answer->status == 404) {  // finished by another connection, and replaced by a third since
        ExpectRefused(*answer, v1::REFUSAL_REASON_NOT_FOUND);
      } else {
        EXPECT_TRUE(answer->status == 200 || answer->status == 201) << answer->status;
      }
    }
  });
  EXPECT_LE(world.Metric("heddle_uploads_unfinished"), 8 + 2) << "its own, and one each of those who work";
  // Of those that were finished it keeps the last.
  int on_disk = 0;
  for (uint64_t connection = 0; connection <= kConnections; ++connection) {
    for (uint64_t i = 0; i < 75; ++i) {
      const std::string hex = Sha256(protocol::MakeBytes(2000, 1000 * connection + i)).ToHex();
      const auto path = std::filesystem::path(world.config_.state_dir) / "blobs" / hex.substr(0, 2) / hex;
      on_disk += std::filesystem::exists(path) ? 1 : 0;
    }
  }
  EXPECT_LE(on_disk, 1);
}

// ---- reports ----

void Repeat(AttackWorld& world, const v1::ReportRequest& report, std::initializer_list<v1::ReportVerdict> verdicts) {
  const std::string body = report.SerializeAsString();
  OnEach(world, [&](HttpClient& client, int) {
    for (int i = 0; i < 100; ++i) {
      const auto answer = Heard(world.TrySend(client, HttpRequest("POST", "/v1/reports", body)));
      if (!answer) continue;
      v1::ReportResponse verdict;
      EXPECT_TRUE(answer->status == 200 && verdict.ParseFromString(answer->body)) << answer->status;
      EXPECT_NE(std::ranges::find(verdicts, verdict.verdict()), verdicts.end()) << verdict.ShortDebugString();
    }
  });
}

void ReportWhatIsNoUpdate(AttackWorld& world) {
  v1::ReportRequest report = world.ReportOf(world.TaskOf("mallory"), "no update");
  report.set_inline_update("no update");
  Repeat(world, report, {v1::REPORT_VERDICT_INVALID});
}

void ReportTooLate(AttackWorld& world) {
  const std::string bytes = world.UpdateOf("mallory");
  v1::ReportRequest report = world.ReportOf(world.last_tasks().at("mallory"), bytes);
  report.set_inline_update(bytes);
  // What was said of the task first is said again: the one of the first round was refused.
  Repeat(world, report, {v1::REPORT_VERDICT_LATE, v1::REPORT_VERDICT_SUPERSEDED, v1::REPORT_VERDICT_INVALID});
}

void ReportFailed(AttackWorld& world) {
  v1::ReportRequest report;
  report.set_assignment_id(world.TaskOf("mallory").assignment_id());
  report.set_outcome(v1::TASK_OUTCOME_FAILED);
  report.set_message(std::string(500, 'x'));
  Repeat(world, report, {v1::REPORT_VERDICT_NOTED});
}

// ---- check-ins ----

// Always a few at once, each of which takes the place of the one before; whoever is answered asks again.
void CheckInAgainAndAgain(AttackWorld& world) {
  constexpr int kMost = 400;
  std::vector<std::unique_ptr<HttpClient>> clients;
  std::vector<Asked> asked;
  for (int i = 0; i < kConnections; ++i) {
    clients.push_back(world.ClientOf("mallory"));
    asked.push_back(world.Ask(*clients.back(), AttackWorld::CheckinRequestOf()));
  }
  int answered = 0;
  const auto look = [&](size_t i) {
    if (asked[i].done.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready) return;
    if (const auto answer = Heard(**asked[i].answer)) {
      v1::CheckinResponse response;
      EXPECT_TRUE(answer->status == 200 && response.ParseFromString(answer->body)) << answer->status;
      EXPECT_TRUE(response.has_assignment() || response.rejection().reason() == v1::REJECTION_REASON_REPLACED)
          << response.ShortDebugString();
    }
    ++answered;
    asked[i] = world.Ask(*clients[i], AttackWorld::CheckinRequestOf());
  };
  const auto enough = [&] {
    for (size_t i = 0; i < asked.size(); ++i) look(i);
    return answered >= kMost;
  };
  EXPECT_TRUE(Eventually(enough, Seconds(100))) << answered;
  const auto close = [&clients] {
    for (auto& client : clients) client->Close();
  };
  boost::asio::post(world.threads_.io(), boost::asio::use_future(close)).get();
  for (Asked& one : asked) one.done.get();
}

// ---- answers that nobody reads ----

HttpRequest LargestBlob(AttackWorld& world, const std::string& device) {
  const auto& blobs = world.TaskOf(device).plan().base_model();
  const auto smaller = [](const v1::BlobRef& a, const v1::BlobRef& b) { return a.size_bytes() < b.size_bytes(); };
  const v1::BlobRef& largest = *std::max_element(blobs.begin(), blobs.end(), smaller);
  EXPECT_GT(largest.size_bytes(), 1'000'000U);
  HttpRequest get("GET", "/v1/blobs/" + Pki::Value(protocol::DigestOf(largest)).ToHex());
  get.max_body = largest.size_bytes();
  return get;
}

void AskAndDoNotRead(AttackWorld& world) {
  const HttpRequest get = LargestBlob(world, "mallory");
  const std::string bytes = "GET " + get.target + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
  const auto tls = world.TlsOf("mallory");
  std::vector<std::unique_ptr<RawPeer>> peers;
  for (int i = 0; i < 64; ++i) {
    peers.push_back(std::make_unique<RawPeer>(world.port(), tls.get(), /*receive_buffer=*/4096));
    for (int j = 0; j < 8; ++j) peers.back()->Send(bytes);
  }
  // The same blob is served to who reads it.
  const auto anna = world.ClientOf("anna");
  const HttpResponse served = Pki::Value(world.TrySend(*anna, get));
  EXPECT_EQ(served.status, 200U);
  EXPECT_EQ("/v1/blobs/" + Sha256(served.body).ToHex(), get.target);
  for (size_t i = 0; i < peers.size(); i += 2) peers[i]->Reset();  // the others say goodbye
}

// ---- the tables ----

// A round each: what ends mallory's task comes behind what needs it, and check-ins that have a task or wait for one.
std::vector<Attack> Floods(AttackWorld& world) {
  std::vector<Attack> attacks;
  for (const auto& [name, report] : std::vector<std::pair<std::string, void (*)(AttackWorld&)>>{
           {"the same report, whose update is none", ReportWhatIsNoUpdate},
           {"the same report, too late", ReportTooLate},
           {"the same report of a task that failed", ReportFailed}}) {
    const auto row = [&](std::string what, void (*run)(AttackWorld&)) {
      attacks.push_back({std::move(what), [&world, run] { run(world); }});
    };
    row("small uploads, one after the other", UploadAgainAndAgain);
    row("check-ins that have a task already", CheckInAgainAndAgain);
    row(name, report);
    row("check-ins that take each other's place", CheckInAgainAndAgain);
    row("a large blob whose bytes are not read", AskAndDoNotRead);
  }
  return attacks;
}

TEST(Attacks, FloodsOfGoodRequestsDoNotDisturbTheRun) {
  AttackWorld world;
  world.Withstand(Floods(world));
}

TEST(Attacks, FloodsOfGoodRequestsAreLimited) {
  AttackWorld world([](CoordinatorConfig& config) {
    config.device_requests_per_s = 20;
    config.device_request_burst = 50;
  });
  world.Withstand(Floods(world));
  EXPECT_GT(world.Metric(R"(heddle_limited_requests_total{limit="requests"})"), 500);
}

}  // namespace
}  // namespace heddle::coordinator
