// Who waits must cost nothing: a daemon without work, one that keeps its worker, and a coordinator with a thousand
// devices in open check-ins.
#include <unistd.h>

#include <boost/json.hpp>
#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>

#include "bench.h"
#include "common/file.h"
#include "common/subprocess.h"
#include "light_devices.h"
#include "simulator/demo/fleet.h"

namespace heddle::bench {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

Result<double> ResidentMb(pid_t pid) {
  HEDDLE_ASSIGN_OR_RETURN(const ProcessMemory memory, ReadProcessMemory(pid));
  return static_cast<double>(memory.rss_bytes) / kMb;
}

// Proportional: a page of a file that others have mapped too counts as a share.
Result<double> ProportionalMb(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/smaps_rollup");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("Pss:")) return std::stod(line.substr(4)) * 1024 / kMb;
  }
  return NotFound("there is no smaps_rollup of the process");
}

// The only child of a process; nothing when there is none.
std::optional<pid_t> ChildOf(pid_t pid) {
  std::error_code error;
  for (const fs::directory_entry& task : fs::directory_iterator("/proc/" + std::to_string(pid) + "/task", error)) {
    std::ifstream in(task.path() / "children");
    pid_t child = 0;
    if (in >> child) return child;
  }
  return std::nullopt;
}

Status WaitWaiting(simulator::Fleet& fleet, int devices) {
  const std::string wanted = "heddle_clients_waiting " + std::to_string(devices) + "\n";
  for (int i = 0; i < 600; ++i) {
    HEDDLE_RETURN_IF_ERROR(fleet.CheckAlive());
    HEDDLE_ASSIGN_OR_RETURN(const std::string metrics, fleet.admin().GetText("/metrics"));
    if (metrics.find(wanted) != std::string::npos) return OkStatus();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return DeadlineExceeded("the devices did not come to wait");
}

Status WriteText(const fs::path& path) {
  std::string text;
  for (int i = 0; i < 400; ++i) {
    text +=
        "In the year " + std::to_string(1600 + i) + " the weavers of the valley set up their looms beside the river.\n";
  }
  return WriteFileAtomically(path, text);
}

std::string RealRecipe(const Context& context) {
  return "name = \"bench\"\nseed = 1\n\n[model]\nbase = \"" +
         (context.source / "model" / "pretrained" / "heddle-tiny").string() +
         "\"\n\n[lora]\nr = 8\nlora_alpha = 16\ntarget_modules = [\"all-linear\"]\n\n[strategy]\nnum_server_rounds = "
         "1\n"
         "cohort_size = 1\n\n[train]\nlocal_steps = 4\nbatch_size = 4\nsequence_length = 64\n";
}

Status WaitComplete(simulator::Fleet& fleet, const std::string& id) {
  for (int i = 0; i < 1200; ++i) {
    HEDDLE_RETURN_IF_ERROR(fleet.CheckAlive());
    HEDDLE_ASSIGN_OR_RETURN(const json::object run, fleet.admin().Get("/v1/runs/" + id));
    const std::string state = json::value_to<std::string>(run.at("state"));
    if (state == "complete") return OkStatus();
    if (state != "running") return Internal("the run ended as " + state);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return DeadlineExceeded("the run took too long");
}

Status TrainOnce(const Context& context, simulator::Fleet& fleet) {
  const fs::path recipe = fleet.folder() / "recipe.toml";
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(recipe, RealRecipe(context)));
  HEDDLE_ASSIGN_OR_RETURN(std::string id,
                          fleet.RunTool({"heddle", "--config", (fleet.folder() / "coordinator.toml").string(), "run",
                                         "submit", recipe.string()}));
  while (!id.empty() && id.back() == '\n') id.pop_back();
  return WaitComplete(fleet, id);
}

Result<Findings> IdleClient(const Context& context) {
  const std::vector<std::string> ids = {"client-idle", "client-libtorch", "client-libtorch-pss"};
  Findings found;
  if (!fs::exists(context.bin / "heddle-worker")) {
    for (const std::string& id : ids) found.skipped[id] = "this build has no LibTorch";
    return found;
  }
  simulator::Fleet fleet({.folder = context.work / "client", .bin = context.bin, .coordinator_settings = {}});
  HEDDLE_RETURN_IF_ERROR(fleet.StartCoordinator());
  const fs::path data = context.work / "client" / "data.txt";
  HEDDLE_RETURN_IF_ERROR(WriteText(data));

  // A daemon that has trained once and ended its worker: what it is like for most of its life.
  HEDDLE_RETURN_IF_ERROR(fleet.AddDevice("lean", data, {{"worker.keep_alive_s", "0"}}));
  HEDDLE_RETURN_IF_ERROR(WaitWaiting(fleet, 1));
  HEDDLE_RETURN_IF_ERROR(TrainOnce(context, fleet));
  HEDDLE_RETURN_IF_ERROR(WaitWaiting(fleet, 1));
  const pid_t lean = fleet.devices().front().second.pid();
  for (int i = 0; i < 100 && ChildOf(lean); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  if (ChildOf(lean)) return Internal("the daemon did not end its worker");
  HEDDLE_ASSIGN_OR_RETURN(const double idle, ResidentMb(lean));
  HEDDLE_RETURN_IF_ERROR(fleet.Stop());

  simulator::Fleet keeping({.folder = context.work / "keeping", .bin = context.bin, .coordinator_settings = {}});
  HEDDLE_RETURN_IF_ERROR(keeping.StartCoordinator());
  HEDDLE_RETURN_IF_ERROR(keeping.AddDevice("keeper", data, {{"worker.keep_alive_s", "600"}}));
  HEDDLE_RETURN_IF_ERROR(WaitWaiting(keeping, 1));
  HEDDLE_RETURN_IF_ERROR(TrainOnce(context, keeping));
  HEDDLE_RETURN_IF_ERROR(WaitWaiting(keeping, 1));
  const pid_t keeper = keeping.devices().front().second.pid();
  const std::optional<pid_t> worker = ChildOf(keeper);
  if (!worker) return Internal("the daemon did not keep its worker");
  std::this_thread::sleep_for(std::chrono::seconds(3));  // until it is idle
  HEDDLE_ASSIGN_OR_RETURN(const double daemon_rss, ResidentMb(keeper));
  HEDDLE_ASSIGN_OR_RETURN(const double worker_rss, ResidentMb(*worker));
  HEDDLE_ASSIGN_OR_RETURN(const double daemon_pss, ProportionalMb(keeper));
  HEDDLE_ASSIGN_OR_RETURN(const double worker_pss, ProportionalMb(*worker));
  HEDDLE_RETURN_IF_ERROR(keeping.Stop());

  found.values[ids[0]] = {idle, "VmRSS after a task, one daemon"};
  found.values[ids[1]] = {daemon_rss + worker_rss, "VmRSS of daemon and worker after a task; this one is compared"};
  found.values[ids[2]] = {daemon_pss + worker_pss, "PSS of the same"};
  return found;
}

Result<Findings> IdleCoordinator(const Context& context) {
  constexpr int kDevices = 1000;
  constexpr double kQuiet = 10;
  HEDDLE_RETURN_IF_ERROR(AllowDescriptors(kDevices + 200));
  LightDevices devices(context, context.work / "idle", kDevices);
  HEDDLE_RETURN_IF_ERROR(devices.StartCoordinator());
  HEDDLE_RETURN_IF_ERROR(devices.WaitInLobby());
  const pid_t pid = devices.fleet().coordinator_process().pid();
  std::this_thread::sleep_for(std::chrono::seconds(2));  // after the handshakes
  std::vector<double> shares;
  for (int window = 0; window < 3; ++window) {
    HEDDLE_ASSIGN_OR_RETURN(const double before, ProcessorSeconds(pid));
    const auto start = std::chrono::steady_clock::now();
    std::this_thread::sleep_for(std::chrono::duration<double>(kQuiet));
    HEDDLE_ASSIGN_OR_RETURN(const double after, ProcessorSeconds(pid));
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    shares.push_back(100 * (after - before) / passed.count());
  }
  HEDDLE_ASSIGN_OR_RETURN(const double memory, ResidentMb(pid));
  HEDDLE_RETURN_IF_ERROR(devices.fleet().CheckAlive());
  Findings found;
  found.values["idle-memory"] = {memory, "VmRSS"};
  found.values["idle-cpu"] = {Median(shares), "median of 3 windows of 10 s"};
  return found;
}

}  // namespace

std::vector<Measurement> IdleMeasurements() {
  return {
      {"spine",
       {{"client-idle", "idle client daemon", "MB", 25, false},
        {"client-libtorch", "idle client daemon that keeps its worker, LibTorch loaded", "MB", 200, false},
        {"client-libtorch-pss", "the same, pages of shared files counted as shares", "MB", std::nullopt, false}},
       IdleClient},
      {"spine",
       {{"idle-memory", "coordinator, 1000 idle devices connected: memory", "MB", 200, false},
        {"idle-cpu", "the same: processor time", "% of a core", 1, false}},
       IdleCoordinator},
  };
}

}  // namespace heddle::bench
