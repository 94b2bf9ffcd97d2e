// A coordinator, its devices and a recipe for them in a temporary folder: what each integration test starts from.
#pragma once

#include <boost/json/object.hpp>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "simulator/demo/fleet.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle {

// Of an answer's JSON object; 0 and "" where the key is missing.
double NumberOf(const boost::json::object& object, const char* key);
std::string TextOf(const boost::json::object& object, const char* key);

// Another base model than heddle-tiny with LoRA on all its linear layers, and each device's data for it; more keys of
// [lora]. Or a recipe that is there, on heddle-tiny.
struct FederationModel {
  std::filesystem::path base;  // empty: heddle-tiny and text
  // Writes the data of a device into the folder and returns their path there; device by device.
  std::function<std::filesystem::path(const std::filesystem::path& folder, const std::string& name, size_t index)> data;
  std::map<std::string, std::string> lora = {};
  std::string tables = {};  // more of the recipe
  // This file in place of the world's own recipe, with key -> value over it as --set takes them; `strategy` and `train`
  // go over it too, `lora` and `tables` mean nothing then.
  std::filesystem::path recipe = {};
  std::map<std::string, std::string> settings = {};
};

class FederationWorld {
 public:
  using Condition = std::function<bool(const boost::json::object& run)>;

  // Writes the recipe and one text file a device. `coordinator`: key -> TOML value, into coordinator.toml.
  explicit FederationWorld(std::vector<std::string> devices, std::map<std::string, std::string> strategy = {},
                           std::map<std::string, std::string> train = {},
                           const std::map<std::string, std::string>& coordinator = {},
                           const FederationModel& model = {});

  // The coordinator and every device of the recipe. `settings` go into each client.toml, those of a device into its
  // own.
  Status Start(std::map<std::string, std::string> settings = {},
               const std::map<std::string, std::map<std::string, std::string>>& of_device = {});
  Result<std::string> Submit(const std::vector<std::string>& more = {});
  // Watches the run until the condition holds or the run has ended; the last answer. Errors: a process that ended, the
  // time limit, no answer.
  Result<boost::json::object> WaitUntil(const std::string& run, const Condition& condition, double limit_s = 60);
  // To the end; an error when it is not "complete".
  Result<boost::json::object> WaitForEnd(const std::string& run, double limit_s = 60);
  // The hash that heddle-simulate commits for the same recipe.
  Result<std::string> SimulatedHash();

  // kill -9 and the same program again on the same state.
  Status KillAndRestartCoordinator();
  Status KillAndRestartDevice(size_t index);

  simulator::Fleet& fleet() { return fleet_; }
  const std::filesystem::path& recipe() const { return recipe_; }
  std::filesystem::path config() const { return fleet_.folder() / "coordinator.toml"; }
  std::filesystem::path folder() const { return temp_.path(); }
  // `heddle` on this coordinator.
  Result<std::string> Heddle(std::vector<std::string> arguments);
  // Devices whose check-in is held, as /metrics says; -1 without an answer.
  int Waiting();
  // The device's own data.
  std::filesystem::path DataOf(const std::string& device) const { return temp_ / (device + ".txt"); }
  // What the device has logged so far.
  std::string DeviceLog(const std::string& name) const;

 private:
  // `names` and `data`: those of the devices, as elements of an array.
  void TakeRecipe(const FederationModel& model, const std::map<std::string, std::string>& strategy,
                  const std::map<std::string, std::string>& train, const std::string& names, const std::string& data);

  TempDir temp_;
  std::vector<std::string> names_;
  std::vector<std::filesystem::path> data_;
  std::filesystem::path recipe_;
  std::vector<std::string> over_recipe_;  // "--set", "key=value"
  simulator::Fleet fleet_;
};

// Children of a process whose program has this name, from /proc.
std::vector<pid_t> ChildrenNamed(pid_t parent, const std::string& name);

// Whether the process is there and not merely waiting to be reaped.
bool Runs(pid_t process);

// Polls `condition` until it holds; false when it does not within the limit.
bool Eventually(const std::function<bool()>& condition, double limit_s = 30);

}  // namespace heddle
