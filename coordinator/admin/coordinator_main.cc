// heddle-coordinator: the daemon. SIGTERM and SIGINT end it cleanly, SIGHUP reads the server's certificate anew.
#include <malloc.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>

#include "common/build_info.h"
#include "common/config.h"
#include "common/file.h"
#include "common/logging.h"
#include "coordinator/service/descriptors.h"
#include "coordinator/service/service.h"

namespace heddle::coordinator {
namespace {

// Tells systemd (Type=notify) how we are; nothing without it.
void NotifySystemd(const std::string& state) {
  const char* name = std::getenv("NOTIFY_SOCKET");
  if (name == nullptr || *name == '\0') return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const size_t length = std::strlen(name);
  if (length >= sizeof address.sun_path) return;
  std::memcpy(address.sun_path, name, length);
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';  // the abstract name space
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return;
  [[maybe_unused]] const ssize_t sent =
      ::sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address),
               static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length));
}

// The signals are blocked in every thread and waited for here, so nothing runs in a handler.
sigset_t BlockSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  return set;
}

Status Run(const std::string& config_path, const std::map<std::string, std::string>& overrides, bool insecure) {
  HEDDLE_ASSIGN_OR_RETURN(CoordinatorConfig config, CoordinatorConfig::Load(config_path, overrides));
  HEDDLE_RETURN_IF_ERROR(InitLogging(config.log));
  HEDDLE_ASSIGN_OR_RETURN(config.max_connections, ReserveDescriptors(config.max_connections));
  const sigset_t signals = BlockSignals();
  ServiceOptions options;
  options.insecure = insecure;
  HEDDLE_ASSIGN_OR_RETURN(const auto service, Service::Start(std::move(config), options));
  NotifySystemd("READY=1");
  for (;;) {
    int signal = 0;
    sigwait(&signals, &signal);
    if (signal != SIGHUP) break;
    Status reloaded = service->ReloadTls();
    if (reloaded.ok()) {
      Log(Severity::kInfo, "the server's certificate was read anew");
    } else {
      Log(Severity::kError, "the server's certificate could not be read; the old one stays in use",
          {{"error", reloaded.message()}});
    }
  }
  NotifySystemd("STOPPING=1");
  Log(Severity::kInfo, "stopping");
  service->Stop();
  Log(Severity::kInfo, "stopped");
  return OkStatus();
}

// Buffers of the size of a tensor come and go with every round. glibc raises the size from which it maps them one by
// one as soon as the first is freed, and keeps what it does not map: the peak of one round would stay for ever.
void GiveLargeBuffersBack() {
#ifdef M_MMAP_THRESHOLD
  ::mallopt(M_MMAP_THRESHOLD, 256 << 10);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 20);
#endif
}

int Main(int argc, char** argv) {
  GiveLargeBuffersBack();
  CLI::App app("Heddle's coordinator: schedules rounds and merges what devices learn.", "heddle-coordinator");
  std::string config = "/etc/heddle/coordinator.toml";
  std::vector<std::string> settings;
  bool insecure = false, describe = false;
  app.add_option("-c,--config", config, "coordinator.toml")->capture_default_str();
  app.add_option("--set", settings, "key=value, over the file and the environment (repeatable)");
  app.add_flag("--insecure", insecure, "plain TCP without certificates; loopback only, for tests");
  app.add_flag("--help-config", describe, "list the configuration's keys");
  app.set_version_flag("--version", std::string(VersionString()));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (describe) {
    std::cout << CoordinatorConfig::Describe();
    return 0;
  }
  const auto overrides = ParseSettings(settings);
  if (!overrides.ok()) {
    std::cerr << "heddle-coordinator: " << overrides.status().message() << "\n";
    return 2;
  }
  const Status status = Run(config, *overrides, insecure);
  if (status.ok()) return 0;
  std::cerr << "heddle-coordinator: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace heddle::coordinator

int main(int argc, char** argv) {
  try {
    return heddle::coordinator::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "heddle-coordinator: " << error.what() << "\n";
    return 1;
  }
}
