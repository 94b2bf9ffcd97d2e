// heddle-split-client: a device in split learning. Holds the keys and talks to the split server; its worker holds model
// and data.
#include <CLI/CLI.hpp>
#include <csignal>
#include <iostream>

#include "client/split/answer_size.h"
#include "client/split/relay.h"
#include "common/build_info.h"
#include "common/file.h"
#include "common/logging.h"
#include "protocol/transport/tls.h"

namespace heddle::client {
namespace {

namespace fs = std::filesystem;

volatile std::sig_atomic_t stop_asked = 0;

// What the server can make this process hold, by the plan. The worker has as many requests on their way as that says,
// and as many again when it begins anew on the same connection.
Status SetLimits(const std::string& plan_file, RelayOptions* options) {
  HEDDLE_ASSIGN_OR_RETURN(const protocol::SplitPlan plan, protocol::SplitPlan::LoadFile(plan_file));
  HEDDLE_ASSIGN_OR_RETURN(options->socket.max_frame_bytes, LargestSplitAnswer(plan));
  options->max_on_the_way = 2 * size_t{plan.schedule().MaxInFlight()} + 8;
  return OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Takes part in split learning: heddle-split-server has the rest of the model");
  std::string plan, data, state_dir, compute_device = "cpu";
  std::string worker = (fs::path(argv[0]).parent_path() / "heddle-split-worker").string();
  RelayOptions options;
  app.add_option("--plan", plan, "the run's file, the same as the server's")->required();
  app.add_option("--data", data, "this device's own data")->required();
  app.add_option("--state-dir", state_dir, "device.key, device.crt, ca.crt (heddle-client enroll), and what is kept")
      ->required();
  app.add_option("--host", options.server.host, "of the split server")->required();
  app.add_option("--port", options.server.port, "of the split server")->required();
  app.add_option("--server-name", options.server.server_name, "in its certificate; the host unless given");
  app.add_option("--worker", worker, "heddle-split-worker, beside this program unless given");
  app.add_option("--compute-device", compute_device, "cpu, or cuda for the first GPU")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.set_version_flag("--version", std::string(VersionString()));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const fs::path folder = state_dir;
  protocol::ClientTlsOptions tls;
  const auto authority = ReadFile(folder / "ca.crt");
  Status status = authority.status();
  if (status.ok()) status = InitLogging({});
  if (status.ok()) {
    tls.ca_pem = *authority;
    tls.certificate = folder / "device.crt";
    tls.key = folder / "device.key";
    auto context = protocol::MakeClientTls(tls);
    status = context.status();
    if (status.ok()) options.server.tls = *std::move(context);
  }
  if (status.ok()) status = SetLimits(plan, &options);
  if (status.ok()) {
    options.worker = {
        worker,        "--plan", plan, "--data", data, "--state", (folder / "split.state").string(), "--compute-device",
        compute_device};
    std::signal(SIGPIPE, SIG_IGN);
    for (const int signal : {SIGTERM, SIGINT}) std::signal(signal, [](int) { stop_asked = 1; });
    options.go_on = [] { return stop_asked == 0; };
    status = RelaySplit(options);
  }
  if (status.code() == Code::kCancelled && stop_asked != 0) {
    Log(Severity::kInfo, "stopped by a signal; the next start goes on from what was answered");
    return 0;
  }
  if (status.ok()) return 0;
  std::cerr << "heddle-split-client: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace heddle::client

int main(int argc, char** argv) {
  try {
    return heddle::client::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "heddle-split-client: " << error.what() << "\n";
    return 1;
  }
}
