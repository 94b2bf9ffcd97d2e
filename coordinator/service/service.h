// The coordinator's process in one object: database, blobs, the run's thread, the devices' TLS listener, the loopback
// listener for metrics, health and administration.
//
// Life cycle: Start (locks the state folder, takes up the active run, opens the listeners: a device's request is
// answered from then on); Stop (waiting devices hear SHUTTING_DOWN, open requests get their grace, the run is on disk);
// destroy. Thread-safety: Start, Stop and ReloadTls from one thread.
#pragma once

#include <cstdint>
#include <memory>

#include "common/status.h"
#include "coordinator/service/config.h"

namespace heddle::coordinator {

struct ServiceOptions {
  bool insecure = false;  // plain TCP; the listen address must be a loopback one
};

class Service {
 public:
  // Errors: kFailedPrecondition (another coordinator has the state folder; not initialised; a newer schema),
  // kAlreadyExists (a port is in use), kInvalidArgument (addresses, certificates), those of the store.
  static Result<std::unique_ptr<Service>> Start(CoordinatorConfig config, ServiceOptions options = {});
  ~Service();

  void Stop();
  // Reads the server's certificate anew, for connections from now on. Errors leave the old one in use; one is that the
  // audit log cannot be written.
  Status ReloadTls();

  uint16_t device_port() const;
  uint16_t admin_port() const;

 private:
  struct Impl;
  explicit Service(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Audited. Makes the state folder, the authority and the server's certificate. Errors: kAlreadyExists when there is an
// authority.
Status InitCoordinator(const CoordinatorConfig& config);

}  // namespace heddle::coordinator
