// The split server and two devices as processes, over TLS on loopback: what they make is what the same machines make in
// one process, also when each of them is killed on the way.
#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "common/subprocess.h"
#include "protocol/transport/tls.h"
#include "tests/unit/split/split_world.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;

// A copy of the server's part for each device: the outcome does not depend on who was first.
const std::map<std::string, std::string> kSettings = {{"split.server", "per_device"}, {"rounds", "3"}};

std::string PlanText() {
  std::string text = kPlan;
  const auto replace = [&text](const std::string& what, const std::string& with) {
    const size_t at = text.find(what);
    ASSERT_NE(at, std::string::npos) << what;
    text.replace(at, what.size(), with);
  };
  replace("rounds = 2", "rounds = 3");
  replace("[split]\n", "[split]\nserver = \"per_device\"\n");
  return text;
}

bool Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

class SplitProcesses : public testing::Test {
 protected:
  SplitProcesses() : world_(kSettings) {
    std::ofstream(world_.folder() / "plan.toml") << PlanText();
    const Duration year = std::chrono::hours(365 * 24);
    model::Require(protocol::CertificateAuthority::Create(pki(), "Heddle test authority", year));
    const auto authority = *protocol::CertificateAuthority::Load(pki());
    model::Require(authority.IssueServer(pki(), {"localhost", "127.0.0.1"}, year));
    for (const std::string& device : world_.Names()) {
      const fs::path folder = StateOf(device);
      model::Require(MakeDirectories(folder));
      model::Require(protocol::GenerateKeyFile(folder / "device.key"));
      const auto csr = *protocol::MakeCsrDer(folder / "device.key", device);
      const auto issued = *authority.IssueDevice(csr, DeviceId(device), year);
      model::Require(WriteFileAtomically(folder / "device.crt", issued.certificate_pem));
      model::Require(WriteFileAtomically(folder / "ca.crt", authority.certificate_pem()));
    }
  }

  fs::path pki() const { return world_.folder() / "pki"; }
  fs::path StateOf(const std::string& device) const { return world_.folder() / ("state-" + device); }
  fs::path run() const { return world_.folder() / "processes"; }
  static std::string Program(const std::string& name) { return std::string(HEDDLE_BINARY_DIR) + "/bin/" + name; }

  // `until_done`: it ends by itself when all devices have heard that the run is over.
  Subprocess StartServer(bool until_done) {
    std::vector<std::string> argv = {Program("heddle-split-server"),
                                     "--plan",
                                     (world_.folder() / "plan.toml"),
                                     "--folder",
                                     run().string(),
                                     "--certificates",
                                     pki().string(),
                                     "--port-file",
                                     (world_.folder() / "port")};
    if (until_done) argv.emplace_back("--until-done");
    if (!port_.empty()) argv.insert(argv.end(), {"--port", port_});
    auto server = Subprocess::Start({.argv = argv, .stderr_file = world_.folder() / "server.log"});
    EXPECT_TRUE(server.ok()) << server.status();
    EXPECT_TRUE(Eventually([this] { return fs::exists(world_.folder() / "port"); }));
    port_ = *ReadFile(world_.folder() / "port");
    port_.pop_back();
    return *std::move(server);
  }
  Subprocess StartDevice(const std::string& device) {
    auto client = Subprocess::Start({.argv = {Program("heddle-split-client"), "--plan", (world_.folder() / "plan.toml"),
                                              "--data", (world_.folder() / (device + ".txt")), "--state-dir",
                                              StateOf(device).string(), "--host", "127.0.0.1", "--port", port_},
                                     .stderr_file = world_.folder() / (device + ".log")});
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  void ExpectTheOutcomeOfOneProcess() {
    world_.Interleaved();
    for (const auto& [part, adapter] :
         {std::pair{"device", world_.server->device_adapter()}, {"server", world_.server->server_adapter()}}) {
      const auto made = ReadSafetensors(run() / "round-3" / (std::string(part) + ".safetensors"));
      ASSERT_TRUE(made.ok()) << made.status();
      ExpectSameBits(made->tensors, adapter);
    }
  }
  std::string Logs() const {
    std::string all;
    for (const char* name : {"server.log", "device-0.log", "device-1.log"}) {
      const auto text = ReadFile(world_.folder() / name);
      if (text.ok()) all += std::string(name) + ":\n" + *text;
    }
    return all;
  }

  SplitWorld world_;
  std::string port_;
};

TEST_F(SplitProcesses, MakeWhatOneProcessMakes) {
  Subprocess server = StartServer(true);
  Subprocess first = StartDevice("device-0"), second = StartDevice("device-1");
  EXPECT_EQ(first.Wait(), 0) << Logs();
  EXPECT_EQ(second.Wait(), 0) << Logs();
  EXPECT_EQ(server.Wait(), 0) << Logs();
  ExpectTheOutcomeOfOneProcess();
}

TEST_F(SplitProcesses, AKilledServerAndAKilledDeviceChangeNothing) {
  // A device that is killed and begun again may come when the others have ended, so the server stays.
  std::optional<Subprocess> server = StartServer(false);
  std::optional<Subprocess> first = StartDevice("device-0");
  Subprocess second = StartDevice("device-1");
  ASSERT_TRUE(Eventually([this] { return fs::exists(run() / "round-1"); })) << Logs();
  server->Signal(SIGKILL);
  server->Wait();
  server = StartServer(false);
  ASSERT_TRUE(Eventually([this] { return fs::exists(run() / "round-2"); })) << Logs();
  first->Signal(SIGKILL);
  first->Wait();
  first = StartDevice("device-0");
  EXPECT_EQ(first->Wait(), 0) << Logs();
  EXPECT_EQ(second.Wait(), 0) << Logs();
  server->Signal(SIGTERM);
  EXPECT_EQ(server->Wait(), 0) << Logs();
  ExpectTheOutcomeOfOneProcess();
}

TEST_F(SplitProcesses, ADeviceWithAnotherPlanIsToldSo) {
  Subprocess server = StartServer(false);
  std::ofstream(world_.folder() / "plan.toml") << PlanText() << "weight_decay = 0.5\n";
  Subprocess device = StartDevice("device-0");
  EXPECT_EQ(device.Wait(), 1);
  EXPECT_NE(Logs().find("another plan or another base model"), std::string::npos) << Logs();
}

}  // namespace
}  // namespace heddle
