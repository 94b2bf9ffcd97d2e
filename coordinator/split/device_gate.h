// Which devices the split server hears: those that the coordinator has enrolled and not revoked, with their newest
// certificate, by the coordinator's own database.
//
// Life cycle: Open; the database is read again every second by a thread that ends with the gate. While it cannot be
// read what was read last holds, and the log says so once. Thread-safe.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <thread>

#include "common/status.h"
#include "coordinator/service/device_directory.h"

namespace heddle::coordinator {

class DeviceGate {
 public:
  // Errors: kNotFound when there is no such file; those of Store::Open.
  static Result<std::unique_ptr<DeviceGate>> Open(const std::filesystem::path& database,
                                                  Duration interval = Seconds(1));
  ~DeviceGate();

  // Errors: those of DeviceDirectory::Authenticate.
  Status Admits(const protocol::Peer& peer) const;

 private:
  DeviceGate(std::unique_ptr<Store> store, Duration interval);
  void Follow();

  const std::unique_ptr<Store> store_;
  const Duration interval_;
  DeviceDirectory directory_;
  std::mutex mutex_;
  std::condition_variable ending_;
  bool end_ = false;
  std::thread thread_;
};

}  // namespace heddle::coordinator
