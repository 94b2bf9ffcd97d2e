#include "tests/integration/federation/federation_world.h"

#include <signal.h>

#include <boost/json.hpp>
#include <charconv>
#include <chrono>
#include <thread>

namespace heddle {

namespace fs = std::filesystem;
namespace json = boost::json;

namespace {

simulator::FleetOptions OptionsIn(const fs::path& folder, const std::map<std::string, std::string>& coordinator) {
  simulator::FleetOptions options;
  options.folder = folder;
  options.bin = fs::path(HEDDLE_BINARY_DIR) / "bin";
  options.coordinator_settings = {{"limits.shutdown_grace_s", "3"}};
  for (const auto& [key, value] : coordinator) options.coordinator_settings[key] = value;
  return options;
}

// Text that differs from device to device, enough for every batch.
std::string TextOfDevice(const std::string& name, size_t index) {
  static const char* const kWords[] = {"river", "stone", "winter", "the", "and", "walks", "under", "light", "of", "a"};
  std::string text;
  for (size_t i = 0; i < 1500; ++i) {
    text += kWords[(i * (index + 3) + i / 7) % 10];
    text += i % 13 == 12 ? ".\n" : " ";
    if (i % 50 == 0) text += name + " ";
  }
  return text;
}

}  // namespace

double NumberOf(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_number() ? value->to_number<double>() : 0;
}

std::string TextOf(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? json::value_to<std::string>(*value) : "";
}

FederationWorld::FederationWorld(std::vector<std::string> devices, std::map<std::string, std::string> strategy_more,
                                 std::map<std::string, std::string> train_more,
                                 const std::map<std::string, std::string>& coordinator, const FederationModel& model)
    : names_(std::move(devices)), fleet_(OptionsIn(temp_ / "fleet", coordinator)) {
  std::string names, data;
  for (size_t i = 0; i < names_.size(); ++i) {
    data_.push_back(model.data ? model.data(temp_.path(), names_[i], i)
                               : temp_.Write(names_[i] + ".txt", TextOfDevice(names_[i], i)));
    names += (i > 0 ? ", \"" : "\"") + names_[i] + "\"";
    data += (i > 0 ? ", \"" : "\"") + data_[i].string() + "\"";
  }
  if (!model.recipe.empty()) {
    TakeRecipe(model, strategy_more, train_more, names, data);
    return;
  }
  std::map<std::string, std::string> strategy = {{"num_server_rounds", "2"},
                                                 {"cohort_size", std::to_string(names_.size())},
                                                 {"report_deadline_s", "120"},
                                                 {"max_retry_after_s", "1"}};
  std::map<std::string, std::string> train = {
      {"local_steps", "2"}, {"batch_size", "2"}, {"sequence_length", "32"}, {"learning_rate", "5e-3"}};
  for (const auto& [key, value] : strategy_more) strategy[key] = value;
  for (const auto& [key, value] : train_more) train[key] = value;
  const fs::path base = model.base.empty() ? HEDDLE_SOURCE_DIR "/model/pretrained/heddle-tiny" : model.base;
  std::string text = "name = \"integration\"\nseed = 7\n\n[model]\nbase = \"" + base.string() +
                     "\"\n\n[lora]\nr = 2\nlora_alpha = 4\n";
  if (!model.base.empty()) text += "target_modules = [\"all-linear\"]\n";
  for (const auto& [key, value] : model.lora) text += key + " = " + value + "\n";
  text += "\n[strategy]\n";
  for (const auto& [key, value] : strategy) text += key + " = " + value + "\n";
  text += "\n[train]\n";
  for (const auto& [key, value] : train) text += key + " = " + value + "\n";
  text += "\n[simulation]\ndevices = [" + names + "]\ndata = [" + data + "]\n" + model.tables;
  recipe_ = temp_.Write("recipe.toml", text);
}

void FederationWorld::TakeRecipe(const FederationModel& model, const std::map<std::string, std::string>& strategy,
                                 const std::map<std::string, std::string>& train, const std::string& names,
                                 const std::string& data) {
  recipe_ = model.recipe;
  std::map<std::string, std::string> over = model.settings;
  for (const auto& [key, value] : strategy) over["strategy." + key] = value;
  for (const auto& [key, value] : train) over["train." + key] = value;
  over.insert({{"model.base", HEDDLE_SOURCE_DIR "/model/pretrained/heddle-tiny"},
               {"strategy.cohort_size", std::to_string(names_.size())},
               {"strategy.max_retry_after_s", "1"},
               {"simulation.source", "files"},
               {"simulation.num_devices", "0"},  // they have names
               {"simulation.test_fraction", "0"},
               {"simulation.devices", "[" + names + "]"},
               {"simulation.data", "[" + data + "]"}});
  for (const auto& [key, value] : over) over_recipe_.insert(over_recipe_.end(), {"--set", key + "=" + value});
}

Status FederationWorld::Start(std::map<std::string, std::string> settings,
                              const std::map<std::string, std::map<std::string, std::string>>& of_device) {
  HEDDLE_RETURN_IF_ERROR(fleet_.StartCoordinator());
  settings.insert({{"worker.keep_alive_s", "60"},
                   {"worker.nice", "0"},
                   {"coordinator.retry_base_s", "0.05"},
                   {"coordinator.retry_max_s", "0.3"}});
  for (size_t i = 0; i < names_.size(); ++i) {
    std::map<std::string, std::string> own = settings;
    if (const auto more = of_device.find(names_[i]); more != of_device.end()) {
      for (const auto& [key, value] : more->second) own[key] = value;
    }
    HEDDLE_RETURN_IF_ERROR(fleet_.AddDevice(names_[i], data_[i], own));
  }
  return OkStatus();
}

Result<std::string> FederationWorld::Heddle(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"heddle", "--config", config().string()});
  return fleet_.RunTool(arguments);
}

Result<std::string> FederationWorld::Submit(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"run", "submit", recipe_.string()};
  arguments.insert(arguments.end(), over_recipe_.begin(), over_recipe_.end());
  arguments.insert(arguments.end(), more.begin(), more.end());
  HEDDLE_ASSIGN_OR_RETURN(std::string id, Heddle(arguments));
  while (!id.empty() && id.back() == '\n') id.pop_back();
  return id;
}

Result<json::object> FederationWorld::WaitUntil(const std::string& run, const Condition& condition, double limit_s) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(limit_s);
  std::string version = "0";
  for (;;) {
    HEDDLE_RETURN_IF_ERROR(fleet_.CheckAlive());
    HEDDLE_ASSIGN_OR_RETURN(json::object answer,
                            fleet_.admin().Get("/v1/runs/" + run + ":watch?timeout_s=1&version=" + version));
    if (condition(answer) || TextOf(answer, "state") != "running") return answer;
    if (std::chrono::steady_clock::now() > end) {
      return DeadlineExceeded("the run did not get there: " + json::serialize(answer));
    }
    if (const json::value* number = answer.if_contains("version")) version = json::serialize(*number);
  }
}

Result<json::object> FederationWorld::WaitForEnd(const std::string& run, double limit_s) {
  HEDDLE_ASSIGN_OR_RETURN(json::object answer, WaitUntil(
                                                   run, [](const json::object&) { return false; }, limit_s));
  if (TextOf(answer, "state") != "complete") return Internal("the run ended so: " + json::serialize(answer));
  return answer;
}

Result<std::string> FederationWorld::SimulatedHash() {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(fleet_.folder()));
  std::vector<std::string> arguments = {
      "heddle-simulate", recipe_.string(), "--out", (temp_ / "simulated").string(), "--format", "json"};
  arguments.insert(arguments.end(), over_recipe_.begin(), over_recipe_.end());
  HEDDLE_ASSIGN_OR_RETURN(const std::string out, fleet_.RunTool(arguments));
  boost::system::error_code error;
  const json::value value = json::parse(out, error);
  if (error || !value.is_object()) return Internal("heddle-simulate printed no JSON: " + out);
  return TextOf(value.get_object(), "model_sha256");
}

Status FederationWorld::KillAndRestartCoordinator() {
  fleet_.coordinator_process().Signal(SIGKILL);
  if (fleet_.coordinator_process().Wait() != 128 + SIGKILL) return Internal("the coordinator had ended before");
  return fleet_.RestartCoordinator();
}

Status FederationWorld::KillAndRestartDevice(size_t index) {
  auto& [name, process] = fleet_.devices()[index];
  process.Signal(SIGKILL);
  if (process.Wait() != 128 + SIGKILL) return Internal("the device had ended before");
  return fleet_.StartDevice(name);
}

int FederationWorld::Waiting() {
  auto text = fleet_.admin().GetText("/metrics");
  if (!text.ok()) return -1;
  const std::string name = "\nheddle_clients_waiting ";
  const size_t at = text->find(name);
  return at == std::string::npos ? -1 : std::atoi(text->c_str() + at + name.size());
}

std::string FederationWorld::DeviceLog(const std::string& name) const {
  return Slurp(fleet_.folder() / "devices" / name / "client.log");
}

std::vector<pid_t> ChildrenNamed(pid_t parent, const std::string& name) {
  std::vector<pid_t> found;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc", error)) {
    const std::string folder = entry.path().filename().string();
    pid_t pid = 0;
    const auto [end, bad] = std::from_chars(folder.data(), folder.data() + folder.size(), pid);
    if (bad != std::errc() || end != folder.data() + folder.size()) continue;
    const std::string stat = Slurp(entry.path() / "stat");  // pid (comm) state ppid …
    const size_t open = stat.find('('), close = stat.rfind(')');
    if (open == std::string::npos || close == std::string::npos || close + 4 > stat.size()) continue;
    if (stat.substr(open + 1, close - open - 1) != name.substr(0, 15)) continue;  // the kernel cuts names
    if (std::atoi(stat.c_str() + close + 4) == parent) found.push_back(pid);
  }
  return found;
}

bool Runs(pid_t process) {
  const std::string stat = Slurp(fs::path("/proc") / std::to_string(process) / "stat");
  const size_t close = stat.rfind(')');
  return close != std::string::npos && close + 2 < stat.size() && stat[close + 2] != 'Z' && stat[close + 2] != 'X';
}

bool Eventually(const std::function<bool()>& condition, double limit_s) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(limit_s);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace heddle
