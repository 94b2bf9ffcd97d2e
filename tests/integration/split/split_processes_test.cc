// The split server and two devices as processes, over TLS on loopback: what they make is what the same machines make in
// one process, also when each of them is killed on the way.
#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "common/subprocess.h"
#include "protocol/transport/tls.h"
#include "tests/unit/common/eventually.h"
#include "tests/unit/split/split_world.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;

// A copy of the server's part for each device: the outcome does not depend on who was first. Two micro-batches are on
// the way at a time.
const Settings kCopies = {{"split.server", "per_device"},
                          {"split.pipeline", "2"},
                          {"train.gradient_accumulation_steps", "2"},
                          {"rounds", "3"}};
// One part that steps with the devices of a step together. Nobody is so late that a step goes on alone.
const Settings kParallel = {{"split.server", "parallel"},
                            {"split.step_timeout_s", "600"},
                            {"split.pipeline", "2"},
                            {"train.gradient_accumulation_steps", "2"},
                            {"rounds", "3"}};

// The plan of all tests with these settings, as a file.
std::string PlanText(const Settings& settings) {
  std::string text = kPlan;
  for (const auto& [key, value] : settings) {
    const size_t dot = key.find('.');
    const std::string name = dot == std::string::npos ? key : key.substr(dot + 1);
    const std::string line = name + " = " + (std::isdigit(value[0]) != 0 ? value : '"' + value + '"') + "\n";
    const std::string table = dot == std::string::npos ? "" : "[" + key.substr(0, dot) + "]\n";
    const size_t begin = table.empty() ? 1 : text.find(table) + table.size();
    const size_t old = text.find("\n" + name + " = ", begin - 1);
    if (old != std::string::npos && old < text.find("\n[", begin - 1)) {
      text.erase(old + 1, text.find('\n', old + 1) - old);
    }
    text.insert(begin, line);
  }
  return text;
}

// Programs start, train and write within so long, on a machine with other work too.
const Duration kLimit = Seconds(120);

class Processes {
 public:
  explicit Processes(const Settings& settings, int more_devices = 0) : world_(settings) {
    std::ofstream(plan()) << PlanText(settings);
    for (int i = 0; i < more_devices; ++i) world_.AddDevice("device-" + std::to_string(world_.devices.size()));
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

  fs::path plan() const { return world_.folder() / "plan.toml"; }
  fs::path pki() const { return world_.folder() / "pki"; }
  fs::path StateOf(const std::string& device) const { return world_.folder() / ("state-" + device); }
  fs::path run() const { return world_.folder() / "processes"; }
  static std::string Program(const std::string& name) { return std::string(HEDDLE_BINARY_DIR) + "/bin/" + name; }

  // `until_done`: it ends by itself when all devices have heard that the run is over.
  Subprocess StartServer(bool until_done) {
    std::vector<std::string> argv = {Program("heddle-split-server"),
                                     "--plan",
                                     plan(),
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
    EXPECT_TRUE(Eventually([this] { return fs::exists(world_.folder() / "port"); }, kLimit)) << Logs();
    port_ = *ReadFile(world_.folder() / "port");
    port_.pop_back();
    return *std::move(server);
  }
  Subprocess StartDevice(const std::string& device) {
    auto client = Subprocess::Start(
        {.argv = {Program("heddle-split-client"), "--plan", plan(), "--data", (world_.folder() / (device + ".txt")),
                  "--state-dir", StateOf(device).string(), "--host", "127.0.0.1", "--port", port_},
         .stderr_file = world_.folder() / (device + ".log")});
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  // Both parts after the last round.
  StateDict Made() const {
    StateDict out;
    for (const char* part : {"device", "server"}) {
      const auto made = ReadSafetensors(run() / ("round-" + std::to_string(world_.plan.rounds)) /
                                        (std::string(part) + ".safetensors"));
      EXPECT_TRUE(made.ok()) << made.status();
      if (made.ok()) out.insert(made->tensors.begin(), made->tensors.end());
    }
    return out;
  }
  // What the same machines make in this process.
  StateDict MadeHere() {
    world_.AllAtOnce();
    return world_.Outcome();
  }
  std::string Logs() const {
    std::string all;
    for (const char* name : {"server.log", "device-0.log", "device-1.log", "device-2.log"}) {
      const auto text = ReadFile(world_.folder() / name);
      if (text.ok()) all += std::string(name) + ":\n" + *text;
    }
    return all;
  }

  // Passes that the server says it has computed.
  int Passes() const {
    const std::string log = Logs();
    const size_t at = log.rfind("passes=");
    return at == std::string::npos ? -1 : std::atoi(log.c_str() + at + 7);
  }

 private:
  SplitWorld world_;
  std::string port_;
};

// Runs it to the end.
void RunAll(Processes& processes) {
  Subprocess server = processes.StartServer(true);
  Subprocess first = processes.StartDevice("device-0"), second = processes.StartDevice("device-1");
  EXPECT_EQ(first.Wait(), 0) << processes.Logs();
  EXPECT_EQ(second.Wait(), 0) << processes.Logs();
  EXPECT_EQ(server.Wait(), 0) << processes.Logs();
}

class SplitProcesses : public testing::TestWithParam<Settings> {};

TEST_P(SplitProcesses, MakeWhatOneProcessMakes) {
  Processes processes(GetParam());
  RunAll(processes);
  ExpectSameBits(processes.Made(), processes.MadeHere());
}

TEST_P(SplitProcesses, AKilledServerAndAKilledDeviceChangeNothing) {
  Processes processes(GetParam());
  // A device that is killed and begun again may come when the others have ended, so the server stays.
  std::optional<Subprocess> server = processes.StartServer(false);
  std::optional<Subprocess> first = processes.StartDevice("device-0");
  Subprocess second = processes.StartDevice("device-1");
  ASSERT_TRUE(Eventually([&] { return fs::exists(processes.run() / "round-1"); }, kLimit)) << processes.Logs();
  server->Signal(SIGKILL);
  server->Wait();
  server = processes.StartServer(false);
  ASSERT_TRUE(Eventually([&] { return fs::exists(processes.run() / "round-2"); }, kLimit)) << processes.Logs();
  first->Signal(SIGKILL);
  first->Wait();
  first = processes.StartDevice("device-0");
  EXPECT_EQ(first->Wait(), 0) << processes.Logs();
  EXPECT_EQ(second.Wait(), 0) << processes.Logs();
  server->Signal(SIGTERM);
  EXPECT_EQ(server->Wait(), 0) << processes.Logs();
  ExpectSameBits(processes.Made(), processes.MadeHere());
}

INSTANTIATE_TEST_SUITE_P(All, SplitProcesses, testing::Values(kCopies, kParallel),
                         [](const auto& info) { return info.index == 0 ? "Copies" : "Parallel"; });

TEST(SplitStops, ADeviceThatIsToldToStopInTheMiddleEndsAndLaterGoesOn) {
  Settings settings = kCopies;
  settings["train.local_steps"] = "20";
  settings["rounds"] = "1";
  Processes processes(settings);
  Subprocess server = processes.StartServer(false);
  std::optional<Subprocess> first = processes.StartDevice("device-0");
  // It has taken a step. The run waits for a second device, so the first would not end by itself.
  ASSERT_TRUE(Eventually([&] { return fs::exists(processes.StateOf("device-0") / "split.state"); }, kLimit))
      << processes.Logs();
  first->Signal(SIGTERM);
  ASSERT_EQ(first->WaitFor(Seconds(60)), 0) << processes.Logs();
  first = processes.StartDevice("device-0");
  Subprocess second = processes.StartDevice("device-1");
  EXPECT_EQ(first->Wait(), 0) << processes.Logs();
  EXPECT_EQ(second.Wait(), 0) << processes.Logs();
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0) << processes.Logs();
  ExpectSameBits(processes.Made(), processes.MadeHere());
}

// SGD: AdamW's first steps make a sign of a gradient, which rounding may turn.
const Settings kBatched = {{"split.server", "per_device"},    {"split.server_batch", "2"},
                           {"split.server_wait_ms", "60000"}, {"device.optimizer", "SGD"},
                           {"server.optimizer", "SGD"},       {"device.learning_rate", "0.5"},
                           {"server.learning_rate", "0.5"},   {"rounds", "1"}};

TEST(SplitBatches, OfProcessesAreOnePassAndGiveWhatOneProcessGivesUpToRounding) {
  Processes processes(kBatched);
  RunAll(processes);
  EXPECT_LT(RelativeDistance(processes.Made(), processes.MadeHere()), 2e-4);
  // Two passes a step and device, of which at most the first device's first is alone: nobody else was there yet.
  EXPECT_GE(processes.Passes(), 2 * 3) << processes.Logs();
  EXPECT_LE(processes.Passes(), 2 * (3 + 3)) << processes.Logs();
}

TEST(SplitBatches, ADeviceThatIsStoppedHoldsUpNobody) {
  Processes processes({{"split.server_batch", "2"}, {"split.session_timeout_s", "1"}, {"train.local_steps", "20"}},
                      /*more_devices=*/1);
  Subprocess server = processes.StartServer(false);
  Subprocess stopped = processes.StartDevice("device-0");
  // In the middle of its first round.
  ASSERT_TRUE(Eventually([&] { return fs::exists(processes.run() / "state.safetensors"); }, kLimit))
      << processes.Logs();
  stopped.Signal(SIGSTOP);
  Subprocess second = processes.StartDevice("device-1"), third = processes.StartDevice("device-2");
  EXPECT_EQ(second.Wait(), 0) << processes.Logs();
  EXPECT_EQ(third.Wait(), 0) << processes.Logs();
  EXPECT_TRUE(fs::exists(processes.run() / "round-2"));
  stopped.Signal(SIGCONT);  // it hears that the run is over
  EXPECT_EQ(stopped.Wait(), 0) << processes.Logs();
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0) << processes.Logs();
}

TEST(SplitBatches, ARunEndsWithoutADeviceThatIsKilledAndThatNobodyReplaces) {
  Processes processes({{"split.session_timeout_s", "1"}, {"train.local_steps", "20"}});
  Subprocess server = processes.StartServer(false);
  Subprocess killed = processes.StartDevice("device-0");
  ASSERT_TRUE(Eventually([&] { return fs::exists(processes.run() / "state.safetensors"); }, kLimit))
      << processes.Logs();
  killed.Signal(SIGKILL);
  killed.Wait();
  Subprocess other = processes.StartDevice("device-1");
  EXPECT_EQ(other.Wait(), 0) << processes.Logs();
  EXPECT_TRUE(fs::exists(processes.run() / "round-2")) << processes.Logs();
  EXPECT_NE(processes.Logs().find("the steps of a round are done"), std::string::npos) << processes.Logs();
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0) << processes.Logs();
}

TEST(SplitPlans, ADeviceWithAnotherPlanIsToldSo) {
  Processes processes(kCopies);
  Subprocess server = processes.StartServer(false);
  std::ofstream(processes.plan()) << PlanText(kCopies) << "weight_decay = 0.5\n";
  Subprocess device = processes.StartDevice("device-0");
  EXPECT_EQ(device.Wait(), 1);
  EXPECT_NE(processes.Logs().find("another plan or another base model"), std::string::npos) << processes.Logs();
}

}  // namespace
}  // namespace heddle
