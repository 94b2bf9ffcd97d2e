#include "tests/integration/processes/keeper.h"

#include <signal.h>

#include <boost/json.hpp>
#include <chrono>
#include <cstdlib>
#include <set>
#include <sstream>
#include <thread>

#include "tests/integration/processes/arithmetic_task.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr int kKilled = 128 + SIGKILL;

std::map<std::string, std::string> StrategyOf(const KeeperOptions& options) {
  std::map<std::string, std::string> strategy = options.strategy;
  strategy.insert({"num_server_rounds", std::to_string(options.rounds)});
  return strategy;
}

std::map<std::string, std::string> TrainOf(const KeeperOptions& options) {
  if (!options.recipe.empty()) return {};
  return {{"local_task", std::string("\"") + kArithmeticTask + "\""}};
}

FederationModel ModelOf(const KeeperOptions& options) {
  FederationModel model;
  model.recipe = options.recipe;
  model.settings = options.settings;
  return model;
}

std::map<std::string, std::string> DeviceSettings(const KeeperOptions& options) {
  std::map<std::string, std::string> settings = {
      {"worker.keep_alive_s", "60"},
      {"worker.nice", "0"},
      {"coordinator.inline_update_bytes", options.inline_updates ? "65536" : "0"},
      {"coordinator.retry_base_s", "0.02"},
      {"coordinator.retry_max_s", "0.2"}};
  if (options.recipe.empty()) settings["worker.binary"] = "\"" HEDDLE_BINARY_DIR "/bin/arithmetic_worker\"";
  return settings;
}

// That of a life which has a point of its own.
simulator::Fleet::Environment EnvironmentOfLife(const std::vector<std::string>& points, int deaths) {
  const auto life = static_cast<size_t>(deaths);
  if (life >= points.size()) return {};
  return {"HEDDLE_FAILPOINT=" + points[life]};
}

std::string End(const std::string& log) { return log.size() > 3000 ? "…" + log.substr(log.size() - 3000) : log; }

}  // namespace

Keeper::Keeper(KeeperOptions options)
    : options_(std::move(options)),
      world_(options_.devices, StrategyOf(options_), TrainOf(options_), options_.coordinator_settings,
             ModelOf(options_)),
      killed_device_(options_.devices.size()) {}

simulator::Fleet::Environment Keeper::EnvironmentOf(const std::string& point, int deaths) const {
  if (point.empty() || deaths >= options_.kills) return {};
  const size_t colon = point.find(':');
  const int first = colon == std::string::npos ? 1 : std::atoi(point.c_str() + colon + 1);
  return {"HEDDLE_FAILPOINT=" + point.substr(0, colon) + ":" + std::to_string(first + deaths)};
}

simulator::Fleet::Environment Keeper::CoordinatorEnvironment() const {
  return options_.coordinator_points.empty() ? EnvironmentOf(options_.coordinator_point, coordinator_deaths_)
                                             : EnvironmentOfLife(options_.coordinator_points, coordinator_deaths_);
}

simulator::Fleet::Environment Keeper::DeviceEnvironment(size_t index) const {
  if (index > 0) return {};
  return options_.device_points.empty() ? EnvironmentOf(options_.device_point, device_deaths_)
                                        : EnvironmentOfLife(options_.device_points, device_deaths_);
}

Status Keeper::Start() {
  // The authority and the database are there before anything dies.
  Status started = world_.fleet().StartCoordinator(CoordinatorEnvironment());
  if (!started.ok()) HEDDLE_RETURN_IF_ERROR(Tend());
  for (size_t i = 0; i < options_.devices.size(); ++i) {
    HEDDLE_RETURN_IF_ERROR(Enrol(options_.devices[i]));
    HEDDLE_RETURN_IF_ERROR(world_.fleet().StartDevice(options_.devices[i], DeviceEnvironment(i)));
  }
  return OkStatus();
}

// What an operator does: try again while the coordinator comes back, with a new token when the old one is used up.
Status Keeper::Enrol(const std::string& name) {
  const bool first = name == options_.devices.front();
  const fs::path state = world_.fleet().folder() / "devices" / name / "state";
  Status last;
  for (int tries = 0; tries < 10; ++tries) {
    last = world_.fleet().EnrolDevice(name, world_.DataOf(name), DeviceSettings(options_),
                                      EnvironmentOf(first ? options_.enrol_point : "", enrol_deaths_));
    if (last.ok()) return last;
    if (last.message().find("status " + std::to_string(kKilled)) != std::string::npos) ++enrol_deaths_;
    HEDDLE_RETURN_IF_ERROR(Tend());
    if (fs::exists(state / "device.crt")) return OkStatus();  // it died after its last step
  }
  return last.Annotate("enrolling " + name);
}

Status Keeper::Submit() {
  Status last;
  for (int tries = 0; tries < 10; ++tries) {
    auto submitted = world_.Submit();
    if (submitted.ok()) {
      run_ = *submitted;
      return OkStatus();
    }
    last = submitted.status();
    HEDDLE_RETURN_IF_ERROR(Tend());
    // Was it taken before the answer was lost?
    auto runs = world_.fleet().admin().Get("/v1/runs");
    if (!runs.ok()) continue;
    const json::array& list = runs->at("runs").as_array();
    if (list.empty()) continue;
    run_ = TextOf(list.front().as_object(), "run_id");
    return OkStatus();
  }
  return last.Annotate("submitting");
}

void Keeper::KillCoordinator() {
  killed_coordinator_ = true;
  world_.fleet().coordinator_process().Signal(SIGKILL);
  world_.fleet().coordinator_process().Wait();
}

void Keeper::KillDevice(size_t index) {
  killed_device_[index] = true;
  world_.fleet().devices()[index].second.Signal(SIGKILL);
  world_.fleet().devices()[index].second.Wait();
}

Status Keeper::TendCoordinator() {
  for (size_t lives = 0; lives < 10 + options_.coordinator_points.size(); ++lives) {
    const auto ended = world_.fleet().coordinator_process().Poll();
    if (!ended) return OkStatus();
    const std::string log = Slurp(world_.fleet().folder() / "coordinator.log");
    if (*ended != kKilled) {
      return Internal("the coordinator ended with status " + std::to_string(*ended) + ": " + End(log));
    }
    if (!std::exchange(killed_coordinator_, false)) ++coordinator_deaths_;
    const Status restarted = world_.fleet().RestartCoordinator(CoordinatorEnvironment());
    if (!restarted.ok() && !world_.fleet().coordinator_process().Poll()) return restarted;
  }
  return Internal("the coordinator dies again and again");
}

Status Keeper::TendDevice(size_t index) {
  auto& [name, process] = world_.fleet().devices()[index];
  const auto ended = process.Poll();
  if (!ended) return OkStatus();
  if (*ended != kKilled) {
    return Internal("heddle-client of " + name + " ended with status " + std::to_string(*ended) + ": " +
                    End(world_.DeviceLog(name)));
  }
  const bool wanted = killed_device_[index];
  killed_device_[index] = false;
  if (!wanted) ++device_deaths_;
  return world_.fleet().StartDevice(name, DeviceEnvironment(index));
}

Status Keeper::Tend() {
  HEDDLE_RETURN_IF_ERROR(TendCoordinator());
  for (size_t i = 0; i < world_.fleet().devices().size(); ++i) HEDDLE_RETURN_IF_ERROR(TendDevice(i));
  return OkStatus();
}

Status Keeper::TendUntil(const std::function<bool()>& condition, const std::string& what, double limit_s) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(limit_s);
  for (;;) {
    HEDDLE_RETURN_IF_ERROR(Tend());
    if (condition()) return OkStatus();
    if (std::chrono::steady_clock::now() > end) {
      std::string logs = End(Slurp(world_.fleet().folder() / "coordinator.log"));
      for (const std::string& name : options_.devices) logs += "\n" + name + ":\n" + End(world_.DeviceLog(name));
      return DeadlineExceeded("it did not come to this: " + what + "; " + json::serialize(Progress()) + "\n" + logs);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

json::object Keeper::Progress() {
  auto answer = world_.fleet().admin().Get("/v1/runs/" + run_);
  return answer.ok() ? *answer : json::object();
}

uint32_t Keeper::CommittedRounds() { return static_cast<uint32_t>(NumberOf(Progress(), "committed_rounds")); }

// Every committed round has its line, once, and its checkpoint; run.json tells the end.
Status Keeper::CheckFolder(const std::string& folder) const {
  boost::system::error_code error;
  const json::value file = json::parse(Slurp(fs::path(folder) / "run.json"), error);
  if (error || TextOf(file.as_object(), "state") != "complete") return NotFound("run.json does not tell the end");
  std::istringstream lines(Slurp(fs::path(folder) / "history.jsonl"));
  std::multiset<uint32_t> committed;
  for (std::string line; std::getline(lines, line);) {
    const json::value value = json::parse(line, error);
    if (error) return DataLoss("a line of history.jsonl is torn: " + line);
    if (TextOf(value.as_object(), "outcome") != "committed") continue;
    committed.insert(static_cast<uint32_t>(NumberOf(value.as_object(), "round")));
  }
  for (uint32_t round = 1; round <= options_.rounds; ++round) {
    const std::string name = "round-" + std::to_string(round);
    if (committed.count(round) != 1) {
      return NotFound("history.jsonl has " + std::to_string(committed.count(round)) + " lines of " + name);
    }
    for (const char* part : {"adapter_model.safetensors", "adapter_config.json"}) {
      if (!fs::is_regular_file(fs::path(folder) / "checkpoints" / name / part)) {
        return NotFound("the checkpoint of " + name + " has no " + part);
      }
    }
  }
  return OkStatus();
}

Result<std::string> Keeper::Expected() {
  if (!expected_.empty()) return expected_;
  if (options_.recipe.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest arithmetic, ArithmeticModel(world_.recipe(), options_.devices));
    expected_ = arithmetic.ToHex();
  } else {
    HEDDLE_ASSIGN_OR_RETURN(expected_, world_.SimulatedHash());
  }
  return expected_;
}

Status Keeper::Finish(double limit_s) {
  json::object end;
  Status folder;
  const auto over = [&] {
    end = Progress();
    const std::string state = TextOf(end, "state");
    if (state.empty() || state == "running") return false;
    if (state != "complete") return true;
    folder = CheckFolder(TextOf(end, "folder"));
    return folder.ok();
  };
  const Status reached = TendUntil(over, "the run is complete and its folder whole", limit_s);
  if (!reached.ok()) return folder.ok() ? reached : reached.Annotate(folder.message());
  if (TextOf(end, "state") != "complete") return Internal("the run ended so: " + json::serialize(end));
  HEDDLE_ASSIGN_OR_RETURN(const std::string expected, Expected());
  if (TextOf(end, "model_sha256") != expected) {
    return DataLoss("the run committed " + TextOf(end, "model_sha256") + ", not " + expected);
  }
  return OkStatus();
}

}  // namespace heddle
