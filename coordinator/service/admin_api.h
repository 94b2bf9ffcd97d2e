// The loopback listener: /metrics, /healthz, /readyz, and the JSON API that `heddle` and scripts use
// (docs/openapi.yaml). Reading needs nothing but to be on this machine; changing something needs the bearer token of
// <state_dir>/admin.token, which only the coordinator's user can read (another user of the machine, or a web page in a
// browser, cannot). A request whose Host is not this machine's own name, or that a page of another origin made a
// browser send, is refused whatever it asks: a page that rebinds its name to 127.0.0.1 must not even read.
//
// Whatever changes something is in the audit log before it is done, and its outcome before it is answered; when the log
// cannot be written, nothing is changed. A refused request is counted in the metrics, and in the log unless it is there
// as an act or only asked to read what is not there.
//
// Thread-safety: as DeviceApi.
#pragma once

#include <atomic>
#include <boost/asio/thread_pool.hpp>
#include <boost/json/fwd.hpp>
#include <functional>
#include <string>

#include "coordinator/audit/audit_trail.h"
#include "coordinator/service/config.h"
#include "coordinator/service/device_directory.h"
#include "coordinator/service/metrics.h"
#include "coordinator/service/run_driver.h"
#include "protocol/transport/server.h"

namespace heddle::coordinator {

struct AdminApiContext {
  const CoordinatorConfig* config = nullptr;
  Store* store = nullptr;
  BlobStore* blobs = nullptr;
  RunDriver* driver = nullptr;
  DeviceDirectory* directory = nullptr;
  Metrics* metrics = nullptr;
  const Clock* clock = nullptr;
  AuditTrail* audit = nullptr;  // null: nothing is audited (tests)
  boost::asio::any_io_executor disk;
  boost::asio::any_io_executor watch;  // of threads that wait for changes
  std::function<protocol::ServerStats()> server_stats;
  std::function<void(const std::string& serial)> close_connections;
  const std::atomic<bool>* ready = nullptr;
  std::string token;
};

class AdminApi {
 public:
  explicit AdminApi(AdminApiContext context) : context_(std::move(context)) {}
  protocol::Awaitable<void> Handle(protocol::Exchange& exchange);

 private:
  struct Reply {
    unsigned status = 200;
    std::string type = "application/json";
    std::string body;
    Status refusal = {};  // what a Problem tells
  };
  struct Caller {
    std::string address;
    bool acted = false;  // the audit log has the beginning of an act of this request
  };
  // Blocking; on the disk or watch pool.
  Reply Route(const std::string& method, const std::string& path, const std::string& body, Caller& caller,
              uint64_t seen, Duration timeout);
  // Counts the answer where it refuses, and has it in the audit log unless it only reads or is in it as an act.
  void NoteRefusal(const Reply& reply, const Caller& caller, bool reading);
  // An act of the administrator, audited.
  Status Act(AuditKind kind, const std::string& object, Caller& caller,
             const std::function<Status(AuditEvent& event)>& act);
  Reply ListRuns();
  Reply ShowRun(const RunId& id);
  // Where the run's folder is, and what is wrong with it.
  void AddFolder(const RunId& id, boost::json::object* run);
  Reply ListRounds(const RunId& id);
  Reply Watch(const RunId& id, uint64_t seen, Duration timeout);
  Reply Submit(const std::string& body, Caller& caller);
  Reply StopRun(const RunId& id, Caller& caller);
  Reply ListDevices();
  Reply Revoke(const DeviceId& device, Caller& caller);
  Reply Config();
  Reply MetricsText();
  static Reply Problem(const Status& status);
  static Reply Problem(unsigned http_status, const Status& status);

  AdminApiContext context_;
};

}  // namespace heddle::coordinator
