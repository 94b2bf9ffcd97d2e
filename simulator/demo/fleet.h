// A coordinator and its devices as processes of this machine: what a platform engineer and device makers would start,
// started by the demo, the benchmarks and the integration tests through the same programs and configuration files.
//
// Life cycle: construct; StartCoordinator; AddDevice for each; ...; Stop (SIGTERM to all, and a look at how they
// ended). The destructor kills what is left. Not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/subprocess.h"
#include "coordinator/admin/admin_client.h"
#include "coordinator/service/config.h"

namespace heddle::simulator {

struct FleetOptions {
  std::filesystem::path folder;  // made; configuration, keys, logs and state go in here
  std::filesystem::path bin;     // folder of heddle-coordinator, heddle, heddle-client, heddle-worker
  std::map<std::string, std::string> coordinator_settings;  // key -> TOML value, over the fleet's own
};

class Fleet {
 public:
  explicit Fleet(FleetOptions options) : options_(std::move(options)) {}

  // "NAME=value", beside what a process inherits.
  using Environment = std::vector<std::string>;

  // Writes coordinator.toml, makes the authority, starts the daemon and waits until it is ready. Errors: what it said.
  Status StartCoordinator(const Environment& environment = {});
  // The daemon again, on the same state and the same ports, after it was killed or stopped.
  Status RestartCoordinator(const Environment& environment = {});
  // EnrolDevice and StartDevice.
  Status AddDevice(const std::string& name, const std::filesystem::path& data,
                   const std::map<std::string, std::string>& settings = {});
  // client.toml, a token and an enrolment. May be called again with the same name after it failed.
  Status EnrolDevice(const std::string& name, const std::filesystem::path& data,
                     const std::map<std::string, std::string>& settings = {}, const Environment& environment = {});
  // The daemon of an enrolled device, also after it was killed.
  Status StartDevice(const std::string& name, const Environment& environment = {});
  // SIGTERM to all, devices first. Errors: kInternal when one did not end by itself with status 0.
  Status Stop();

  const coordinator::CoordinatorConfig& config() const { return config_; }
  coordinator::AdminClient& admin() { return *admin_; }
  Subprocess& coordinator_process() { return *coordinator_; }
  // By name, in the order they were added.
  std::vector<std::pair<std::string, Subprocess>>& devices() { return devices_; }
  const std::filesystem::path& folder() const { return options_.folder; }
  uint16_t device_port() const { return device_port_; }

  // Runs a program of `bin` and returns what it printed. Errors: kInternal with its standard error when it fails.
  Result<std::string> RunTool(const std::vector<std::string>& arguments, const Environment& environment = {});
  // kInternal with the end of its log when a process of the fleet has ended.
  Status CheckAlive();

 private:
  Status LaunchCoordinator(const Environment& environment);
  Status WaitReady();
  Status CheckCoordinator();

  FleetOptions options_;
  std::filesystem::path config_path_;
  coordinator::CoordinatorConfig config_;
  std::optional<Subprocess> coordinator_;
  std::unique_ptr<coordinator::AdminClient> admin_;
  std::vector<std::pair<std::string, Subprocess>> devices_;
  uint16_t device_port_ = 0;
  int tool_calls_ = 0;
};

}  // namespace heddle::simulator
