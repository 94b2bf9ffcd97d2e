#include "coordinator/service/device_directory.h"

#include <mutex>

#include "common/test_hooks.h"

namespace heddle::coordinator {

Status DeviceDirectory::Load(Store& store) {
  HEDDLE_ASSIGN_OR_RETURN(std::vector<DeviceRecord> devices, store.ListDevices());
  std::unique_lock lock(mutex_);
  devices_.clear();
  for (DeviceRecord& device : devices) devices_.emplace(device.device.value(), std::move(device));
  return OkStatus();
}

Result<DeviceId> DeviceDirectory::Authenticate(const protocol::Peer& peer, Time now) const {
  if (!peer.authenticated) {
    return Unauthenticated("this path needs a client certificate of this coordinator; enrol the device first");
  }
  std::shared_lock lock(mutex_);
  auto found = devices_.find(peer.device);
  if (found == devices_.end()) return Unauthenticated("the device '" + peer.device + "' is not enrolled here");
  if (found->second.revoked_at) return PermissionDenied("the device '" + peer.device + "' was revoked");
  if (found->second.serial != peer.serial_hex && !HEDDLE_PLANTED(kIgnoreSerial)) {
    return Unauthenticated("the device '" + peer.device +
                           "' has enrolled again; this certificate has been replaced by a newer one");
  }
  if (found->second.not_after <= now) {
    return Unauthenticated("the certificate of the device '" + peer.device + "' has expired; enrol it again");
  }
  return found->second.device;
}

void DeviceDirectory::Put(const DeviceRecord& device) {
  std::unique_lock lock(mutex_);
  devices_[device.device.value()] = device;
}

std::string DeviceDirectory::Revoke(const DeviceId& device, Time now) {
  std::unique_lock lock(mutex_);
  auto found = devices_.find(device.value());
  if (found == devices_.end()) return "";
  if (!found->second.revoked_at) found->second.revoked_at = now;
  return found->second.serial;
}

size_t DeviceDirectory::enrolled() const {
  std::shared_lock lock(mutex_);
  size_t count = 0;
  for (const auto& [name, device] : devices_) count += device.revoked_at ? 0 : 1;
  return count;
}

}  // namespace heddle::coordinator
