// A federation of real processes and what systemd is to them: a process that was killed is started again, and a step of
// an operator that failed because of it is repeated. The tests here kill and starve, and look at what comes out.
//
// Life cycle: construct; Start; Submit; then Tend as often as something may have died, or Finish, which does both to
// the end of the run. Not thread-safe.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/status.h"
#include "tests/integration/federation/federation_world.h"

namespace heddle {

struct KeeperOptions {
  std::vector<std::string> devices = {"anna", "bert"};
  uint32_t rounds = 3;
  std::map<std::string, std::string> strategy;              // over the recipe's [strategy]
  std::map<std::string, std::string> coordinator_settings;  // key -> TOML value
  bool inline_updates = false;                              // updates travel inside their reports
  // Failpoints (common/test_hooks.h), "name" or "name:n" for the n-th passing: of the coordinator, of the first
  // device's enrolment, of its daemon. A process that dies of one gets it again for its next life, one passing later,
  // up to `kills` times in all.
  std::string coordinator_point, enrol_point, device_point;
  int kills = 3;
  // In place of coordinator_point and of device_point: one for each life, in this order.
  std::vector<std::string> coordinator_points = {}, device_points = {};
  // This recipe on real workers in place of the arithmetic, with settings over it (FederationModel). It must commit
  // what heddle-simulate does, where nothing is killed.
  std::filesystem::path recipe = {};
  std::map<std::string, std::string> settings = {};
};

class Keeper {
 public:
  explicit Keeper(KeeperOptions options);

  Status Start();
  Status Submit();
  // Starts again what was killed. Errors: a process ended in another way than by SIGKILL; it does not come back.
  Status Tend();
  // Tends until the run is complete and its folder whole, and compares the hash with the one that arithmetic says, or
  // the simulator.
  Status Finish(double limit_s = 60);
  // Tends until the condition holds.
  Status TendUntil(const std::function<bool()>& condition, const std::string& what, double limit_s = 30);
  // kill -9; Tend starts it again.
  void KillCoordinator();
  void KillDevice(size_t index);
  // The coordinator's failpoint for its next life.
  void Arm(const std::string& point) { options_.coordinator_point = point; }

  FederationWorld& world() { return world_; }
  const std::string& run() const { return run_; }
  // The run as the coordinator tells it; empty without an answer.
  boost::json::object Progress();
  uint32_t CommittedRounds();
  // Processes that died of their failpoint.
  int coordinator_deaths() const { return coordinator_deaths_; }
  int enrol_deaths() const { return enrol_deaths_; }
  int device_deaths() const { return device_deaths_; }

 private:
  Status TendCoordinator();
  Status TendDevice(size_t index);
  Status Enrol(const std::string& name);
  // What is missing in the run's folder; ok when it is whole.
  Status CheckFolder(const std::string& folder) const;
  // What the run has to commit, in hexadecimal.
  Result<std::string> Expected();
  simulator::Fleet::Environment EnvironmentOf(const std::string& point, int deaths) const;
  simulator::Fleet::Environment CoordinatorEnvironment() const;
  simulator::Fleet::Environment DeviceEnvironment(size_t index) const;

  KeeperOptions options_;
  FederationWorld world_;
  std::string run_, expected_;
  bool killed_coordinator_ = false;  // by KillCoordinator
  std::vector<bool> killed_device_;
  int coordinator_deaths_ = 0, enrol_deaths_ = 0, device_deaths_ = 0;
};

}  // namespace heddle
