// Devices that are enrolled, or would like to be, and do what they may not: with others' objects, with what was said
// before, with messages that are none, and too often.
#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "protocol/limits.h"
#include "protocol/validate.h"
#include "tests/integration/attacks/attack_world.h"

namespace heddle::coordinator {
namespace {

using protocol::Eventually;
using protocol::Pki;

HttpRequest Report(const v1::ReportRequest& report) { return {"POST", "/v1/reports", report.SerializeAsString()}; }

v1::ReportVerdict VerdictOf(const HttpResponse& response) {
  v1::ReportResponse verdict;
  if (response.status != 200 || !verdict.ParseFromString(response.body)) return v1::REPORT_VERDICT_UNSPECIFIED;
  return verdict.verdict();
}

HttpRequest WithoutBody(HttpRequest request) {
  request.body.clear();
  return request;
}

// Mallory's own unfinished upload; its path.
std::string BeginUpload(AttackWorld& world, const std::string& device, const std::string& bytes) {
  HttpRequest begin = world.UploadRequest(world.TaskOf(device).assignment_id(), bytes);
  begin.body = bytes.substr(0, 100);
  const HttpResponse begun = world.SendAs(device, std::move(begin));
  EXPECT_EQ(begun.status, 201U);
  return std::string(begun.Header("Location").value_or("/none"));
}

HttpRequest Patch(const std::string& location, const std::string& offset, const std::string& body) {
  HttpRequest request("PATCH", location, body);
  request.headers.emplace_back("Upload-Offset", offset);
  return request;
}

// ---- role x object x owner ----

struct AccessRow {
  const char* object;
  std::function<HttpRequest(AttackWorld&, const std::string& owner)> request;
  v1::RefusalReason to_another;
};

// Each thing that belongs to one device. Carl works last, so that his are open while mallory tries.
std::vector<AccessRow> Owned() {
  constexpr auto kNotYours = v1::REFUSAL_REASON_NOT_YOURS;
  return {
      {"the assignment, to begin an upload for",
       [](AttackWorld& world, const std::string& owner) {
         return world.UploadRequest(world.TaskOf(owner).assignment_id(), "bytes");
       },
       kNotYours},
      {"the assignment, to report it failed",
       [](AttackWorld& world, const std::string& owner) {
         v1::ReportRequest report;
         report.set_assignment_id(world.TaskOf(owner).assignment_id());
         report.set_outcome(v1::TASK_OUTCOME_FAILED);
         return Report(report);
       },
       kNotYours},
      {"the assignment, to report it interrupted",
       [](AttackWorld& world, const std::string& owner) {
         v1::ReportRequest report;
         report.set_assignment_id(world.TaskOf(owner).assignment_id());
         report.set_outcome(v1::TASK_OUTCOME_INTERRUPTED);
         return Report(report);
       },
       kNotYours},
      {"an upload, to ask for its offset",
       [](AttackWorld& world, const std::string& owner) {
         return HttpRequest("HEAD", BeginUpload(world, owner, protocol::MakeBytes(3000, 1)));
       },
       kNotYours},
      {"an upload, to go on with it",
       [](AttackWorld& world, const std::string& owner) {
         return Patch(BeginUpload(world, owner, protocol::MakeBytes(3000, 2)), "100", "poison");
       },
       kNotYours},
      {"an upload's bytes",
       [](AttackWorld& world, const std::string& owner) {
         const std::string bytes = protocol::MakeBytes(2000, 3);
         EXPECT_EQ(world.SendAs(owner, world.UploadRequest(world.TaskOf(owner).assignment_id(), bytes)).status, 201U);
         return HttpRequest("GET", "/v1/blobs/" + Sha256(bytes).ToHex());
       },
       v1::REFUSAL_REASON_NOT_FOUND},
  };
}

TEST(Attacks, WhatBelongsToOneDeviceIsClosedToTheOthersAndToStrangers) {
  AttackWorld world;
  std::vector<Attack> attacks;
  for (const AccessRow& row : Owned()) {
    attacks.push_back({row.object, [&world, row] {
                         const HttpRequest request = row.request(world, "carl");
                         const bool head = request.method == "HEAD";
                         const HttpResponse other = world.SendAs("mallory", request);
                         EXPECT_EQ(other.status, protocol::HttpStatusOf(row.to_another));
                         if (!head) ExpectRefused(other, row.to_another);
                         const HttpResponse stranger = world.SendAs("", request);
                         EXPECT_EQ(stranger.status, 401U);
                         // What the certificate says counts, whatever a message or a header says.
                         HttpRequest disguised = request;
                         disguised.headers.emplace_back("Heddle-Device", "carl");
                         disguised.headers.emplace_back("X-Forwarded-For", "127.0.0.1");
                         disguised.headers.emplace_back("X-Client-Cert", "CN=carl");
                         EXPECT_EQ(world.SendAs("mallory", std::move(disguised)).status, other.status);
                       }});
  }
  world.Withstand(attacks);
}

TEST(Attacks, AnIdOfAnotherRoundIsOfNoUse) {
  AttackWorld world;
  const auto in_later_rounds = [&world](const std::function<void(const v1::TaskAssignment& last)>& attack) {
    if (!world.last_tasks().empty()) attack(world.last_tasks().at("mallory"));
  };
  const auto late_report = [&](const v1::TaskAssignment& last) {
    // Mallory's own task of the round before, which was committed without it.
    const std::string bytes = world.UpdateOf("mallory");
    const HttpResponse uploaded = world.SendAs("mallory", world.UploadRequest(last.assignment_id(), bytes));
    EXPECT_LT(uploaded.status, 500U);
    const v1::ReportVerdict verdict = VerdictOf(world.SendAs("mallory", Report(world.ReportOf(last, bytes))));
    EXPECT_TRUE(verdict == v1::REPORT_VERDICT_LATE || verdict == v1::REPORT_VERDICT_SUPERSEDED) << verdict;
  };
  const auto others = [&](const v1::TaskAssignment&) {
    const std::string bytes = world.UpdateOf("mallory");
    const v1::TaskAssignment& anna = world.last_tasks().at("anna");
    ExpectRefused(world.SendAs("mallory", world.UploadRequest(anna.assignment_id(), bytes)),
                  v1::REFUSAL_REASON_NOT_YOURS);
    v1::ReportRequest report = world.ReportOf(anna, bytes);
    report.set_outcome(v1::TASK_OUTCOME_FAILED);
    report.clear_update();
    ExpectRefused(world.SendAs("mallory", Report(report)), v1::REFUSAL_REASON_NOT_YOURS);
  };
  std::vector<Attack> attacks;
  for (int round = 0; round < kRounds; ++round) {
    attacks.push_back({"the task of the round before, reported and uploaded for again",
                       [&, late_report] { in_later_rounds(late_report); }});
    attacks.push_back({"another device's task of the round before", [&, others] { in_later_rounds(others); }});
  }
  world.Withstand(attacks);
}

// ---- replays ----

TEST(Attacks, WhatWasSaidBeforeIsNotCountedAgain) {
  AttackWorld world;
  std::vector<Attack> attacks;
  for (int round = 0; round < kRounds; ++round) {
    attacks.push_back({"a whole conversation of anna's, said again by mallory and by anna", [&world] {
                         const v1::TaskAssignment& task = world.TaskOf("anna");
                         const std::string bytes = world.UpdateOf("anna");
                         const HttpRequest upload = world.UploadRequest(task.assignment_id(), bytes);
                         const HttpRequest report = Report(world.ReportOf(task, bytes));
                         // Wait until anna has said it for the first time.
                         const auto client = world.ClientOf("anna");
                         ASSERT_TRUE(Eventually([&] {
                           const auto answer = world.TrySend(*client, report);
                           return answer.ok() && VerdictOf(*answer) == v1::REPORT_VERDICT_ACCEPTED;
                         }));
                         const double counted = world.Run().at("reports_accepted").to_number<double>();
                         for (int i = 0; i < 20; ++i) {
                           EXPECT_EQ(VerdictOf(Pki::Value(world.TrySend(*client, report))), v1::REPORT_VERDICT_ACCEPTED)
                               << "the same answer as the first";
                           const HttpResponse uploaded = Pki::Value(world.TrySend(*client, upload));
                           EXPECT_TRUE(uploaded.status == 200 || uploaded.status == 201) << uploaded.status;
                           ExpectRefused(world.SendAs("mallory", report), v1::REFUSAL_REASON_NOT_YOURS);
                           ExpectRefused(world.SendAs("mallory", upload), v1::REFUSAL_REASON_NOT_YOURS);
                         }
                         EXPECT_LE(world.Run().at("reports_accepted").to_number<double>(), std::max(counted, 2.0));
                       }});
  }
  attacks.push_back({"an enrolment, said again", [&world] {
                       const std::string token = world.Token("dora");
                       ASSERT_EQ(world.Enroll("dora", token).status, 200U);
                       ExpectRefused(world.Enroll("dora", token), v1::REFUSAL_REASON_BAD_TOKEN);
                     }});
  world.Withstand(attacks);
}

// ---- enrolment ----

TEST(Attacks, OfAHundredThatEnrolWithOneTokenOneWins) {
  AttackWorld world([](CoordinatorConfig& config) { config.bad_tokens_per_minute = 0; });
  world.Withstand({{"a hundred at once with one token", [&world] {
                      const std::string token = world.Token("dora");
                      Pki::Check(protocol::GenerateKeyFile(world.temp_.path() / "dora.key"));
                      v1::EnrollRequest request;
                      request.set_token(token);
                      request.set_csr_der(Pki::Value(protocol::MakeCsrDer(world.temp_.path() / "dora.key", "dora")));
                      const std::string body = request.SerializeAsString();
                      std::atomic<int> won{0}, refused{0};
                      std::vector<std::thread> crowd;
                      for (int i = 0; i < 100; ++i) {
                        crowd.emplace_back([&] {
                          const auto client = world.ClientOf("");
                          const auto answer = world.TrySend(*client, HttpRequest("POST", "/v1/enroll", body));
                          if (answer.ok() && answer->status == 200) ++won;
                          if (answer.ok() && answer->status == 403) ++refused;
                        });
                      }
                      for (std::thread& one : crowd) one.join();
                      EXPECT_EQ(won, 1);
                      EXPECT_EQ(refused, 99);
                    }}});
}

TEST(Attacks, WhoTriesTokensIsSentAway) {
  AttackWorld world([](CoordinatorConfig& config) { config.bad_tokens_per_minute = 5; });
  const auto try_token = [&world](const std::string& token) {
    v1::EnrollRequest request;
    request.set_token(token);
    request.set_csr_der("no matter");
    return world.SendAs("", HttpRequest("POST", "/v1/enroll", request.SerializeAsString()));
  };
  world.Withstand({{"tokens one after the other", [&] {
                      const std::string good = world.Token("dora");
                      for (int i = 0; i < 5; ++i) {
                        ExpectRefused(try_token("guess-" + std::to_string(i)), v1::REFUSAL_REASON_BAD_TOKEN);
                      }
                      for (int i = 0; i < 20; ++i) {
                        const HttpResponse answer = try_token("guess");
                        ExpectRefused(answer, v1::REFUSAL_REASON_RATE_LIMITED);
                        EXPECT_TRUE(answer.Header("Retry-After"));
                      }
                      ExpectRefused(world.Enroll("dora", good), v1::REFUSAL_REASON_RATE_LIMITED);
                      EXPECT_EQ(world.Metric(R"(heddle_limited_requests_total{limit="bad_tokens"})"), 21);
                    }}});
}

// ---- too much ----

TEST(Attacks, AFloodOfOneDeviceIsItsOwnLoss) {
  AttackWorld world([](CoordinatorConfig& config) {
    config.device_requests_per_s = 20;
    config.device_request_burst = 50;
  });
  std::atomic<int> served{0}, limited{0}, other{0};
  const auto flood = [&world, &served, &limited, &other] {
    const auto client = world.ClientOf("mallory");
    for (int i = 0; i < 500; ++i) {
      const auto answer = world.TrySend(*client, HttpRequest("GET", "/v1/blobs/" + std::string(64, 'a')));
      if (answer.ok() && answer->status == 404) {
        ++served;
      } else if (answer.ok() && answer->status == 429) {
        ++limited;
        EXPECT_TRUE(answer->Header("Retry-After"));
      } else {
        ++other;
      }
    }
  };
  world.Withstand({{"two thousand good requests over four connections", [&] {
                      std::vector<std::thread> crowd;
                      for (int i = 0; i < 4; ++i) crowd.emplace_back(flood);
                      for (std::thread& one : crowd) one.join();
                      EXPECT_GE(served, 40) << "the burst is served, but for what mallory has asked before";
                      EXPECT_GT(limited, 0);
                      EXPECT_EQ(other, 0);
                      EXPECT_EQ(world.Metric(R"(heddle_limited_requests_total{limit="requests"})"), limited);
                    }}});
}

TEST(Attacks, ADeviceHoldsOnlyItsShareOfMemoryAndDisk) {
  AttackWorld world([](CoordinatorConfig& config) {
    config.device_bytes_in_flight = 2 << 20;
    config.max_device_uploads = 3;
    config.body_idle_timeout_s = 10;
  });
  const auto unfinished = [&world] { return world.Metric("heddle_uploads_unfinished"); };
  world.Withstand({
      {"messages of a megabyte that do not end, on ten connections",
       [&world] {
         // Each announces a whole megabyte and sends half of it: two have room.
         const std::string head =
             "POST /v1/checkin HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + std::string(500'000, 'x');
         std::vector<std::unique_ptr<protocol::RawPeer>> peers;
         const std::string name = R"(heddle_limited_requests_total{limit="bytes_in_flight"})";
         for (int i = 0; i < 10; ++i) {
           peers.push_back(world.Peer());
           peers.back()->Send(head);
         }
         EXPECT_TRUE(Eventually([&] { return world.Metric(name) >= 8; })) << world.Metric(name);
       }},
      {"uploads that are begun and left",
       [&world, unfinished] {
         for (uint64_t i = 0; i < 50; ++i) {
           BeginUpload(world, "mallory", protocol::MakeBytes(4000, 100 + i));
           EXPECT_LE(unfinished(), 3 + 2) << "and one each of those who work";
         }
       }},
      {"uploads that are all kept open",
       [&world] {
         std::vector<std::unique_ptr<protocol::RawPeer>> peers;
         for (uint64_t i = 0; i < 6; ++i) {
           const std::string bytes = protocol::MakeBytes(4000, 200 + i);
           const HttpRequest begin = world.UploadRequest(world.TaskOf("mallory").assignment_id(), bytes);
           std::string head = "POST /v1/uploads HTTP/1.1\r\nHost: x\r\n";
           for (const auto& [name, value] : begin.headers) head += name + ": " + value + "\r\n";
           peers.push_back(world.Peer());
           peers.back()->Send(head + "Content-Length: 4000\r\n\r\nabc");
         }
         EXPECT_TRUE(Eventually(
             [&] { return world.Metric(R"(heddle_limited_requests_total{limit="unfinished_uploads"})") >= 3; }));
       }},
  });
}

// Round for round it uploads for the open task and for the last one, and reports nothing.
TEST(Attacks, FinishedUploadsOfOneDeviceDoNotFillTheDisk) {
  AttackWorld world;
  std::vector<std::string> sent;
  const auto heap_up = [&] {
    for (int i = 0; i < 4; ++i) {
      const std::string open = protocol::MakeBytes(50'000, 300 + sent.size());
      EXPECT_EQ(world.SendAs("mallory", world.UploadRequest(world.TaskOf("mallory").assignment_id(), open))
                    .Header("Upload-Complete"),
                "1");
      sent.push_back(Sha256(open).ToHex());
      if (world.last_tasks().empty()) continue;
      const std::string late = protocol::MakeBytes(50'000, 300 + sent.size());
      const std::string& closed = world.last_tasks().at("mallory").assignment_id();
      EXPECT_EQ(world.SendAs("mallory", world.UploadRequest(closed, late)).status, 200U);
      sent.push_back(Sha256(late).ToHex());
    }
    const auto on_disk = std::count_if(sent.begin(), sent.end(), [&world](const std::string& hex) {
      return std::filesystem::exists(std::filesystem::path(world.config_.state_dir) / "blobs" / hex.substr(0, 2) / hex);
    });
    EXPECT_EQ(on_disk, 1) << "of " << sent.size();
  };
  std::vector<Attack> attacks;
  for (int round = 0; round < kRounds; ++round) attacks.push_back({"finished uploads that nobody reports", heap_up});
  world.Withstand(attacks);
}

// ---- messages that are none ----

std::string Varint(uint64_t value) {
  std::string out;
  do {
    out += static_cast<char>((value & 127) | (value > 127 ? 128 : 0));
    value >>= 7;
  } while (value > 0);
  return out;
}

std::string Field(int number, const std::string& bytes) {
  return Varint(static_cast<uint64_t>(number) << 3 | 2) + Varint(bytes.size()) + bytes;
}

struct MessageRow {
  const char* name;
  std::string bytes;
};

std::vector<MessageRow> Messages() {
  std::string many, nested = "x";
  for (int i = 0; i < 300'000; ++i) many += Field(3, "a");
  for (int i = 0; i < 10'000; ++i) nested = Field(4, nested);
  std::string groups(500'000, '\x0b');  // groups that begin and do not end
  std::string strings;
  for (int i = 0; i < 100; ++i) strings += Field(3, std::string(9000, 'n'));
  return {{"random bytes", protocol::MakeBytes(100'000)},
          {"a length beyond the message", std::string("\x12\xff\xff\xff\x7f", 5)},
          {"a length of 2^64 - 1", std::string("\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11)},
          {"a number that does not end", std::string(1000, '\xff')},
          {"three hundred thousand names of tasks", many},
          {"ten thousand messages in one another", nested},
          {"groups without an end", groups},
          {"names of nine kilobytes", strings},
          {"text that is no UTF-8", Field(2, "\xff\xfe\xc0\x80") + Field(3, "\xed\xa0\x80")},
          {"text with a NUL", "\x08\x01" + Field(2, std::string("a\0b", 3)) + Field(3, std::string("\0", 1))},
          {"field 0", std::string("\x00\x01", 2)},
          {"a wire type that does not exist", std::string("\x0f\x01", 2)},
          {"a field of another type", std::string("\x0d\x01\x02\x03\x04", 5) + Field(1, "text")}};
}

TEST(Attacks, MessagesThatAreNoneAreRefusedAsMalformed) {
  AttackWorld world([](CoordinatorConfig& config) { config.bad_tokens_per_minute = 0; });
  std::vector<Attack> attacks;
  for (const MessageRow& row : Messages()) {
    attacks.push_back({row.name, [&world, row] {
                         for (const char* path : {"/v1/checkin", "/v1/reports", "/v1/enroll"}) {
                           const HttpResponse answer = world.SendAs("mallory", HttpRequest("POST", path, row.bytes));
                           EXPECT_TRUE(answer.status == 400 || answer.status == 413 || answer.status == 403)
                               << path << ": " << answer.status;
                         }
                       }});
  }
  attacks.push_back({"a report with each of its bytes changed", [&world] {
                       const std::string good = world.ReportOf(world.TaskOf("mallory"), "x").SerializeAsString();
                       std::mt19937 random(3);
                       for (size_t i = 0; i < good.size(); ++i) {
                         std::string bent = good;
                         bent[i] = static_cast<char>(random());
                         const HttpResponse answer = world.SendAs("mallory", HttpRequest("POST", "/v1/reports", bent));
                         EXPECT_TRUE(answer.status < 500 && VerdictOf(answer) != v1::REPORT_VERDICT_ACCEPTED) << i;
                       }
                     }});
  world.Withstand(attacks);
}

// Numbers in headers of uploads that are none, or not the upload's.
TEST(Attacks, UploadsThatLieAboutThemselvesAreRefused) {
  AttackWorld world;
  const std::string bytes = protocol::MakeBytes(3000, 9);
  std::vector<Attack> attacks;
  for (const char* length :
       {"0", "-1", "+5", "0x10", "1e3", " 5 5", "18446744073709551616", "1099511627776", "", "9223372036854775808"}) {
    attacks.push_back({std::string("an upload of length ") + length, [&world, bytes, length] {
                         HttpRequest begin =
                             WithoutBody(world.UploadRequest(world.TaskOf("mallory").assignment_id(), bytes));
                         begin.headers[2].second = length;
                         const unsigned status = world.SendAs("mallory", std::move(begin)).status;
                         EXPECT_TRUE(status == 400 || status == 413) << status;
                       }});
  }
  uint64_t seed = 50;
  for (const char* offset : {"-1", "101", "99", "18446744073709551615", "0", "x", ""}) {
    attacks.push_back({std::string("a part at ") + offset, [&world, offset, seed = seed++] {
                         const std::string location = BeginUpload(world, "mallory", protocol::MakeBytes(3000, seed));
                         const unsigned status = world.SendAs("mallory", Patch(location, offset, "abc")).status;
                         EXPECT_TRUE(status == 400 || status == 409) << status;
                       }});
  }
  attacks.push_back({"more bytes than were declared", [&world, bytes] {
                       HttpRequest begin = world.UploadRequest(world.TaskOf("mallory").assignment_id(), bytes);
                       begin.body += "more";
                       ExpectRefused(world.SendAs("mallory", std::move(begin)), v1::REFUSAL_REASON_TOO_LARGE);
                     }});
  attacks.push_back({"other bytes than were declared", [&world] {
                       HttpRequest begin =
                           world.UploadRequest(world.TaskOf("mallory").assignment_id(), protocol::MakeBytes(3000, 10));
                       begin.body = protocol::MakeBytes(3000, 11);
                       ExpectRefused(world.SendAs("mallory", std::move(begin)), v1::REFUSAL_REASON_DIGEST_MISMATCH);
                     }});
  world.Withstand(attacks);
}

}  // namespace
}  // namespace heddle::coordinator
