// Which certificates are good: the devices' rows in memory, so that no request waits for the database.
//
// Thread-safety: every method from any thread. The writer of the rows (enrolment, revocation) tells it here.
#pragma once

#include <map>
#include <mutex>
#include <shared_mutex>
#include <string>

#include "common/status.h"
#include "coordinator/store/store.h"
#include "protocol/transport/server.h"

namespace heddle::coordinator {

class DeviceDirectory {
 public:
  Status Load(Store& store);

  // The device that a request acts for: its certificate says it, never its message. Errors: kUnauthenticated (no
  // certificate of ours, one that a newer enrolment has replaced, or one that has expired since the connection began);
  // kPermissionDenied (revoked).
  Result<DeviceId> Authenticate(const protocol::Peer& peer, Time now) const;

  // Held by whoever writes a device's row and then tells it here, so that the two are always of one mind.
  std::mutex& writing() { return writing_; }
  void Put(const DeviceRecord& device);
  // The serial of its certificate; empty when the device is not known.
  std::string Revoke(const DeviceId& device, Time now);
  size_t enrolled() const;  // not revoked

 private:
  std::mutex writing_;
  mutable std::shared_mutex mutex_;
  std::map<std::string, DeviceRecord, std::less<>> devices_;
};

}  // namespace heddle::coordinator
