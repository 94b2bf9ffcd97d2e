// coordinator.toml. A value; keys and defaults are in config.cc and printed by `heddle config show`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/logging.h"
#include "common/status.h"

namespace heddle::coordinator {

struct CoordinatorConfig {
  // [listen]: the devices' listener.
  std::string listen_address = "0.0.0.0";
  uint64_t listen_port = 7443;                                         // 0: any free one, written to port_file
  std::vector<std::string> server_names = {"localhost", "127.0.0.1"};  // in the server's certificate
  std::string listen_port_file;
  // [admin]: metrics, health and the API of `heddle`; loopback only.
  std::string admin_address = "127.0.0.1";
  uint64_t admin_port = 7480;
  std::string admin_port_file;
  // [storage]
  std::string state_dir = "/var/lib/heddle";
  uint64_t keep_update_rounds = 0;                // accepted updates of older rounds are deleted; 0: none
  uint64_t min_free_bytes = uint64_t{256} << 20;  // no upload begins that would leave less room on the disk
  // [limits]
  uint64_t max_connections = 10'000;
  uint64_t max_connections_per_address = 512;  // an IPv4 address or an IPv6 /64; 0: no limit
  uint64_t max_handshakes = 1000;              // at one time
  double handshake_timeout_s = 10;
  double header_timeout_s = 30;       // from a request's first byte to the end of its head
  double keep_alive_timeout_s = 120;  // between requests
  double body_idle_timeout_s = 60;
  uint64_t min_body_bytes_per_s = 1024;  // on average, after one body_idle_timeout_s
  double device_requests_per_s = 100;    // of one device; 0: no limit
  double device_request_burst = 1000;
  uint64_t device_bytes_in_flight = uint64_t{4} << 20;     // of one device's bodies, in memory
  uint64_t max_device_uploads = 8;                         // unfinished ones of one device; 0: no limit
  uint64_t max_device_upload_bytes = uint64_t{8} << 30;    // their declared sizes; 0: no limit
  double bad_tokens_per_minute = 20;                       // from one address; 0: no limit
  uint64_t max_upload_bytes = uint64_t{4} << 30;           // one upload
  uint64_t max_pending_upload_bytes = uint64_t{64} << 30;  // declared by all unfinished ones
  double stale_upload_hours = 24;                          // unfinished ones without growth are discarded
  double device_certificate_days = 365;
  double token_hours = 24;
  double shutdown_grace_s = 10;
  uint64_t validation_bytes_in_flight = uint64_t{32} << 20;  // updates looked at at one time
  // [log] and the rest
  LogOptions log;
  uint64_t threads = 0;              // io threads; 0: the machine's cores, at most 8
  uint64_t aggregation_threads = 0;  // 0: the machine's cores, at most 8
  std::string resolved;              // as ConfigSchema::ShowResolved

  std::filesystem::path database() const { return std::filesystem::path(state_dir) / "coordinator.db"; }
  std::filesystem::path pki() const { return std::filesystem::path(state_dir) / "pki"; }
  std::filesystem::path runs() const { return std::filesystem::path(state_dir) / "runs"; }
  std::filesystem::path audit() const { return std::filesystem::path(state_dir) / "audit"; }
  std::filesystem::path admin_token() const { return std::filesystem::path(state_dir) / "admin.token"; }

  // Errors: kNotFound, kInvalidArgument (every mistake at once).
  static Result<CoordinatorConfig> Load(const std::filesystem::path& path,
                                        const std::map<std::string, std::string>& overrides);
  // Keys, types, defaults and help.
  static std::string Describe();
};

}  // namespace heddle::coordinator
