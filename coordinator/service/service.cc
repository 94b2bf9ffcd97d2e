#include "coordinator/service/service.h"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "common/file.h"
#include "common/logging.h"
#include "coordinator/audit/audit_trail.h"
#include "coordinator/service/admin_api.h"
#include "coordinator/service/clean_up.h"
#include "coordinator/service/device_api.h"
#include "coordinator/service/metrics.h"
#include "coordinator/service/secret.h"
#include "coordinator/store/state_lock.h"
#include "protocol/transport/tls.h"

namespace heddle::coordinator {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

const Duration kHousekeeping = Seconds(600);
const Duration kAuditFlush = Seconds(5);
// Blobs that no row names are kept this long: an upload that waits for its report is one.
const Duration kGarbageAge = Seconds(24 * 3600);

void SetLimits(const CoordinatorConfig& config, protocol::ServerOptions* options) {
  options->max_connections = config.max_connections;
  options->max_connections_per_address = config.max_connections_per_address;
  options->max_handshakes = config.max_handshakes;
  options->handshake_timeout = Seconds(config.handshake_timeout_s);
  options->header_timeout = Seconds(config.header_timeout_s);
  options->keep_alive_timeout = Seconds(config.keep_alive_timeout_s);
  options->body_idle_timeout = Seconds(config.body_idle_timeout_s);
  options->min_body_bytes_per_s = config.min_body_bytes_per_s;
}

bool IsLoopback(const std::string& address) {
  return address == "::1" || address.starts_with("127.") || address == "localhost";
}

}  // namespace

struct Service::Impl {
  explicit Impl(CoordinatorConfig c) : config(std::move(c)) {}

  CoordinatorConfig config;
  ServiceOptions options;
  SystemClock clock;
  UniqueFd lock;
  Metrics metrics;
  DeviceDirectory directory;
  std::unique_ptr<Store> store;
  std::unique_ptr<BlobStore> blobs;
  std::unique_ptr<AuditTrail> audit;
  std::optional<protocol::CertificateAuthority> authority;
  std::atomic<bool> ready{false};
  // Before io and the threads: requests that have not ended then hold shares of these.
  std::unique_ptr<DeviceApi> device_api;
  std::unique_ptr<AdminApi> admin_api;

  asio::thread_pool disk{4};
  asio::thread_pool check{2};
  asio::thread_pool watch{8};
  asio::io_context io;
  std::unique_ptr<RunDriver> driver;  // after io: answers on their way hold its timers
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work;
  asio::steady_timer housekeeping{io};
  asio::steady_timer audit_timer{io};
  protocol::ServerStats audited;  // what FlushAudit, one at a time, has told of
  std::unique_ptr<protocol::Server> devices;
  std::unique_ptr<protocol::Server> admin;
  std::vector<std::thread> threads;
  bool stopped = false;

  Status OpenStorage();
  Result<std::shared_ptr<asio::ssl::context>> Tls() const;
  void MakeDriver();
  Status OpenListeners();
  protocol::ServerStats Stats() const;
  void ArmHousekeeping();
  void ArmAudit();
  void FlushAudit(AuditTrail::What what);
  void CleanUp();
  void Stop();
};

Status Service::Impl::OpenStorage() {
  const fs::path state(config.state_dir);
  std::error_code error;
  if (!options.insecure && !fs::exists(config.pki() / "ca.crt", error)) {
    return FailedPrecondition("there is no authority in " + config.pki().string() +
                              "; make one with: heddle coordinator init");
  }
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(state));
  HEDDLE_ASSIGN_OR_RETURN(lock, LockState(state));
  if (!options.insecure) {
    HEDDLE_ASSIGN_OR_RETURN(authority, protocol::CertificateAuthority::Load(config.pki()));
  }
  AuditOptions audit_options;
  audit_options.folder = config.audit();
  HEDDLE_ASSIGN_OR_RETURN(audit, AuditTrail::Open(std::move(audit_options)));
  HEDDLE_ASSIGN_OR_RETURN(store, Store::Open(config.database()));
  BlobStoreOptions blob_options;
  blob_options.root = state;
  blob_options.max_upload_bytes = config.max_pending_upload_bytes;
  blob_options.min_free_bytes = config.min_free_bytes;
  blob_options.max_device_uploads = config.max_device_uploads;
  blob_options.max_device_upload_bytes = config.max_device_upload_bytes;
  HEDDLE_ASSIGN_OR_RETURN(blobs, BlobStore::Open(std::move(blob_options)));
  HEDDLE_RETURN_IF_ERROR(directory.Load(*store));
  return MakeDirectories(config.runs());
}

Result<std::shared_ptr<asio::ssl::context>> Service::Impl::Tls() const {
  if (options.insecure) return std::shared_ptr<asio::ssl::context>();
  protocol::ServerTlsOptions tls;
  tls.certificate = config.pki() / "server.crt";
  tls.key = config.pki() / "server.key";
  tls.ca_pem = authority->certificate_pem();
  return protocol::MakeServerTls(tls);
}

void Service::Impl::MakeDriver() {
  RunDriverOptions driver_options;
  driver_options.core.store = store.get();
  driver_options.core.blobs = blobs.get();
  driver_options.core.clock = &clock;
  driver_options.core.runs_folder = config.runs();
  driver_options.core.scratch = config.state_dir;
  driver_options.core.aggregation_threads = static_cast<unsigned>(config.aggregation_threads);
  driver_options.core.traffic = [this] { return metrics.traffic(); };
  driver_options.core.observer.round_ended = [this](const RoundRecord& round, std::span<const AssignmentRecord> all) {
    const RoundLosses losses = LossesOf(all);
    metrics.RoundEnded(round.phase == RoundPhase::kCommitted, ToSeconds(round.ended_at - round.started_at),
                       losses.told() ? std::optional(losses.train_loss) : std::nullopt, round.round);
  };
  driver = std::make_unique<RunDriver>(std::move(driver_options));
}

Status Service::Impl::OpenListeners() {
  auto close_connections = [this](const std::string& serial) { devices->CloseBySerial(serial); };
  device_api = std::make_unique<DeviceApi>(DeviceApiContext{.config = &config,
                                                            .store = store.get(),
                                                            .blobs = blobs.get(),
                                                            .driver = driver.get(),
                                                            .directory = &directory,
                                                            .metrics = &metrics,
                                                            .clock = &clock,
                                                            .audit = audit.get(),
                                                            .authority = authority ? &*authority : nullptr,
                                                            .disk = disk.get_executor(),
                                                            .check = check.get_executor(),
                                                            .close_connections = close_connections});
  HEDDLE_ASSIGN_OR_RETURN(std::string token, ReadOrMakeSecret(config.admin_token()));
  admin_api = std::make_unique<AdminApi>(AdminApiContext{.config = &config,
                                                         .store = store.get(),
                                                         .blobs = blobs.get(),
                                                         .driver = driver.get(),
                                                         .directory = &directory,
                                                         .metrics = &metrics,
                                                         .clock = &clock,
                                                         .audit = audit.get(),
                                                         .disk = disk.get_executor(),
                                                         .watch = watch.get_executor(),
                                                         .server_stats = [this] { return Stats(); },
                                                         .close_connections = close_connections,
                                                         .ready = &ready,
                                                         .token = std::move(token)});
  protocol::ServerOptions device_options;
  device_options.address = config.listen_address;
  device_options.port = static_cast<uint16_t>(config.listen_port);
  SetLimits(config, &device_options);
  HEDDLE_ASSIGN_OR_RETURN(device_options.tls, Tls());
  devices = std::make_unique<protocol::Server>(
      io, device_options, [this](protocol::Exchange& exchange) { return device_api->Handle(exchange); });
  protocol::ServerOptions admin_options;
  admin_options.address = config.admin_address;
  admin_options.port = static_cast<uint16_t>(config.admin_port);
  admin_options.max_connections = 256;
  admin = std::make_unique<protocol::Server>(
      io, admin_options, [this](protocol::Exchange& exchange) { return admin_api->Handle(exchange); });
  // Threads first: a listener that has begun is stopped by them when the next one cannot begin.
  work.emplace(asio::make_work_guard(io));
  for (uint64_t i = 0; i < config.threads; ++i) threads.emplace_back([this] { io.run(); });
  HEDDLE_RETURN_IF_ERROR(admin->Start().Annotate("admin.address and admin.port"));
  HEDDLE_RETURN_IF_ERROR(devices->Start().Annotate("listen.address and listen.port"));
  if (!config.listen_port_file.empty()) {
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(config.listen_port_file, std::to_string(devices->port()) + "\n"));
  }
  if (!config.admin_port_file.empty()) {
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(config.admin_port_file, std::to_string(admin->port()) + "\n"));
  }
  return OkStatus();
}

// Those of the devices' listener; heads that are refused and failures are told of both.
protocol::ServerStats Service::Impl::Stats() const {
  protocol::ServerStats stats = devices ? devices->stats() : protocol::ServerStats{};
  const protocol::ServerStats of_admin = admin ? admin->stats() : protocol::ServerStats{};
  stats.malformed_heads += of_admin.malformed_heads;
  stats.large_heads += of_admin.large_heads;
  stats.failures += of_admin.failures;
  return stats;
}

void Service::Impl::ArmHousekeeping() {
  housekeeping.expires_after(kHousekeeping);
  housekeeping.async_wait([this](boost::system::error_code error) {
    if (error) return;
    asio::post(disk, [this] { CleanUp(); });
    ArmHousekeeping();
  });
}

void Service::Impl::ArmAudit() {
  audit_timer.expires_after(kAuditFlush);
  audit_timer.async_wait([this](boost::system::error_code error) {
    if (error) return;
    asio::post(disk, [this] {
      FlushAudit(AuditTrail::What::kDue);
      asio::post(io, [this] { ArmAudit(); });  // never two at a time
    });
  });
}

void Service::Impl::FlushAudit(AuditTrail::What what) {
  // Those that do not get as far as a request: how many, without who.
  using protocol::ServerStats;
  constexpr std::pair<std::string_view, uint64_t ServerStats::*> kCounts[] = {
      {"CONNECTIONS_FULL", &ServerStats::refused_full},
      {"ADDRESS_FULL", &ServerStats::refused_address},
      {"HANDSHAKES_FULL", &ServerStats::refused_handshakes},
      {"HANDSHAKE_FAILED", &ServerStats::handshakes_failed},
      {"SLOW_HANDSHAKE", &ServerStats::late_handshakes},
      {"SLOW_HEAD", &ServerStats::late_heads},
      {"SLOW_BODY", &ServerStats::late_bodies},
      {"MALFORMED_HEAD", &ServerStats::malformed_heads},
      {"LARGE_HEAD", &ServerStats::large_heads},
      {"REQUEST_FAILED", &ServerStats::failures}};
  const ServerStats now = Stats();
  for (const auto& [reason, count] : kCounts) {
    if (now.*count > audited.*count) audit->Refused(reason, "", "", "connection", "", now.*count - audited.*count);
  }
  audited = now;
  if (Status status = audit->Flush(what); !status.ok()) {
    Log(Severity::kError, "the audit log cannot be written; refusals are kept in memory and acts are refused",
        {{"error", status.message()}});
  }
}

void Service::Impl::CleanUp() {
  const Time now = clock.Now();
  const CleanedUp done = coordinator::CleanUp({.store = store.get(),
                                               .blobs = blobs.get(),
                                               .driver = driver.get(),
                                               .keep_update_rounds = static_cast<uint32_t>(config.keep_update_rounds),
                                               .tokens_before = now,
                                               .uploads_before = now - Seconds(config.stale_upload_hours * 3600),
                                               .blobs_before = now - kGarbageAge});
  if (!done.first.ok()) Log(Severity::kWarning, "cleaning up failed", {{"error", done.first.message()}});
}

void Service::Impl::Stop() {
  if (std::exchange(stopped, true)) return;
  ready = false;
  if (driver) driver->Stop();  // answers every poll
  const Duration grace = Seconds(config.shutdown_grace_s);
  if (admin) admin->Stop(Seconds(1));  // first: who watches a run would ask again and again
  if (devices) devices->Stop(grace);
  asio::post(io, [this] {
    housekeeping.cancel();
    audit_timer.cancel();
  });
  watch.join();
  check.join();
  disk.join();
  work.reset();
  io.stop();
  for (std::thread& thread : threads) thread.join();
  threads.clear();
  if (audit) FlushAudit(AuditTrail::What::kAll);
  lock.Reset();
}

Service::Service(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Service::~Service() { Stop(); }

Result<std::unique_ptr<Service>> Service::Start(CoordinatorConfig config, ServiceOptions options) {
  if (options.insecure && !IsLoopback(config.listen_address)) {
    return InvalidArgument("--insecure is for loopback only, and listen.address is " + config.listen_address +
                           "; set it to 127.0.0.1 or leave out --insecure");
  }
  std::unique_ptr<Service> service(new Service(std::make_unique<Impl>(std::move(config))));
  Impl& impl = *service->impl_;
  impl.options = options;
  HEDDLE_RETURN_IF_ERROR(impl.OpenStorage());
  impl.MakeDriver();
  HEDDLE_RETURN_IF_ERROR(impl.driver->Start());
  HEDDLE_RETURN_IF_ERROR(impl.OpenListeners());
  asio::post(impl.disk, [&impl] { impl.CleanUp(); });
  impl.ArmHousekeeping();
  impl.ArmAudit();
  impl.ready = true;
  Log(Severity::kInfo, "coordinator is up",
      {{"listen", impl.config.listen_address + ":" + std::to_string(service->device_port())},
       {"admin", impl.config.admin_address + ":" + std::to_string(service->admin_port())},
       {"tls", !options.insecure},
       {"devices", impl.directory.enrolled()}});
  return service;
}

void Service::Stop() { impl_->Stop(); }

Status Service::ReloadTls() {
  AuditEvent event;
  event.kind = AuditKind::kCertificateReloaded;
  event.actor = "SIGHUP";
  event.object = (impl_->config.pki() / "server.crt").string();
  return Audited(impl_->audit->log(), std::move(event), [this](AuditEvent&) -> Status {
    HEDDLE_ASSIGN_OR_RETURN(auto tls, impl_->Tls());
    if (tls) impl_->devices->ReplaceTls(std::move(tls));
    return OkStatus();
  });
}

uint16_t Service::device_port() const { return impl_->devices->port(); }
uint16_t Service::admin_port() const { return impl_->admin->port(); }

Status InitCoordinator(const CoordinatorConfig& config) {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(config.pki()));
  ::chmod(config.state_dir.c_str(), 0700);
  AuditOptions audit;
  audit.folder = config.audit();
  HEDDLE_ASSIGN_OR_RETURN(const auto log, AuditLog::Open(std::move(audit)));
  AuditEvent event;
  event.kind = AuditKind::kInit;
  event.actor = ProcessActor();
  event.object = "authority";
  return Audited(*log, std::move(event), [&](AuditEvent& done) -> Status {
    HEDDLE_RETURN_IF_ERROR(protocol::CertificateAuthority::Create(config.pki(), "Heddle coordinator authority",
                                                                  Seconds(10.0 * 365 * 86400)));
    HEDDLE_ASSIGN_OR_RETURN(const auto authority, protocol::CertificateAuthority::Load(config.pki()));
    HEDDLE_RETURN_IF_ERROR(authority.IssueServer(config.pki(), config.server_names, Seconds(5.0 * 365 * 86400)));
    HEDDLE_RETURN_IF_ERROR(ReadOrMakeSecret(config.admin_token()).status());
    done.detail = "fingerprint " + authority.fingerprint();
    return Store::Open(config.database()).status();
  });
}

}  // namespace heddle::coordinator
