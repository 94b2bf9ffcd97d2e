// heddle_bench_ledger_bytes: what crosses a device's TLS socket in a run with shared seeds: a coordinator in this
// process, devices with the daemon's link and made-up scalars (tests/support/ledger_device.h). Prints
// [{id, value, unit}]: "run", all bytes of one device with its handshake and the first adapter, without the base model;
// "round", those of its last round.
#include <CLI/CLI.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>
#include <boost/json.hpp>
#include <cstdio>
#include <fstream>
#include <future>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "client/daemon/enroll.h"
#include "common/file.h"
#include "common/logging.h"
#include "coordinator/admin/admin_client.h"
#include "coordinator/admin/commands.h"
#include "coordinator/service/service.h"
#include "protocol/transport/tls.h"
#include "tests/support/ledger_device.h"

namespace heddle::bench {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

void Check(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}
template <typename T>
T Need(Result<T> result) {
  Check(result.status());
  return *std::move(result);
}

struct Options {
  fs::path folder, base;
  std::string method = "DeComFL";
  int devices = 2, rounds = 1000;
};

std::string RecipeText(const Options& options) {
  const bool pool = options.method == "FedKSeed";
  std::ostringstream text;
  text << "name = \"bytes\"\n[model]\nbase = \"" << options.base.string()
       << "\"\n[lora]\nr = 8\nlora_alpha = 16\ntarget_modules = [\"q_proj\", \"v_proj\"]\n[strategy]\nname = \""
       << options.method << "\"\nbf16_scalars = 1\nnum_server_rounds = " << options.rounds
       << "\ncohort_size = " << options.devices << (pool ? "\npool_size = 4096" : "")
       << "\n[zo]\ndistribution = \"rademacher\"\nzo_eps = 1e-3\nclip_projected_grad = 1000\n"
       << (pool ? "" : "estimator = \"spsa_one_sided\"\nnum_perturbations = 10\n")
       << "[train]\nlearning_rate = " << (pool ? 1e-2 : 2e-3) << "\nlocal_steps = " << (pool ? 200 : 1)
       << "\nbatch_size = 1\nsequence_length = 16\n";
  return text.str();
}

coordinator::CoordinatorConfig ConfigOf(const Options& options) {
  coordinator::CoordinatorConfig config;
  config.listen_address = "127.0.0.1";
  config.listen_port = config.admin_port = 0;
  config.admin_port_file = (options.folder / "admin.port").string();
  config.state_dir = (options.folder / "state").string();
  config.threads = 2;
  config.aggregation_threads = 1;
  config.max_upload_bytes = 1 << 20;
  config.shutdown_grace_s = 2;
  config.device_requests_per_s = config.device_request_burst = 1e6;
  config.log.level = "error";
  return config;
}

protocol::ClientOptions Enrol(const coordinator::CoordinatorConfig& config, uint16_t port, const std::string& name) {
  std::ostringstream token;
  coordinator::CommandContext context;
  context.config = config;
  context.out = &token;
  Check(coordinator::DeviceToken(context, name, std::nullopt));
  std::string text = token.str();
  text.erase(text.find_last_not_of(" \n") + 1);
  client::ClientConfig device;
  device.host = "127.0.0.1";
  device.port = port;
  device.state_dir = fs::path(config.state_dir).parent_path() / name;
  Need(client::Enroll(device, text));
  const client::IdentityFiles files = client::IdentityIn(device.state_dir);
  protocol::ClientOptions options;
  options.host = device.host;
  options.port = port;
  options.tls = Need(protocol::MakeClientTls(
      {.ca_pem = Need(ReadFile(files.ca)), .certificate = files.certificate, .key = files.key}));
  return options;
}

void Run(const Options& options) {
  const coordinator::CoordinatorConfig config = ConfigOf(options);
  Check(InitLogging(config.log));
  Check(coordinator::InitCoordinator(config));
  const auto service = Need(coordinator::Service::Start(config));
  const auto admin = Need(coordinator::AdminClient::Make(config));
  const boost::json::object body = {{"recipe", RecipeText(options)}, {"folder", options.folder.string()}};
  Need(admin->Post("/v1/runs", boost::json::serialize(body)));

  asio::io_context io;
  auto guard = asio::make_work_guard(io);
  std::thread thread([&io] { io.run(); });
  std::vector<std::unique_ptr<wire::LedgerDevice>> devices;
  for (int i = 0; i < options.devices; ++i) {
    const std::string name = "device-" + std::to_string(i);
    devices.push_back(std::make_unique<wire::LedgerDevice>(io.get_executor(),
                                                           Enrol(config, service->device_port(), name),
                                                           options.folder / name, static_cast<uint64_t>(i)));
  }
  uint64_t before = 0;
  for (int round = 0; round < options.rounds; ++round) {
    before = devices[0]->socket_bytes();
    std::vector<std::future<Status>> done;
    for (auto& device : devices) done.push_back(asio::co_spawn(io, device->Round(), asio::use_future));
    for (std::future<Status>& one : done) Check(one.get());
  }
  const uint64_t all = devices[0]->socket_bytes();
  std::printf("[{\"id\":\"run\",\"value\":%llu,\"unit\":\"B\"},{\"id\":\"round\",\"value\":%llu,\"unit\":\"B\"}]\n",
              static_cast<unsigned long long>(all), static_cast<unsigned long long>(all - before));
  devices.clear();
  guard.reset();
  io.stop();
  thread.join();
  service->Stop();
}

}  // namespace
}  // namespace heddle::bench

int main(int argc, char** argv) {
  CLI::App app("Bytes on a device's TLS socket in a run with shared seeds");
  heddle::bench::Options options;
  app.add_option("--folder", options.folder, "an empty folder for the coordinator's state")->required();
  app.add_option("--base", options.base, "folder of the base model")->required();
  app.add_option("--method", options.method, "DeComFL or FedKSeed")->check(CLI::IsMember({"DeComFL", "FedKSeed"}));
  app.add_option("--devices", options.devices, "in each round");
  app.add_option("--rounds", options.rounds, "of the run");
  CLI11_PARSE(app, argc, argv);
  try {
    heddle::bench::Run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "heddle_bench_ledger_bytes: %s\n", error.what());
    return 1;
  }
  return 0;
}
