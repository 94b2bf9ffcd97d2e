// What devices may ask: enrol, check in, fetch, upload, report (docs/protocol.md). Each request is authenticated by its
// certificate, checked against limits.h, and answered or refused with a typed reason.
//
// Thread-safety: Handle may run for many exchanges at once, on the server's threads.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>

#include "common/safetensors.h"
#include "coordinator/audit/audit_trail.h"
#include "coordinator/service/config.h"
#include "coordinator/service/device_directory.h"
#include "coordinator/service/device_limits.h"
#include "coordinator/service/metrics.h"
#include "coordinator/service/retry_spread.h"
#include "coordinator/service/run_driver.h"
#include "coordinator/service/updates_in_use.h"
#include "coordinator/store/blob_store.h"
#include "coordinator/store/store.h"
#include "protocol/refusal.h"
#include "protocol/transport/server.h"
#include "protocol/transport/tls.h"

namespace heddle::coordinator {

// Lets work through while the bytes it declares fit; work larger than the whole goes alone. Blocks its caller, so a
// Hold must not be kept over a co_await: where one thread drives everything, none would be there to give it back.
class ByteBudget {
 public:
  explicit ByteBudget(uint64_t bytes) : free_(bytes), total_(bytes) {}
  class Hold {
   public:
    Hold(ByteBudget& budget, uint64_t bytes);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    ByteBudget& budget_;
    uint64_t bytes_;
  };

 private:
  std::mutex mutex_;
  std::condition_variable freed_;
  uint64_t free_, total_;
};

struct DeviceApiContext {
  const CoordinatorConfig* config = nullptr;
  Store* store = nullptr;
  BlobStore* blobs = nullptr;
  RunDriver* driver = nullptr;
  DeviceDirectory* directory = nullptr;
  Metrics* metrics = nullptr;
  const Clock* clock = nullptr;
  AuditTrail* audit = nullptr;                                // null: nothing is audited (tests, simulations)
  const protocol::CertificateAuthority* authority = nullptr;  // null with plain TCP
  boost::asio::any_io_executor disk;                          // of threads for fsync and the database
  boost::asio::any_io_executor check;                         // of threads that look at updates
  std::function<void(const std::string& serial)> close_connections;
};

// Life cycle: outlives its requests and the driver, whose answers hold on to updates (updates_in_use.h).
class DeviceApi {
 public:
  explicit DeviceApi(DeviceApiContext context);
  protocol::Awaitable<void> Handle(protocol::Exchange& exchange);

 private:
  using Exchange = protocol::Exchange;
  template <typename T>
  using Awaitable = protocol::Awaitable<T>;

  struct Refused {
    v1::RefusalReason reason = v1::REFUSAL_REASON_INTERNAL;
    std::string message;
    Duration retry_after{0};
    protocol::Headers headers;
  };

  Result<DeviceId> Authenticate(const Exchange& exchange) const;
  Awaitable<void> Dispatch(Exchange& exchange);
  Awaitable<void> Route(Exchange& exchange, DeviceId device);

  // The token used up and the device's row made, audited. `replaced`: the serial of its certificate before, if any.
  Status Redeem(const Sha256Digest& token, const DeviceRecord& record, const std::string& from, std::string* replaced);
  Awaitable<void> Enroll(Exchange& exchange);
  Awaitable<void> Checkin(Exchange& exchange, DeviceId device);
  // What the device said that it has is left out, and what changes its ledger put in.
  void Shorten(const v1::CheckinRequest& request, v1::TaskAssignment* assignment);
  Awaitable<void> GetBlob(Exchange& exchange, std::string_view hex);
  Awaitable<void> GetPatch(Exchange& exchange, DeviceId device, std::string_view hex, std::string_view from_hex);
  Awaitable<void> GetWeights(Exchange& exchange, std::string_view hex);
  Result<std::string> MakePatch(const Sha256Digest& from, const Sha256Digest& to) const;
  Awaitable<void> BeginUpload(Exchange& exchange, DeviceId device);
  Awaitable<void> UploadOffset(Exchange& exchange, DeviceId device, std::string id);
  Awaitable<void> ContinueUpload(Exchange& exchange, DeviceId device, std::string id);
  Awaitable<void> Report(Exchange& exchange, DeviceId device);

  // The device's upload of this id, or nothing and what to refuse with.
  std::unique_ptr<Upload> FindOwnUpload(const DeviceId& device, const std::string& id, Refused* refused);
  Awaitable<void> ReceiveInto(Exchange& exchange, Upload& upload, uint64_t position, unsigned status,
                              protocol::Headers headers);
  Awaitable<Status> CheckUpdate(const v1::ReportRequest& request, InlineContent content, ReportEvent* event,
                                bool* looked_at, UpdatesInUse::Hold* hold);
  // The update's file as tensors: from the report itself, or from what was uploaded for its assignment. Errors:
  // kNotFound when it was not, by this device for this assignment.
  Result<StateDict> OpenUpdate(const RunDriver::Expectation& expected, const v1::ReportRequest& request,
                               const InlineContent& content, ReportEvent* event);

  // For what goes beyond a device's or an address's share; `limit` is its label in the metrics.
  Awaitable<void> RefuseLimited(Exchange& exchange, std::string_view limit, std::string message, Duration retry_after);
  // In the metrics and the audit log.
  void CountRefused(const Exchange& exchange, v1::RefusalReason reason, const std::string& message) const;
  Awaitable<void> Refuse(Exchange& exchange, Refused refused);
  // For what failed here: kPermissionDenied is our own disk's, and "come back later" for the device.
  Awaitable<void> RefuseStatus(Exchange& exchange, const Status& status);
  // For what is wrong with the device itself: kPermissionDenied means that it was revoked.
  Awaitable<void> RefuseDevice(Exchange& exchange, const Status& status);
  // For a body that could not be read.
  protocol::Awaitable<void> RefuseBody(protocol::Exchange& exchange, const Status& status);
  Awaitable<void> Answer(Exchange& exchange, unsigned status, std::string body);

  DeviceApiContext context_;
  RetrySpread retry_spread_{"device api"};
  ByteBudget validation_;
  DeviceLimits limits_;
  UpdatesInUse in_use_;
};

}  // namespace heddle::coordinator
