// Peers that hold on to a connection for as long as they are let: each must lose it by itself. All of them at once,
// while the run goes on.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <thread>

#include "common/subprocess.h"
#include "protocol/validate.h"
#include "tests/integration/attacks/attack_world.h"

namespace heddle::coordinator {
namespace {

using protocol::Eventually;
using protocol::Pki;
using protocol::RawPeer;

const std::string kHost = "Host: 127.0.0.1\r\n";

// Sends a piece now and then, until nobody takes it any more. False: it was heard for ever.
bool Trickle(RawPeer& peer, const std::string& piece) {
  for (int i = 0; i < 3000; ++i) {
    if (!peer.Send(piece)) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

// Rows of the phase "body".
constexpr int kSlowBodies = 7;

struct SlowRow {
  const char* name;
  const char* phase;                      // of heddle_connections_timed_out_total
  std::function<bool(AttackWorld&)> run;  // true: it lost its connection
};

bool Silence(RawPeer& peer) { return peer.ReadToEnd(); }

HttpRequest BeginUpload(AttackWorld& world, const std::string& bytes) {
  return world.UploadRequest(world.TaskOf("mallory").assignment_id(), bytes);
}

std::string UploadHead(AttackWorld& world, const std::string& bytes) {
  std::string head = "POST /v1/uploads HTTP/1.1\r\n" + kHost;
  for (const auto& [name, value] : BeginUpload(world, bytes).headers) head += name + ": " + value + "\r\n";
  return head + "Content-Length: " + std::to_string(bytes.size()) + "\r\n\r\n";
}

std::vector<SlowRow> SlowRows() {
  return {
      {"silence instead of a handshake", "handshake",
       [](AttackWorld& world) {
         RawPeer peer(world.port());
         return Silence(peer);
       }},
      {"half a ClientHello", "handshake",
       [](AttackWorld& world) {
         RawPeer peer(world.port());
         const std::string hello = RawPeer::ClientHello(*world.TlsOf("mallory"));
         return peer.Send(hello.substr(0, hello.size() / 2)) && Silence(peer);
       }},
      {"a ClientHello byte by byte", "handshake",
       [](AttackWorld& world) {
         RawPeer peer(world.port());
         const std::string hello = RawPeer::ClientHello(*world.TlsOf("mallory"));
         for (const char c : hello) {
           if (!peer.Send(std::string(1, c))) return true;
           std::this_thread::sleep_for(std::chrono::milliseconds(100));
         }
         return false;
       }},
      {"a ClientHello and no more", "handshake",
       [](AttackWorld& world) {
         RawPeer peer(world.port());
         return peer.Send(RawPeer::ClientHello(*world.TlsOf("mallory"))) && Silence(peer);
       }},
      {"silence instead of a request", "idle", [](AttackWorld& world) { return Silence(*world.Peer()); }},
      {"a head byte by byte", "header",
       [](AttackWorld& world) {
         const auto peer = world.Peer("");
         return peer->Send("GET /v1/") && Trickle(*peer, "a");
       }},
      {"headers one by one", "header",
       [](AttackWorld& world) {
         const auto peer = world.Peer();
         return peer->Send("GET /v1/nothing HTTP/1.1\r\n" + kHost) && Trickle(*peer, "a: b\r\n");
       }},
      {"empty lines for ever", "header", [](AttackWorld& world) { return Trickle(*world.Peer(), "\r\n"); }},
      {"a body that does not come", "body",
       [](AttackWorld& world) {
         const auto peer = world.Peer();
         return peer->Send("POST /v1/reports HTTP/1.1\r\n" + kHost + "Content-Length: 100\r\n\r\n") && Silence(*peer);
       }},
      {"a body byte by byte", "body",
       [](AttackWorld& world) {
         const auto peer = world.Peer();
         return peer->Send("POST /v1/checkin HTTP/1.1\r\n" + kHost + "Content-Length: 1000000\r\n\r\n") &&
                Trickle(*peer, "x");
       }},
      {"an enrolment byte by byte, from a stranger", "body",
       [](AttackWorld& world) {
         const auto peer = world.Peer("");
         return peer->Send("POST /v1/enroll HTTP/1.1\r\n" + kHost + "Content-Length: 30000\r\n\r\n") &&
                Trickle(*peer, "x");
       }},
      {"a body that is promised and waits to be asked for", "body",
       [](AttackWorld& world) {
         const auto peer = world.Peer();
         return peer->Send("POST /v1/reports HTTP/1.1\r\n" + kHost +
                           "Expect: 100-continue\r\nContent-Length: 100\r\n\r\n") &&
                Silence(*peer);
       }},
      {"an upload byte by byte", "body",
       [](AttackWorld& world) {
         const auto peer = world.Peer();
         return peer->Send(UploadHead(world, protocol::MakeBytes(5000, 1))) && Trickle(*peer, "x");
       }},
      {"an upload that goes on byte by byte", "body",
       [](AttackWorld& world) {
         HttpRequest begin = BeginUpload(world, protocol::MakeBytes(5000, 2));
         begin.body.clear();
         const auto client = world.ClientOf("mallory");
         const Result<HttpResponse> begun = world.TrySend(*client, std::move(begin));
         if (!begun.ok() || begun->status != 201) return false;
         const auto peer = world.Peer();
         return peer->Send("PATCH " + std::string(begun->Header("Location").value_or("")) + " HTTP/1.1\r\n" + kHost +
                           "Upload-Offset: 0\r\nContent-Length: 5000\r\n\r\n") &&
                Trickle(*peer, "x");
       }},
      {"an answer that is asked for and not taken", "body",
       [](AttackWorld& world) {
         RawPeer peer(world.port(), world.TlsOf("mallory").get(), /*receive_buffer=*/4096);
         const v1::BlobRef* largest = nullptr;
         const auto& task = world.TaskOf("mallory");
         for (const v1::BlobRef& blob : task.plan().base_model()) {
           if (largest == nullptr || blob.size_bytes() > largest->size_bytes()) largest = &blob;
         }
         const std::string get =
             "GET /v1/blobs/" + Pki::Value(protocol::DigestOf(*largest)).ToHex() + " HTTP/1.1\r\n" + kHost + "\r\n";
         // Nothing is read until the coordinator has given every slow body up, this one among them.
         return peer.Send(get + get + get + get) && Eventually([&] {
                  return world.Metric(R"(heddle_connections_timed_out_total{phase="body"})") >= kSlowBodies;
                }) &&
                peer.ReadToEnd();
       }},
  };
}

TEST(Attacks, WhoIsSlowOnPurposeLosesItsConnection) {
  AttackWorld world([](CoordinatorConfig& config) {
    config.handshake_timeout_s = config.header_timeout_s = config.body_idle_timeout_s = 2;
    config.keep_alive_timeout_s = 3;
    config.min_body_bytes_per_s = 100'000;
  });
  const auto all_at_once = [&world] {
    std::vector<std::thread> peers;
    std::map<std::string, int> phases;
    const std::vector<SlowRow> rows = SlowRows();
    for (const SlowRow& row : rows) {
      ++phases[row.phase];
      peers.emplace_back([&world, &row] { EXPECT_TRUE(row.run(world)) << row.name; });
    }
    for (std::thread& peer : peers) peer.join();
    EXPECT_EQ(phases["body"], kSlowBodies);
    for (const auto& [phase, count] : phases) {
      EXPECT_TRUE(Eventually([&world, phase = phase, count = count] {
        return world.Metric("heddle_connections_timed_out_total{phase=\"" + phase + "\"}") >= count;
      })) << phase
          << " " << world.Metric("heddle_connections_timed_out_total{phase=\"" + phase + "\"}") << " of " << count;
    }
  };
  world.Withstand({{"every slow peer at once", all_at_once}});
}

constexpr int kLeastCrowd = 1000;

// Ten thousand, or as many as this process may have descriptors for.
int CrowdSize() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  constexpr rlim_t kOthers = 500;
  if (limit.rlim_max < kOthers) return 0;
  return static_cast<int>(std::min<rlim_t>(10'000, limit.rlim_max - kOthers) / 200 * 200);
}

TEST(Attacks, TenThousandIdleConnectionsDoNotDisturbTheRun) {
  const int size = CrowdSize();
  std::cout << size << " idle connections" << std::endl;
  if (size < kLeastCrowd) {
    GTEST_SKIP() << "this process may have too few descriptors for " << kLeastCrowd << " connections: raise its limit";
  }
  constexpr int kPerAddress = 200;
  AttackWorld world([size](CoordinatorConfig& config) {
    config.max_connections = static_cast<uint64_t>(size);
    config.max_connections_per_address = kPerAddress;
    config.max_handshakes = static_cast<uint64_t>(size);
    config.handshake_timeout_s = 60;
  });
  const auto crowd = [&](int count, const std::function<void(int open)>& meanwhile) {
    SubprocessOptions options;
    options.argv = {std::string(HEDDLE_BINARY_DIR) + "/bin/idle_crowd", std::to_string(world.port()),
                    std::to_string(count)};
    options.pipe_stdin = options.pipe_stdout = true;
    Subprocess program = Pki::Value(Subprocess::Start(options));
    char line[32] = "";
    EXPECT_GT(::read(program.stdout_fd(), line, sizeof line - 1), 0);
    meanwhile(std::atoi(line));
    program.CloseStdin();
    EXPECT_EQ(program.Wait(), 0);
  };
  const std::string by_address = R"(heddle_connections_refused_total{limit="address"})";
  const std::string by_number = R"(heddle_connections_refused_total{limit="connections"})";
  const int own = size / 2, shared = kPerAddress;
  world.Withstand({
      {"half of them from one address, which has its share only",
       [&] {
         crowd(size, [&](int) {
           EXPECT_TRUE(Eventually([&] { return world.Metric("heddle_clients_connected") >= own + shared; }));
           EXPECT_TRUE(Eventually([&] { return world.Metric(by_address) == size / 2 - shared; }));
           EXPECT_EQ(world.Metric(by_number), 0);
           // A device that comes anew is served among them.
           const auto client = world.ClientOf("mallory");
           const auto answer = world.TrySend(*client, HttpRequest("GET", "/v1/blobs/" + std::string(64, 'a')));
           EXPECT_TRUE(answer.ok() && answer->status == 404) << answer.status();
         });
       }},
      {"as many as there may be in all, and more",
       [&] {
         // Twice as many: those with addresses of their own take every place that is left.
         crowd(2 * size, [&](int) {
           EXPECT_TRUE(Eventually([&] { return world.Metric("heddle_clients_connected") == size; }));
           EXPECT_TRUE(Eventually([&] { return world.Metric(by_number) > 0; }));
         });
         EXPECT_TRUE(Eventually([&] { return world.Metric("heddle_clients_connected") < 100; }));
         const auto client = world.ClientOf("mallory");
         const auto answer = world.TrySend(*client, HttpRequest("GET", "/v1/blobs/" + std::string(64, 'a')));
         EXPECT_TRUE(answer.ok() && answer->status == 404) << answer.status();
       }},
  });
}

}  // namespace
}  // namespace heddle::coordinator
