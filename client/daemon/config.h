// client.toml.
//
// Thread-safety: a value.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "client/daemon/eligibility.h"
#include "common/clock.h"
#include "common/logging.h"
#include "common/status.h"
#include "protocol/limits.h"
#include "protocol/v1/worker.pb.h"

namespace heddle::client {

struct ClientConfig {
  std::string host;
  uint16_t port = 7443;
  std::string server_name;  // empty: host
  uint64_t inline_update_bytes = protocol::kMaxInlineUpdateBytes;
  std::string device_name;  // with --insecure only
  std::filesystem::path state_dir;
  std::filesystem::path data_path;
  v1::DataFields data_fields;           // how it calls what an example is made of
  std::filesystem::path worker_binary;  // empty: heddle-worker beside this program
  uint32_t max_threads = 0;             // 0: as the plan says
  uint64_t memory_limit_bytes = 0;      // 0: none
  uint64_t max_replayed_directions = 1 << 16;
  std::string worker_device = "cpu";  // or "cuda"
  Duration worker_keep_alive{0};
  int nice = 10;
  uint64_t cache_max_bytes = uint64_t{8} << 30;
  EligibilityOptions eligibility;
  LogOptions log;
  Duration backoff_base = Seconds(0.5), backoff_max = Seconds(300);

  std::string resolved;  // "key = value  # source" lines

  // Errors: kNotFound, kInvalidArgument with every mistake on a line of its own.
  static Result<ClientConfig> Load(const std::filesystem::path& file, const std::map<std::string, std::string>& flags);
  // Table of keys, types, defaults and help.
  static std::string Describe();
};

// heddle-worker beside this program, or as PATH finds it.
std::filesystem::path DefaultWorkerBinary();

}  // namespace heddle::client
