// The client daemon: carries out what the session (session.h) decides.
//
// One thread, one io_context. Life cycle: Open, Run (blocks until a stop, a fatal answer or max_tasks), destroy.
// state_dir holds device.key, device.crt, ca.crt, lock, journal, cache/ and work/.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "client/daemon/config.h"
#include "common/status.h"

namespace heddle::client {

struct DaemonOptions {
  bool insecure = false;        // plain TCP, towards loopback only
  std::string insecure_device;  // overrides device.name
  uint64_t max_tasks = 0;       // stop after so many reported tasks; 0: never
  bool handle_signals = true;   // SIGTERM and SIGINT stop it
  Duration shutdown_grace = Seconds(10);
};

class Daemon {
 public:
  // Takes the lock, reads identity and journal. Errors: kFailedPrecondition (another daemon uses state_dir; not
  // enrolled; --insecure towards another machine), kInvalidArgument (identity, configuration), those of the disk.
  static Result<std::unique_ptr<Daemon>> Open(const ClientConfig& config, const DaemonOptions& options);
  ~Daemon();

  // ok: stopped cleanly. Errors: what the session stopped for.
  Status Run();
  // As SIGTERM. Any thread.
  void RequestStop();
  // Tasks reported so far; after Run.
  uint64_t tasks_reported() const;

 private:
  struct Impl;
  explicit Daemon(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// True for 127.0.0.0/8, ::1 and "localhost".
bool IsLoopback(const std::string& host);

}  // namespace heddle::client
