// heddle-client: the daemon of a device, and its enrolment.
#include <CLI/CLI.hpp>
#include <iostream>

#include "client/daemon/config.h"
#include "client/daemon/daemon.h"
#include "client/daemon/enroll.h"
#include "common/build_info.h"
#include "common/config.h"
#include "common/logging.h"

namespace heddle::client {
namespace {

constexpr int kFailure = 1, kUsage = 2;

struct Arguments {
  std::string config, token;
  std::vector<std::string> set;
  bool check_config = false, help_config = false;
  DaemonOptions daemon;
};

int Fail(const Status& status) {
  std::cerr << "heddle-client: " << status.message() << "\n";
  return kFailure;
}

Status RunEnroll(const ClientConfig& config, const std::string& token) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string name, Enroll(config, token));
  std::cout << "enrolled as " << name << "\n";
  return OkStatus();
}

// Told now and not by every task.
Status CheckData(const ClientConfig& config) {
  std::error_code error;
  if (std::filesystem::exists(config.data_path, error)) return OkStatus();
  return NotFound("data.path: there is no " + config.data_path.string() +
                  (error ? " that can be looked at: " + error.message() : std::string()) + "; check the path");
}

Status RunDaemon(const ClientConfig& config, const DaemonOptions& options) {
  HEDDLE_RETURN_IF_ERROR(CheckData(config));
  HEDDLE_RETURN_IF_ERROR(InitLogging(config.log));
  HEDDLE_ASSIGN_OR_RETURN(const std::unique_ptr<Daemon> daemon, Daemon::Open(config, options));
  return daemon->Run();
}

int Main(int argc, char** argv) {
  CLI::App app("Trains for a Heddle coordinator when this device has time", "heddle-client");
  Arguments arguments;
  app.add_option("--config", arguments.config, "client.toml");
  app.add_option("--set", arguments.set, "key=value, over file and environment; may be repeated");
  app.add_flag("--check-config", arguments.check_config, "print the resolved configuration and exit");
  app.add_flag("--help-config", arguments.help_config, "print the configuration's keys and exit");
  app.add_option("--max-tasks", arguments.daemon.max_tasks, "exit after so many reported tasks; 0: never");
  app.add_flag("--insecure", arguments.daemon.insecure, "plain TCP, towards a coordinator on loopback only");
  app.add_option("--insecure-device", arguments.daemon.insecure_device, "this device's name, with --insecure");
  app.set_version_flag("--version", "heddle-client " + std::string(VersionString()));
  CLI::App* enroll = app.add_subcommand("enroll", "make a key and get a certificate for a one-time token");
  enroll->add_option("--config", arguments.config, "client.toml");
  enroll->add_option("--set", arguments.set, "key=value, over file and environment; may be repeated");
  enroll->add_option("--token", arguments.token, "as printed by `heddle device token`")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  if (arguments.help_config) {
    std::cout << ClientConfig::Describe();
    return 0;
  }
  const auto settings = ParseSettings(arguments.set);
  if (arguments.config.empty() || !settings.ok()) {
    std::cerr << "heddle-client: " << (settings.ok() ? "--config is required" : settings.status().message())
              << "\nRun with --help for more information.\n";
    return kUsage;
  }
  const Result<ClientConfig> config = ClientConfig::Load(arguments.config, *settings);
  if (!config.ok()) return Fail(config.status());
  if (arguments.check_config) {
    std::cout << config->resolved;
    return 0;
  }
  const Status status = enroll->parsed() ? RunEnroll(*config, arguments.token) : RunDaemon(*config, arguments.daemon);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace
}  // namespace heddle::client

int main(int argc, char** argv) {
  try {
    return heddle::client::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "heddle-client: " << error.what() << "\n";
    return heddle::client::kFailure;
  }
}
