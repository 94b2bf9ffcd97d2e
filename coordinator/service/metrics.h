// What /metrics shows, in Prometheus' text format: names and units after its conventions, no label that grows with
// devices. prometheus-cpp stays in metrics.cc.
//
// Thread-safety: every method from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "coordinator/service/run_files.h"
#include "protocol/transport/server.h"

namespace heddle::coordinator {

class Metrics {
 public:
  Metrics();
  ~Metrics();

  // Counters.
  void CountRequest(std::string_view endpoint, unsigned status);  // `endpoint` is one of a fixed set
  void CountCheckin(std::string_view result);                     // assigned, rejected, too_little_memory
  void CountUpdate(std::string_view verdict);                     // accepted, late, invalid, superseded, noted
  void CountRefusal(std::string_view reason);                     // ReasonName()
  void CountAdminRefusal(std::string_view code);                  // CodeName(), of the loopback API
  void CountLimited(std::string_view limit);  // requests, bytes_in_flight, unfinished_uploads, bad_tokens
  // Of an accepted report: directions that a device skipped, and whether its loss did not fall.
  void CountZerothOrder(uint64_t skipped_directions, bool loss_stalled);
  void CountPseudoLabels(uint64_t examples);  // of an accepted report
  void AddTraffic(uint64_t received, uint64_t sent);
  // `train_loss`: none where no device took a step; the gauge then stays.
  void RoundEnded(bool committed, double seconds, std::optional<double> train_loss, uint32_t round);
  void ObserveUpdateBytes(uint64_t bytes);
  // Body bytes since the program started.
  Traffic traffic() const;

  // What is looked up when it is asked for.
  struct Gauges {
    protocol::ServerStats server;
    uint64_t audit_lines = 0, audit_failures = 0, audit_last_sequence = 0;
    uint64_t devices_enrolled = 0, polls_waiting = 0, blob_bytes = 0, uploads_unfinished = 0;
    uint64_t folders_incomplete = 0;
    bool run_active = false, loss_stalled = false, storage_failing = false;
    uint32_t round = 0;
  };
  std::string Text(const Gauges& gauges);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace heddle::coordinator
