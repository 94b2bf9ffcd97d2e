// Any text as coordinator.toml (first byte even) or client.toml (odd): refused with a sentence, or settings within
// their bounds, and what is printed of them is read as the same settings.
#include <utility>

#include "client/daemon/config.h"
#include "common/ids.h"
#include "coordinator/service/config.h"
#include "tests/fuzz/scratch.h"

using heddle::fuzz::Require;
using namespace heddle;

namespace {

// Loads the text, and what the result prints of itself.
template <typename Config>
std::optional<Config> LoadTwice(const fuzz::Scratch& scratch, std::string_view text) {
  auto config = Config::Load(scratch.Write("settings.toml", text), {});
  if (!config.ok()) {
    Require(config.status().code() == Code::kInvalidArgument, "a refusal is an invalid argument",
            config.status().ToString());
    Require(!config.status().message().empty(), "a refusal says why");
    return std::nullopt;
  }
  const auto again = Config::Load(scratch.Write("settings.toml", config->resolved), {});
  Require(again.ok(), "what is printed can be read", config->resolved + again.status().message());
  return *std::move(config);
}

void CheckCoordinator(const fuzz::Scratch& scratch, std::string_view text) {
  const auto config = LoadTwice<coordinator::CoordinatorConfig>(scratch, text);
  if (!config) return;
  Require(config->listen_port <= 65535 && config->admin_port <= 65535, "ports are ports");
  Require(config->admin_address == "127.0.0.1" || config->admin_address == "::1", "the API stays on this machine");
  Require(config->max_connections >= 1 && config->max_upload_bytes >= 1 && config->validation_bytes_in_flight >= 1,
          "no limit shuts everybody out");
  Require(config->threads >= 1 && config->threads <= 256 && config->aggregation_threads >= 1, "there are threads");
  Require(Seconds(config->device_certificate_days * 86400) > Duration(0) &&
              Seconds(config->token_hours * 3600) > Duration(0) && Seconds(config->shutdown_grace_s) >= Duration(0) &&
              Seconds(config->stale_upload_hours * 3600) > Duration(0),
          "times are times");
  Require(!config->state_dir.empty() && !config->server_names.empty(), "what must be said is said");
}

void CheckClient(const fuzz::Scratch& scratch, std::string_view text) {
  const auto config = LoadTwice<client::ClientConfig>(scratch, text);
  if (!config) return;
  Require(!config->host.empty() && !config->state_dir.empty(), "what must be said is said");
  Require(config->device_name.empty() || IsValidDeviceName(config->device_name), "a device's name is one");
  Require(config->backoff_base >= Duration(0) && config->backoff_max >= Duration(0) &&
              config->worker_keep_alive >= Duration(0) && config->eligibility.interval > Duration(0),
          "times are times");
  Require(config->memory_limit_bytes % (1 << 20) == 0, "a limit in megabytes is whole");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 8192) return 0;  // as fuzz_config
  static const fuzz::Scratch scratch;
  fuzz::Input input(data, size);
  const bool of_client = input.TakeByte() % 2 == 1;
  of_client ? CheckClient(scratch, input.rest()) : CheckCoordinator(scratch, input.rest());
  return 0;
}
