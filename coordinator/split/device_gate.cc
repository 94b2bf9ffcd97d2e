#include "coordinator/split/device_gate.h"

#include "common/clock.h"
#include "common/logging.h"

namespace heddle::coordinator {

Result<std::unique_ptr<DeviceGate>> DeviceGate::Open(const std::filesystem::path& database, Duration interval) {
  std::error_code error;
  if (!std::filesystem::exists(database, error)) {
    return NotFound("there is no database of a coordinator at " + database.string());
  }
  HEDDLE_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, Store::Open(database));
  std::unique_ptr<DeviceGate> gate(new DeviceGate(std::move(store), interval));
  HEDDLE_RETURN_IF_ERROR(gate->directory_.Load(*gate->store_));
  gate->thread_ = std::thread([gate = gate.get()] { gate->Follow(); });
  return gate;
}

DeviceGate::DeviceGate(std::unique_ptr<Store> store, Duration interval)
    : store_(std::move(store)), interval_(interval) {}

DeviceGate::~DeviceGate() {
  {
    std::lock_guard lock(mutex_);
    end_ = true;
  }
  ending_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Status DeviceGate::Admits(const protocol::Peer& peer) const {
  return directory_.Authenticate(peer, SystemClock().Now()).status();
}

void DeviceGate::Follow() {
  bool readable = true;
  std::unique_lock lock(mutex_);
  while (!ending_.wait_for(lock, interval_, [this] { return end_; })) {
    lock.unlock();
    const Status loaded = directory_.Load(*store_);
    if (!loaded.ok() && readable) {
      Log(Severity::kError, "who is enrolled cannot be read; what was read last holds", {{"why", loaded.message()}});
    }
    readable = loaded.ok();
    lock.lock();
  }
}

}  // namespace heddle::coordinator
