// The split server's port under attack, all at once, while two devices carry a run to its end: the weights are those of
// a run that nobody disturbed. Real programs, real TLS; what attacks is bytes of this process.
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <signal.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <latch>
#include <thread>

#include "common/subprocess.h"
#include "coordinator/store/store.h"
#include "tests/unit/common/eventually.h"
#include "tests/unit/protocol/raw_peer.h"
#include "tests/unit/protocol/raw_websocket.h"
#include "tests/unit/protocol/transport_fixture.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;
using protocol::Frame;
using protocol::FrameHead;
using protocol::kUpgrade;
using protocol::Opcode;
using protocol::Pki;
using protocol::RawPeer;

constexpr int kPerAddress = 30, kCrowd = 45;
constexpr uint8_t kAttackers = 2, kCrowdsHost = 3;  // 127.0.0.n; the devices that behave are 127.0.0.1

// Programs start, train and write within so long, on a machine with other work too.
const Duration kLimit = Seconds(120);

// A run of two devices, anna and bert, each with a copy of the server's part: who is first does not count.
class Siege {
 public:
  Siege() {
    ::signal(SIGPIPE, SIG_IGN);
    std::ofstream(folder() / "plan.toml")
        << "base_model = \"" << HEDDLE_SOURCE_DIR << "/model/pretrained/heddle-tiny\"\n"
        << "rounds = 2\ndevices_per_round = 2\n[split]\nserver = \"per_device\"\n"
        << "[train]\nlocal_steps = 4\nbatch_size = 2\nsequence_length = 16\n[device]\nr = 2\n[server]\nr = 2\n";
    store_ = Pki::Value(coordinator::Store::Open(folder() / "coordinator.db"));
    for (const char* name : {"anna", "bert"}) {
      Enrol(name);
      Pki::Check(MakeDirectories(StateOf(name)));
      for (const char* file : {".key", ".crt"}) {
        fs::copy_file(pki_.dir() / (std::string(name) + file), StateOf(name) / (std::string("device") + file));
      }
      fs::copy_file(pki_.dir() / "ca.crt", StateOf(name) / "ca.crt");
      std::ofstream text(folder() / (std::string(name) + ".txt"));
      for (int i = 0; i < 300; ++i) text << name << " says " << i * i << " times that it rains. ";
    }
  }
  const fs::path& folder() const { return temp_.path(); }
  const Pki& pki() const { return pki_; }
  uint16_t port() const { return port_; }
  coordinator::Store& store() { return *store_; }

  void Enrol(const std::string& name) {
    coordinator::DeviceRecord record;
    record.device = DeviceId(name);
    record.serial = pki_.Enrol(name);
    record.enrolled_at = SystemClock().Now();
    record.not_after = record.enrolled_at + protocol::kYear;
    const Sha256Digest token = Sha256(name);
    Pki::Check(store_->CreateToken(token, record.device, record.not_after));
    Pki::Check(store_->RedeemToken(token, record.enrolled_at, record));
  }

  // The run, with `attacks` on all the while: they begin in the middle of anna's first round, and bert comes when they
  // have begun. What it has made.
  std::string Run(const std::vector<std::function<void()>>& attacks) {
    Subprocess server =
        Start("server", {"heddle-split-server", "--plan", folder() / "plan.toml", "--folder", folder() / "run",
                         "--certificates", pki_.dir(), "--devices", folder() / "coordinator.db", "--port-file",
                         folder() / "port", "--max-connections-per-address", std::to_string(kPerAddress),
                         "--handshake-timeout", "2", "--hello-timeout", "5", "--silence-timeout", "6"});
    EXPECT_TRUE(Eventually([this] { return fs::exists(folder() / "port"); }, kLimit)) << Log("server");
    port_ = static_cast<uint16_t>(std::stoi(Pki::Value(ReadFile(folder() / "port"))));
    Subprocess anna = StartDevice("anna");
    EXPECT_TRUE(Eventually([this] { return fs::exists(StateOf("anna") / "split.state"); }, kLimit)) << Log("anna");
    std::latch begun(static_cast<std::ptrdiff_t>(attacks.size()));
    std::vector<std::jthread> attackers;
    for (const auto& attack : attacks) {
      attackers.emplace_back([&begun, &attack] {
        begun.count_down();
        attack();
      });
    }
    begun.wait();
    Subprocess bert = StartDevice("bert");
    EXPECT_EQ(anna.Wait(), 0) << Log("anna");
    EXPECT_EQ(bert.Wait(), 0) << Log("bert");
    attackers.clear();
    server.Signal(SIGTERM);
    EXPECT_EQ(server.Wait(), 0) << Log("server");
    std::string made;
    for (const char* part : {"device.safetensors", "server.safetensors"}) {
      made += Pki::Value(ReadFile(folder() / "run" / "round-2" / part));
    }
    return made;
  }
  std::string Log(const std::string& name) const { return protocol::ReadAllOf(folder() / (name + ".log")); }
  // The last number that the server has told under this name.
  int64_t Told(const std::string& name) const {
    const std::string log = Log("server");
    const size_t at = log.rfind(" " + name + "=");
    return at == std::string::npos ? -1 : std::atoll(log.c_str() + at + name.size() + 2);
  }

 private:
  fs::path StateOf(const std::string& name) const { return folder() / ("state-" + name); }
  Subprocess Start(const std::string& name, std::vector<std::string> argv) {
    argv[0] = std::string(HEDDLE_BINARY_DIR) + "/bin/" + argv[0];
    return Pki::Value(Subprocess::Start({.argv = argv, .stderr_file = folder() / (name + ".log")}));
  }
  Subprocess StartDevice(const std::string& name) {
    return Start(name, {"heddle-split-client", "--plan", folder() / "plan.toml", "--data", folder() / (name + ".txt"),
                        "--state-dir", StateOf(name), "--host", "127.0.0.1", "--port", std::to_string(port_)});
  }

  Pki pki_;
  protocol::TempDir temp_;
  std::unique_ptr<coordinator::Store> store_;
  uint16_t port_ = 0;
};

// A connection of an attacker's: TLS with a certificate (null: plain TCP), and the upgrade if it is asked for.
class Attacker {
 public:
  Attacker(const Siege& siege, const std::shared_ptr<boost::asio::ssl::context>& tls, bool upgraded = false)
      : tls_(tls), peer(siege.port(), nullptr, 0, kAttackers) {
    EXPECT_TRUE(!tls || peer.TryTls(*tls));
    if (!upgraded) return;
    EXPECT_TRUE(peer.Send(kUpgrade));
    EXPECT_EQ(peer.ReadStatus(), 101);
  }
  // Sends it over and over until nobody takes it any more.
  void Flood(const std::string& piece, int pause_ms) {
    for (int i = 0; i < 1'000'000; ++i) {
      if (!peer.Send(piece)) return;
      if (pause_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
    }
    ADD_FAILURE() << "it was heard for ever";
  }
  void ExpectEnd(int close_code = 0) {
    std::string said;
    EXPECT_TRUE(peer.ReadToEnd(&said)) << "the connection is still there";
    EXPECT_TRUE(close_code == 0 || protocol::CloseCodeOf(said) == close_code) << protocol::CloseCodeOf(said);
  }

 private:
  std::shared_ptr<boost::asio::ssl::context> tls_;

 public:
  RawPeer peer;
};

struct SplitAttack {
  const char* name;
  // `tls` is of a device of the row's own, which is enrolled.
  std::function<void(Siege& siege, const std::shared_ptr<boost::asio::ssl::context>& tls)> run;
};
using Tls = std::shared_ptr<boost::asio::ssl::context>;

std::vector<SplitAttack> BeforeTheUpgrade() {
  return {
      {"silence instead of a handshake", [](Siege& siege, const Tls&) { Attacker(siege, nullptr).ExpectEnd(); }},
      {"half a ClientHello",
       [](Siege& siege, const Tls& tls) {
         Attacker one(siege, nullptr);
         const std::string hello = RawPeer::ClientHello(*tls);
         EXPECT_TRUE(one.peer.Send(hello.substr(0, hello.size() / 2)));
         one.ExpectEnd();
       }},
      {"an upgrade byte by byte", [](Siege& siege, const Tls& tls) { Attacker(siege, tls).Flood("G", 20); }},
      {"an upgrade header by header",
       [](Siege& siege, const Tls& tls) {
         Attacker one(siege, tls);
         EXPECT_TRUE(one.peer.Send("GET /v1/split HTTP/1.1\r\n"));
         one.Flood("a: b\r\n", 20);
       }},
      {"a head that is too large",
       [](Siege& siege, const Tls& tls) {
         Attacker one(siege, tls);
         one.peer.Send("GET /v1/split HTTP/1.1\r\na: " + std::string(100'000, 'a'));
         EXPECT_EQ(one.peer.ReadStatus(), 431);
         one.ExpectEnd();
       }},
      {"TLS 1.2",
       [](Siege& siege, const Tls&) {
         boost::asio::ssl::context old(boost::asio::ssl::context::tls_client);
         SSL_CTX_set_max_proto_version(old.native_handle(), TLS1_2_VERSION);
         Attacker one(siege, nullptr);
         EXPECT_FALSE(one.peer.TryTls(old));
       }},
      {"no certificate",
       [](Siege& siege, const Tls&) {
         Attacker one(siege, siege.pki().ClientTls());
         EXPECT_TRUE(one.peer.Send(kUpgrade));
         EXPECT_EQ(one.peer.ReadStatus(), 401);
       }},
      {"the certificate of a server",
       [](Siege& siege, const Tls&) {
         protocol::ClientTlsOptions role;
         role.ca_pem = siege.pki().authority().certificate_pem();
         role.certificate = siege.pki().dir() / "server.crt";
         role.key = siege.pki().dir() / "server.key";
         Attacker one(siege, Pki::Value(protocol::MakeClientTls(role)));
         one.peer.Send(kUpgrade);
         EXPECT_EQ(one.peer.ReadStatus(), 0);
       }},
      {"the certificate of another authority",
       [](Siege& siege, const Tls&) {
         const Pki other("another authority");
         other.Enrol("anna");
         protocol::ClientTlsOptions foreign;
         foreign.ca_pem = siege.pki().authority().certificate_pem();
         foreign.certificate = other.dir() / "anna.crt";
         foreign.key = other.dir() / "anna.key";
         Attacker one(siege, Pki::Value(protocol::MakeClientTls(foreign)));
         one.peer.Send(kUpgrade);
         EXPECT_EQ(one.peer.ReadStatus(), 0);
       }},
      {"a name that the coordinator has not enrolled",
       [](Siege& siege, const Tls&) {
         siege.pki().Enrol("nobody");
         Attacker one(siege, siege.pki().ClientTls("nobody"));
         EXPECT_TRUE(one.peer.Send(kUpgrade));
         EXPECT_EQ(one.peer.ReadStatus(), 401);
       }},
      {"more connections than an address may have",
       [](Siege& siege, const Tls&) {
         std::vector<std::unique_ptr<RawPeer>> crowd;
         for (int i = 0; i < kCrowd; ++i) {
           crowd.push_back(std::make_unique<RawPeer>(siege.port(), nullptr, 0, kCrowdsHost));
         }
         for (auto& peer : crowd) EXPECT_TRUE(peer->ReadToEnd());
       }},
  };
}

std::vector<SplitAttack> AfterTheUpgrade() {
  return {
      {"silence instead of a hello", [](Siege& siege, const Tls& tls) { Attacker(siege, tls, true).ExpectEnd(); }},
      {"a hello byte by byte",
       [](Siege& siege, const Tls& tls) {
         Attacker one(siege, tls, true);
         EXPECT_TRUE(one.peer.Send(FrameHead(Opcode::kBinary, 1000)));
         one.Flood("H", 20);
       }},
      {"a first frame that is larger than a hello",
       [](Siege& siege, const Tls& tls) {
         Attacker one(siege, tls, true);
         EXPECT_TRUE(one.peer.Send(FrameHead(Opcode::kBinary, 2000)));
         one.ExpectEnd(1009);
       }},
      {"a frame that is larger than the plan's, announced and not sent",
       [](Siege& siege, const Tls& tls) {
         const auto bound = static_cast<uint64_t>(siege.Told("largest_frame_bytes"));
         Attacker one(siege, tls, true);
         EXPECT_TRUE(one.peer.Send(Frame(Opcode::kBinary, "none") + Frame(Opcode::kBinary, std::string(bound, 'x'))));
         EXPECT_TRUE(one.peer.Send(FrameHead(Opcode::kBinary, bound + 1)));
         one.ExpectEnd(1009);
       }},
      {"a frame of a terabyte, of which much is sent",
       [](Siege& siege, const Tls& tls) {
         Attacker one(siege, tls, true);
         EXPECT_TRUE(one.peer.Send(FrameHead(Opcode::kBinary, uint64_t{1} << 40)));
         one.Flood(std::string(10'000, 'x'), 1);
       }},
      {"frames of text",
       [](Siege& siege, const Tls& tls) {
         Attacker one(siege, tls, true);
         one.peer.Send(Frame(Opcode::kText, "HSF1") + Frame(Opcode::kClose, ""));
         one.ExpectEnd(1003);
       }},
      {"a frame in fragments without end",
       [](Siege& siege, const Tls& tls) {
         Attacker one(siege, tls, true);
         EXPECT_TRUE(one.peer.Send(Frame(Opcode::kBinary, "x", /*last=*/false)));
         for (int i = 0; i < 2000; ++i) one.peer.Send(Frame(Opcode::kContinuation, "x", /*last=*/false));
         one.ExpectEnd(1009);
       }},
      {"fragments of nothing",
       [](Siege& siege, const Tls& tls) {
         Attacker one(siege, tls, true);
         EXPECT_TRUE(one.peer.Send(Frame(Opcode::kBinary, "x", /*last=*/false)));
         one.Flood(Frame(Opcode::kContinuation, "", /*last=*/false), 1);
       }},
      {"pings without end",
       [](Siege& siege, const Tls& tls) { Attacker(siege, tls, true).Flood(Frame(Opcode::kPing, "ping"), 0); }},
      {"two thousand frames that are none",
       [](Siege& siege, const Tls& tls) {
         Attacker one(siege, tls, true);
         for (int i = 0; i < 2000; ++i) one.peer.Send(Frame(Opcode::kBinary, "frame"));
         one.peer.Send(Frame(Opcode::kClose, ""));
         one.ExpectEnd();
       }},
      {"a device on five connections",
       [](Siege& siege, const Tls& tls) {
         std::vector<std::unique_ptr<Attacker>> all;
         for (int i = 0; i < 5; ++i) all.push_back(std::make_unique<Attacker>(siege, tls, true));
         for (auto& one : all) one->ExpectEnd();
       }},
  };
}

TEST(SplitAttacks, DoNotDisturbARunThatGoesOnMeanwhile) {
  Siege quiet, siege;
  const std::string expected = quiet.Run({});
  std::vector<SplitAttack> rows = BeforeTheUpgrade();
  for (SplitAttack& row : AfterTheUpgrade()) rows.push_back(std::move(row));
  std::vector<std::function<void()>> attacks;
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::string device = "mallory-" + std::to_string(i);
    siege.Enrol(device);
    attacks.emplace_back([&siege, &row = rows[i], tls = siege.pki().ClientTls(device)] {
      SCOPED_TRACE(row.name);
      row.run(siege, tls);
    });
  }
  siege.Enrol("eve");
  attacks.emplace_back([&siege] {
    SCOPED_TRACE("a certificate that is revoked while it is used");
    const Tls tls = siege.pki().ClientTls("eve");
    Attacker one(siege, tls, true);
    EXPECT_TRUE(one.peer.Send(Frame(Opcode::kBinary, "none")));
    Pki::Check(siege.store().RevokeDevice(DeviceId("eve"), SystemClock().Now()));
    one.Flood(Frame(Opcode::kBinary, "none"), 20);
    Attacker again(siege, tls);
    EXPECT_TRUE(again.peer.Send(kUpgrade));
    EXPECT_EQ(again.peer.ReadStatus(), 403);
  });
  EXPECT_TRUE(siege.Run(attacks) == expected) << "other weights than those of a run that nobody disturbed";
  // Each limit has acted.
  for (const auto& [name, least] : std::map<std::string, int64_t>{{"refused_address", kCrowd - kPerAddress},
                                                                  {"failed_handshakes", 3},
                                                                  {"late_handshakes", 4},
                                                                  {"bad_requests", 1},
                                                                  {"not_admitted", 4},
                                                                  {"replaced", 3},
                                                                  {"silent", 3},
                                                                  {"large_frames", 4},
                                                                  {"not_binary", 1},
                                                                  {"control_floods", 1}}) {
    EXPECT_GE(siege.Told(name), least) << name << "\n" << siege.Log("server");
  }
}

}  // namespace
}  // namespace heddle
