#include "simulator/demo/fleet.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <thread>
#include <utility>

#include "common/file.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;

// The last lines of a log, for error messages.
std::string Tail(const fs::path& log) {
  auto text = ReadFile(log, size_t{64} << 20);
  if (!text.ok()) return "";
  constexpr size_t kTail = 1500;
  return text->size() > kTail ? "…" + text->substr(text->size() - kTail) : *text;
}

// TOML from dotted keys: "listen.port" = 0 goes under [listen].
std::string TomlOf(const std::map<std::string, std::string>& settings) {
  std::string top, tables, current;
  for (const auto& [key, value] : settings) {
    const size_t dot = key.find('.');
    if (dot == std::string::npos) {
      top += key + " = " + value + "\n";
      continue;
    }
    const std::string table = key.substr(0, dot);
    if (table != current) tables += "\n[" + table + "]\n";
    current = table;
    tables += key.substr(dot + 1) + " = " + value + "\n";
  }
  return top + tables;
}

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

Result<uint16_t> ReadPort(const fs::path& path) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, 64));
  uint16_t port = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || port == 0) return DataLoss(path.string() + " does not hold a port");
  return port;
}

}  // namespace

Status Fleet::StartCoordinator(const Environment& environment) {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(options_.folder));
  std::map<std::string, std::string> settings = {
      {"listen.address", "\"127.0.0.1\""},     {"listen.port", "0"},
      {"listen.port_file", "\"device.port\""}, {"admin.port", "0"},
      {"admin.port_file", "\"admin.port\""},   {"storage.state_dir", "\"coordinator\""}};
  for (const auto& [key, value] : options_.coordinator_settings) settings[key] = value;
  config_path_ = options_.folder / "coordinator.toml";
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(config_path_, TomlOf(settings)));
  HEDDLE_ASSIGN_OR_RETURN(config_, coordinator::CoordinatorConfig::Load(config_path_, {}));
  HEDDLE_RETURN_IF_ERROR(RunTool({"heddle", "--config", config_path_.string(), "coordinator", "init"}).status());
  return LaunchCoordinator(environment);
}

Status Fleet::LaunchCoordinator(const Environment& environment) {
  SubprocessOptions process;
  process.extra_environment = environment;
  process.argv = {(options_.bin / "heddle-coordinator").string(), "--config", config_path_.string()};
  if (device_port_ != 0) {  // devices know the port of before
    process.argv.insert(process.argv.end(), {"--set", "listen.port=" + std::to_string(device_port_)});
  }
  process.stderr_file = options_.folder / "coordinator.log";
  std::error_code error;
  fs::remove(options_.folder / "admin.port", error);
  fs::remove(options_.folder / "device.port", error);
  HEDDLE_ASSIGN_OR_RETURN(coordinator_, Subprocess::Start(process));
  return WaitReady();
}

Status Fleet::WaitReady() {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  std::error_code error;
  while (!fs::exists(options_.folder / "admin.port", error) || !fs::exists(options_.folder / "device.port", error)) {
    HEDDLE_RETURN_IF_ERROR(CheckCoordinator());
    if (std::chrono::steady_clock::now() > end) return DeadlineExceeded("the coordinator did not open its ports");
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  HEDDLE_ASSIGN_OR_RETURN(device_port_, ReadPort(options_.folder / "device.port"));
  HEDDLE_ASSIGN_OR_RETURN(admin_, coordinator::AdminClient::Make(config_));
  while (!admin_->GetText("/readyz").ok()) {
    HEDDLE_RETURN_IF_ERROR(CheckCoordinator());
    if (std::chrono::steady_clock::now() > end) return DeadlineExceeded("the coordinator did not become ready");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return OkStatus();
}

Status Fleet::RestartCoordinator(const Environment& environment) { return LaunchCoordinator(environment); }

Status Fleet::AddDevice(const std::string& name, const fs::path& data,
                        const std::map<std::string, std::string>& settings) {
  HEDDLE_RETURN_IF_ERROR(EnrolDevice(name, data, settings));
  return StartDevice(name);
}

Status Fleet::EnrolDevice(const std::string& name, const fs::path& data, const std::map<std::string, std::string>& more,
                          const Environment& environment) {
  HEDDLE_ASSIGN_OR_RETURN(std::string token,
                          RunTool({"heddle", "--config", config_path_.string(), "device", "token", name}));
  while (!token.empty() && token.back() == '\n') token.pop_back();
  const fs::path folder = options_.folder / "devices" / name;
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  std::map<std::string, std::string> settings = {{"coordinator.host", "\"127.0.0.1\""},
                                                 {"coordinator.port", std::to_string(device_port_)},
                                                 {"device.state_dir", "\"state\""},
                                                 {"data.path", Quoted(data.string())},
                                                 {"worker.binary", Quoted((options_.bin / "heddle-worker").string())}};
  for (const auto& [key, value] : more) settings[key] = value;
  const fs::path config = folder / "client.toml";
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(config, TomlOf(settings)));
  return RunTool({"heddle-client", "enroll", "--config", config.string(), "--token", token}, environment).status();
}

Status Fleet::StartDevice(const std::string& name, const Environment& environment) {
  const fs::path folder = options_.folder / "devices" / name;
  SubprocessOptions process;
  process.argv = {(options_.bin / "heddle-client").string(), "--config", (folder / "client.toml").string()};
  process.stderr_file = folder / "client.log";
  process.extra_environment = environment;
  HEDDLE_ASSIGN_OR_RETURN(Subprocess started, Subprocess::Start(process));
  for (auto& [known, device] : devices_) {
    if (known != name) continue;
    device = std::move(started);
    return OkStatus();
  }
  devices_.emplace_back(name, std::move(started));
  return OkStatus();
}

Result<std::string> Fleet::RunTool(const std::vector<std::string>& arguments, const Environment& environment) {
  const fs::path log = options_.folder / ("tool-" + std::to_string(++tool_calls_) + ".log");
  SubprocessOptions process;
  process.argv = arguments;
  process.argv[0] = (options_.bin / arguments[0]).string();
  process.pipe_stdout = true;
  process.stderr_file = log;
  process.extra_environment = environment;
  HEDDLE_ASSIGN_OR_RETURN(Subprocess tool, Subprocess::Start(process));
  std::string out;
  char buffer[4096];
  for (;;) {
    const ssize_t n = ::read(tool.stdout_fd(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    out.append(buffer, static_cast<size_t>(n));
  }
  const int status = tool.Wait();
  const std::string said = Tail(log);
  std::error_code error;
  fs::remove(log, error);
  if (status == 0) return out;
  return Internal(arguments[0] + " ended with status " + std::to_string(status) + ": " + said);
}

Status Fleet::CheckCoordinator() {
  if (!coordinator_) return OkStatus();
  const auto status = coordinator_->Poll();
  if (!status) return OkStatus();
  return Internal("heddle-coordinator ended with status " + std::to_string(*status) + ": " +
                  Tail(options_.folder / "coordinator.log"));
}

Status Fleet::CheckAlive() {
  HEDDLE_RETURN_IF_ERROR(CheckCoordinator());
  for (auto& [name, process] : devices_) {
    if (auto status = process.Poll()) {
      return Internal("heddle-client of " + name + " ended with status " + std::to_string(*status) + ": " +
                      Tail(options_.folder / "devices" / name / "client.log"));
    }
  }
  return OkStatus();
}

Status Fleet::Stop() {
  Status result;
  const auto end = [&result](const std::string& name, Subprocess& process) {
    auto status = process.WaitFor(Seconds(20));
    if (result.ok() && (!status || *status != 0)) {
      result = Internal(name + (status ? " ended with status " + std::to_string(*status)
                                       : std::string(" did not end within 20 s of SIGTERM")));
    }
  };
  for (auto& [name, process] : devices_) process.Signal(SIGTERM);
  for (auto& [name, process] : devices_) end("heddle-client of " + name, process);
  devices_.clear();
  if (coordinator_) {
    coordinator_->Signal(SIGTERM);
    end("heddle-coordinator", *coordinator_);
    coordinator_.reset();
  }
  return result;
}

}  // namespace heddle::simulator
