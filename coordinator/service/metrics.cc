#include "coordinator/service/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <filesystem>
#include <mutex>

#include "common/build_info.h"
#include "common/clock.h"
#include "common/subprocess.h"
#include "coordinator/service/run_json.h"

namespace heddle::coordinator {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;

template <typename Builder>
auto& Named(Builder builder, const char* name, const char* help, prometheus::Registry& registry) {
  return builder.Name(name).Help(help).Register(registry);
}

double ProcessCpuSeconds() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

double OpenFileDescriptors() {
  std::error_code error;
  double count = 0;
  for (std::filesystem::directory_iterator it("/proc/self/fd", error), end; !error && it != end; it.increment(error)) {
    ++count;
  }
  return count;
}

}  // namespace

struct Metrics::Impl {
  prometheus::Registry registry;

  Family<Counter>& Counters(const char* name, const char* help) {
    return Named(prometheus::BuildCounter(), name, help, registry);
  }
  Gauge& OneGauge(const char* name, const char* help) {
    return Named(prometheus::BuildGauge(), name, help, registry).Add({});
  }

  Family<Counter>& requests = Counters("heddle_http_requests_total", "Requests of devices by endpoint and status.");
  Family<Counter>& checkins = Counters("heddle_client_checkins_total", "Check-ins by their answer.");
  Family<Counter>& updates = Counters("heddle_client_updates_total", "Reports by their verdict.");
  Family<Counter>& refusals = Counters("heddle_refusals_total", "Refused requests and updates by reason.");
  Family<Counter>& admin_refusals =
      Counters("heddle_admin_refusals_total", "Refused requests of the loopback API by code.");
  Family<Counter>& limited =
      Counters("heddle_limited_requests_total", "Requests refused because one device or address asked for too much.");
  Family<Counter>& connections_refused =
      Counters("heddle_connections_refused_total", "Connections of devices that were not let in, by the limit.");
  Family<Counter>& connections_timed_out =
      Counters("heddle_connections_timed_out_total", "Connections of devices ended for being slow, by what was slow.");
  Family<Counter>& heads_refused =
      Counters("heddle_heads_refused_total", "Requests refused by their head, before any handler, by reason.");
  Counter& failures =
      Counters("heddle_request_failures_total", "Requests that ended by a fault of the coordinator's own code.")
          .Add({});
  Family<Counter>& rounds = Counters("heddle_rounds_total", "Ended round attempts by outcome.");
  Counter& skipped_directions =
      Counters("heddle_zeroth_order_skipped_directions_total",
               "Directions of accepted updates whose losses were not finite or too far apart.")
          .Add({});
  Counter& stalled =
      Counters("heddle_zeroth_order_stalled_total", "Accepted updates of zeroth-order tasks whose loss did not fall.")
          .Add({});
  Counter& pseudo_labels =
      Counters("heddle_pseudo_labels_total", "Examples that devices had labelled themselves, of accepted updates.")
          .Add({});
  Counter& received = Counters("heddle_network_receive_bytes_total", "Body bytes from devices.").Add({});
  Counter& sent = Counters("heddle_network_transmit_bytes_total", "Body bytes to devices.").Add({});
  prometheus::Histogram& round_seconds =
      Named(prometheus::BuildHistogram(), "heddle_round_duration_seconds", "Time from a round's start to its end.",
            registry)
          .Add({}, prometheus::Histogram::BucketBoundaries{0.01, 0.1, 1, 10, 60, 300, 1800, 7200, 43200});
  prometheus::Histogram& update_bytes =
      Named(prometheus::BuildHistogram(), "heddle_update_size_bytes", "Sizes of reported updates.", registry)
          .Add({}, prometheus::Histogram::BucketBoundaries{1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9});
  Gauge& round = OneGauge("heddle_round_current", "The round being run; 0 without a run.");
  Gauge& run_active = OneGauge("heddle_run_active", "1 while a run is active.");
  Gauge& storage_failing =
      OneGauge("heddle_run_storage_failing", "1 while the active run stands still because the storage failed.");
  Gauge& train_loss =
      OneGauge("heddle_round_train_loss", "Mean training loss of the newest committed round, nats a token.");
  Gauge& loss_stalled = OneGauge("heddle_round_train_loss_stalled",
                                 "1 while the training loss of the run's last committed rounds does not fall.");
  Gauge& connected = OneGauge("heddle_clients_connected", "Open connections of devices.");
  Gauge& waiting = OneGauge("heddle_clients_waiting", "Check-ins that wait for work.");
  Gauge& enrolled = OneGauge("heddle_clients_enrolled", "Enrolled devices, without revoked ones.");
  Gauge& blob_bytes = OneGauge("heddle_blob_bytes", "Bytes of stored blobs.");
  Gauge& uploads = OneGauge("heddle_uploads_unfinished", "Uploads that are not finished.");
  Gauge& folders_incomplete =
      OneGauge("heddle_run_folders_incomplete", "Runs whose folder lacks something that could not be written.");
  Gauge& handshakes_failed = OneGauge("heddle_tls_handshakes_failed", "TLS handshakes that failed since the start.");
  Gauge& audit_lines = OneGauge("heddle_audit_lines_total", "Lines written to the audit log since the start.");
  Gauge& audit_failures = OneGauge("heddle_audit_failures_total", "Times the audit log could not be written.");
  Gauge& audit_last =
      OneGauge("heddle_audit_last_sequence", "Number of the audit log's newest line; it never goes back.");
  Gauge& cpu = OneGauge("process_cpu_seconds_total", "Processor time of this process.");
  Gauge& memory = OneGauge("process_resident_memory_bytes", "Resident memory of this process.");
  Gauge& fds = OneGauge("process_open_fds", "Open file descriptors of this process.");
  Gauge& start = OneGauge("process_start_time_seconds", "Start of this process, Unix time.");
  std::atomic<uint64_t> up{0}, down{0};
  std::mutex showing;  // two scrapes must not both add what is new

  void ShowConnections(const protocol::ServerStats& server);
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {
  Named(prometheus::BuildGauge(), "heddle_build_info", "What runs; always 1.", impl_->registry)
      .Add({{"version", std::string(VersionString())}})
      .Set(1);
  impl_->start.Set(UnixSeconds(SystemClock().Now()));
  // Known from the first scrape on, so that a rate over them is never missing.
  for (const char* verdict : {"accepted", "late", "invalid", "superseded", "noted"}) {
    impl_->updates.Add({{"result", verdict}});
  }
  for (const char* result : {"assigned", "rejected"}) impl_->checkins.Add({{"result", result}});
  for (const char* outcome : {"committed", "abandoned"}) impl_->rounds.Add({{"outcome", outcome}});
  for (const char* limit : {"requests", "bytes_in_flight", "unfinished_uploads", "bad_tokens"}) {
    impl_->limited.Add({{"limit", limit}});
  }
}

Metrics::~Metrics() = default;

void Metrics::CountRequest(std::string_view endpoint, unsigned status) {
  impl_->requests.Add({{"endpoint", std::string(endpoint)}, {"status", std::to_string(status)}}).Increment();
}

void Metrics::CountCheckin(std::string_view result) {
  impl_->checkins.Add({{"result", std::string(result)}}).Increment();
}

void Metrics::CountUpdate(std::string_view verdict) {
  impl_->updates.Add({{"result", std::string(verdict)}}).Increment();
}

void Metrics::CountRefusal(std::string_view reason) {
  impl_->refusals.Add({{"reason", std::string(reason)}}).Increment();
}

void Metrics::CountAdminRefusal(std::string_view code) {
  impl_->admin_refusals.Add({{"code", std::string(code)}}).Increment();
}

void Metrics::CountLimited(std::string_view limit) { impl_->limited.Add({{"limit", std::string(limit)}}).Increment(); }

void Metrics::CountZerothOrder(uint64_t skipped_directions, bool loss_stalled) {
  if (skipped_directions > 0) impl_->skipped_directions.Increment(static_cast<double>(skipped_directions));
  if (loss_stalled) impl_->stalled.Increment();
}

void Metrics::CountPseudoLabels(uint64_t examples) {
  if (examples > 0) impl_->pseudo_labels.Increment(static_cast<double>(examples));
}

void Metrics::AddTraffic(uint64_t received, uint64_t sent) {
  impl_->up += received;
  impl_->down += sent;
  impl_->received.Increment(static_cast<double>(received));
  impl_->sent.Increment(static_cast<double>(sent));
}

void Metrics::RoundEnded(bool committed, double seconds, std::optional<double> train_loss, uint32_t round) {
  impl_->rounds.Add({{"outcome", committed ? "committed" : "abandoned"}}).Increment();
  impl_->round_seconds.Observe(seconds);
  if (committed && train_loss) impl_->train_loss.Set(*train_loss);
  impl_->round.Set(round);
}

void Metrics::ObserveUpdateBytes(uint64_t bytes) { impl_->update_bytes.Observe(static_cast<double>(bytes)); }

Traffic Metrics::traffic() const { return {.down = impl_->down, .up = impl_->up}; }

void Metrics::Impl::ShowConnections(const protocol::ServerStats& server) {
  const auto raise = [](Counter& counter, uint64_t count) {
    counter.Increment(std::max(0.0, static_cast<double>(count) - counter.Value()));
  };
  const auto show = [&raise](Family<Counter>& family, const char* label, const char* value, uint64_t count) {
    raise(family.Add({{label, value}}), count);
  };
  std::lock_guard lock(showing);
  show(connections_refused, "limit", "connections", server.refused_full);
  show(connections_refused, "limit", "address", server.refused_address);
  show(connections_refused, "limit", "handshakes", server.refused_handshakes);
  show(connections_timed_out, "phase", "handshake", server.late_handshakes);
  show(connections_timed_out, "phase", "header", server.late_heads);
  show(connections_timed_out, "phase", "body", server.late_bodies);
  show(connections_timed_out, "phase", "idle", server.idle_ended);
  show(heads_refused, "reason", "MALFORMED", server.malformed_heads);
  show(heads_refused, "reason", "TOO_LARGE", server.large_heads);
  raise(failures, server.failures);
}

std::string Metrics::Text(const Gauges& gauges) {
  Impl& m = *impl_;
  m.ShowConnections(gauges.server);
  m.round.Set(gauges.run_active ? gauges.round : 0);
  m.run_active.Set(gauges.run_active ? 1 : 0);
  m.storage_failing.Set(gauges.storage_failing ? 1 : 0);
  m.loss_stalled.Set(gauges.run_active && gauges.loss_stalled ? 1 : 0);
  m.connected.Set(static_cast<double>(gauges.server.connections_open));
  m.handshakes_failed.Set(static_cast<double>(gauges.server.handshakes_failed));
  m.waiting.Set(static_cast<double>(gauges.polls_waiting));
  m.enrolled.Set(static_cast<double>(gauges.devices_enrolled));
  m.blob_bytes.Set(static_cast<double>(gauges.blob_bytes));
  m.uploads.Set(static_cast<double>(gauges.uploads_unfinished));
  m.folders_incomplete.Set(static_cast<double>(gauges.folders_incomplete));
  m.audit_lines.Set(static_cast<double>(gauges.audit_lines));
  m.audit_failures.Set(static_cast<double>(gauges.audit_failures));
  m.audit_last.Set(static_cast<double>(gauges.audit_last_sequence));
  m.cpu.Set(ProcessCpuSeconds());
  m.fds.Set(OpenFileDescriptors());
  if (auto memory = ReadProcessMemory(::getpid()); memory.ok()) {
    m.memory.Set(static_cast<double>(memory->rss_bytes));
  }
  return prometheus::TextSerializer().Serialize(m.registry.Collect());
}

}  // namespace heddle::coordinator
