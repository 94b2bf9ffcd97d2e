#include "client/daemon/daemon.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <random>

#include "client/daemon/base_part.h"
#include "client/daemon/blob_cache.h"
#include "client/daemon/enroll.h"
#include "client/daemon/journal.h"
#include "client/daemon/ledger_weights.h"
#include "client/daemon/link.h"
#include "client/daemon/noise_secret.h"
#include "client/daemon/personal_state.h"
#include "client/daemon/session.h"
#include "client/daemon/worker_process.h"
#include "common/build_info.h"
#include "common/file.h"
#include "common/ids.h"
#include "common/test_hooks.h"
#include "protocol/transport/tls.h"
#include "protocol/validate.h"

namespace heddle::client {

namespace asio = boost::asio;
namespace fs = std::filesystem;

namespace {

constexpr Duration kWorkerStopLimit = std::chrono::seconds(2);
constexpr auto kProgressLogInterval = std::chrono::seconds(2);
constexpr char kUpdateName[] = "update.safetensors";

// One daemon a state folder. Held for the life of the descriptor.
Result<UniqueFd> TakeLock(const fs::path& state_dir) {
  const fs::path path = state_dir / "lock";
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open " + path.string());
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return FailedPrecondition("another heddle-client uses " + state_dir.string() +
                                "; stop it, or give this one a state_dir of its own");
    return ErrnoStatus(errno, "cannot lock " + path.string());
  }
  return fd;
}

Result<protocol::ClientOptions> SecureLink(const ClientConfig& config) {
  protocol::ClientOptions link;
  const IdentityFiles files = IdentityIn(config.state_dir);
  std::error_code error;
  if (!fs::exists(files.certificate, error))
    return FailedPrecondition("this device is not enrolled: " + files.certificate.string() +
                              " is missing; run `heddle-client enroll` with a token of the coordinator");
  protocol::ClientTlsOptions tls;
  HEDDLE_ASSIGN_OR_RETURN(tls.ca_pem, ReadFile(files.ca));
  tls.certificate = files.certificate;
  tls.key = files.key;
  HEDDLE_ASSIGN_OR_RETURN(link.tls, protocol::MakeClientTls(tls));
  return link;
}

Result<protocol::ClientOptions> InsecureLink(const ClientConfig& config, const DaemonOptions& options) {
  if (!IsLoopback(config.host))
    return FailedPrecondition("--insecure is for tests on one machine: coordinator.host is '" + config.host +
                              "', which is not a loopback address");
  const std::string& name = options.insecure_device.empty() ? config.device_name : options.insecure_device;
  if (!IsValidDeviceName(name))
    return InvalidArgument(
        "--insecure needs the device's name: [device] name or --insecure-device, as "
        "[a-z0-9][a-z0-9._-]{0,62}");
  protocol::ClientOptions link;
  link.headers.emplace_back("Heddle-Device", name);
  return link;
}

// A folder's name from what is in it, so that a kept worker knows an unchanged base model again.
std::string FolderKey(const std::vector<CachedBlob>& blobs) {
  Sha256Hasher hasher;
  for (const CachedBlob& blob : blobs) hasher.Update(blob.name + "\n" + blob.digest.ToHex() + "\n");
  return hasher.Finish().ToHex().substr(0, 16);
}

WorkerOptions WorkerOptionsOf(const ClientConfig& config) {
  WorkerOptions options;
  options.argv = {config.worker_binary.empty() ? DefaultWorkerBinary().string() : config.worker_binary.string()};
  options.nice = config.nice;
  options.memory_limit_bytes = config.memory_limit_bytes;
  options.keep_alive = config.worker_keep_alive;
  return options;
}

CallFailed FailedWith(const Status& status) { return {.status = status}; }

}  // namespace

bool IsLoopback(const std::string& host) {
  boost::system::error_code error;
  const asio::ip::address address = asio::ip::make_address(host, error);
  return error ? host == "localhost" : address.is_loopback();
}

struct Daemon::Impl {
  Impl(const ClientConfig& cfg, const DaemonOptions& opts, UniqueFd held, protocol::ClientOptions link_options,
       BlobCache blobs, SessionOptions session_options)
      : config(cfg),
        options(opts),
        lock(std::move(held)),
        work(config.state_dir / "work"),
        journal(config.state_dir / "journal", work / kUpdateName),
        personal(config.state_dir / "personal"),
        cache(std::move(blobs)),
        session(session_options),
        link(io.get_executor(), std::move(link_options)),
        worker(io.get_executor(), WorkerOptionsOf(config)) {}

  void Start();
  void Dispatch(const Event& event);
  template <typename Make>
  void Operation(Make make);
  asio::awaitable<void> Guarded(asio::awaitable<Event> operation);

  // The session's actions.
  void Do(const ProbeWorker&);
  void Do(const CheckIn&);
  void Do(const Fetch&);
  void Do(const Train&);
  void Do(const Upload&);
  void Do(const Report&);
  void Do(const Wait&);
  void Do(const CancelOperation&);
  void Do(const SaveReport&);
  void Do(const EndTask&);
  void Do(const Note&);
  void Do(const Finish&);

  asio::awaitable<Event> ProbeWorkerNow();
  asio::awaitable<Event> FetchNow(v1::TaskAssignment assignment);
  asio::awaitable<Event> TrainNow(v1::TaskAssignment assignment);
  fs::path BaseFolder(const std::vector<CachedBlob>& base) const { return work / ("base-" + FolderKey(base)); }
  void ClearWork(const fs::path& but);
  Result<v1::WorkerRun> PrepareRun(const v1::TaskAssignment& assignment);
  Status FillUpdate(Trained* trained);
  void LogProgress(const v1::WorkerProgress& progress);
  void Shutdown();

  ClientConfig config;
  DaemonOptions options;
  UniqueFd lock;
  fs::path work;
  Journal journal;
  PersonalState personal;
  asio::io_context io{1};
  BlobCache cache;
  Session session;
  CoordinatorLink link;
  WorkerProcess worker;
  asio::signal_set signals{io};
  asio::steady_timer wait_timer{io}, grace_timer{io}, end_timer{io};
  asio::cancellation_signal stop_watching;
  std::chrono::steady_clock::time_point last_progress;
  bool update_is_fresh = false;  // trained by this process, nothing sent of it yet
  bool dispatching = false;
  std::vector<Event> pending;
  bool finished = false;
  Status result;
};

// ---- the session ----

void Daemon::Impl::Dispatch(const Event& event) {
  // An action may end at once with an event of its own; it waits for its turn.
  pending.push_back(event);
  if (dispatching) return;
  dispatching = true;
  while (!pending.empty()) {
    const Event next = std::move(pending.front());
    pending.erase(pending.begin());
    for (const Action& action : session.Handle(next)) std::visit([this](const auto& a) { Do(a); }, action);
  }
  dispatching = false;
}

// Whatever the operation throws, the session hears of its end.
asio::awaitable<void> Daemon::Impl::Guarded(asio::awaitable<Event> operation) {
  Event event;
  try {
    event = co_await std::move(operation);
  } catch (const std::exception& error) {
    event = FailedWith(Internal(error.what()));
  }
  Dispatch(event);
}

template <typename Make>
void Daemon::Impl::Operation(Make make) {
  asio::co_spawn(io, Guarded(make()), asio::detached);
}

void Daemon::Impl::Do(const ProbeWorker&) {
  Operation([this] { return ProbeWorkerNow(); });
}

asio::awaitable<Event> Daemon::Impl::ProbeWorkerNow() {
  Result<std::vector<std::string>> names = co_await worker.Probe();
  worker.Rest();
  if (!names.ok()) co_return FailedWith(names.status());
  WorkerProbed probed;
  probed.local_tasks = *std::move(names);
  co_return probed;
}

void Daemon::Impl::Do(const CheckIn& action) {
  Operation([&] { return link.CheckIn(action.local_tasks, action.memory_bytes, &cache); });
}

void Daemon::Impl::Do(const Fetch& action) {
  Operation([&] { return FetchNow(action.assignment); });
}

// Links keep deleted blobs on the disk: folders of other models go before anything is fetched.
void Daemon::Impl::ClearWork(const fs::path& but) {
  std::error_code error;
  std::vector<fs::path> others;
  for (const fs::directory_entry& entry : fs::directory_iterator(work, error)) {
    if (entry.path() != but) others.push_back(entry.path());
  }
  for (const fs::path& other : others) fs::remove_all(other, error);
}

asio::awaitable<Event> Daemon::Impl::FetchNow(v1::TaskAssignment assignment) {
  const v1::TaskPlan& plan = assignment.plan();
  Result<std::vector<CachedBlob>> blobs = WholeBlobs(plan);
  Result<std::vector<CachedBlob>> adapter = BlobsOf(plan.adapter());
  Status status = blobs.ok() ? adapter.status() : blobs.status();
  if (status.ok()) {
    blobs->insert(blobs->end(), adapter->begin(), adapter->end());
    status = cache.Pin(*blobs);
  }
  const bool unsettled = personal.unsettled();
  if (status.ok() && unsettled) status = personal.End(false);
  if (!status.ok()) co_return FailedWith(status);
  if (unsettled) journal.Clear();
  if (!FetchesPart(plan)) ClearWork(BaseFolder(*BlobsOf(plan.base_model())));  // its blobs are read above
  Event event = co_await link.Fetch(*blobs, &cache);
  if (const auto ledger = LedgerIn(*adapter); ledger && std::holds_alternative<Fetched>(event))
    co_await link.FetchWeights(*ledger, config.max_replayed_directions, &cache);
  if (!FetchesPart(plan) || !std::holds_alternative<Fetched>(event)) co_return event;
  Result<BasePart> part = PartOf(plan, &cache);
  if (!part.ok()) co_return FailedWith(part.status());
  if (const auto folder = FolderBlobs(plan, *part); folder.ok()) ClearWork(BaseFolder(*folder));
  for (const model::TensorFile& tensor : part->tensors) blobs->push_back({tensor.digest, tensor.size(), tensor.name});
  blobs->push_back(part->index);
  status = cache.Pin(*blobs);
  if (status.ok() && !cache.Find(part->index)) status = cache.Put(part->index, part->index_json).status();
  if (!status.ok()) co_return FailedWith(status);
  Event fetched = co_await link.FetchTensors(std::move(part->tensors), &cache);
  co_return fetched;
}

void Daemon::Impl::Do(const Train& action) {
  Operation([&] { return TrainNow(action.assignment); });
}

Result<v1::WorkerRun> Daemon::Impl::PrepareRun(const v1::TaskAssignment& assignment) {
  const v1::TaskPlan& plan = assignment.plan();
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<CachedBlob> base, FolderBlobs(plan, &cache));
  HEDDLE_ASSIGN_OR_RETURN(std::vector<CachedBlob> adapter, BlobsOf(plan.adapter()));
  for (CachedBlob& file : NearestWeights(adapter, &cache)) adapter.push_back(std::move(file));
  const fs::path base_dir = BaseFolder(base), adapter_dir = work / "adapter";
  HEDDLE_RETURN_IF_ERROR(cache.Materialise(base, base_dir));
  HEDDLE_RETURN_IF_ERROR(cache.Materialise(adapter, adapter_dir));
  HEDDLE_RETURN_IF_ERROR(PlaceNoiseSecret(plan, config.state_dir, work));
  HEDDLE_FAILPOINT(kClientBlobsLinked);
  v1::WorkerRun run;
  run.set_local_task(plan.local_task());
  *run.mutable_train() = plan.train();
  if (config.max_threads > 0 && run.train().threads() > config.max_threads)
    run.mutable_train()->set_threads(config.max_threads);
  run.set_seed(plan.seed());
  run.set_base_model_dir(base_dir.string());
  run.set_adapter_dir(adapter_dir.string());
  run.set_data_path(config.data_path.string());
  *run.mutable_data_fields() = config.data_fields;
  run.set_update_path(journal.update_file().string());
  HEDDLE_ASSIGN_OR_RETURN(const PersonalState::Paths kept, personal.Begin(assignment.run_id()));
  run.set_personal_path(kept.now.string());
  run.set_next_personal_path(kept.next.string());
  run.set_memory_limit_bytes(config.memory_limit_bytes);
  if (config.worker_device != "cpu") run.set_device(config.worker_device);
  return run;
}

Status Daemon::Impl::FillUpdate(Trained* trained) {
  std::error_code error;
  const uint64_t size = fs::file_size(journal.update_file(), error);
  if (error) return NotFound("the worker says it is done, but " + journal.update_file().string() + " is missing");
  HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, Sha256File(journal.update_file()));
  trained->update = protocol::MakeBlobRef(digest, size, kUpdateName);
  return OkStatus();
}

void Daemon::Impl::LogProgress(const v1::WorkerProgress& progress) {
  const auto now = std::chrono::steady_clock::now();
  if (progress.step() < progress.total_steps() && now - last_progress < kProgressLogInterval) return;
  last_progress = now;
  Log(Severity::kInfo, "training",
      {{"step", progress.step()}, {"total_steps", progress.total_steps()}, {"loss", progress.loss()}});
}

asio::awaitable<Event> Daemon::Impl::TrainNow(v1::TaskAssignment assignment) {
  Trained trained;
  Result<v1::WorkerRun> run = PrepareRun(assignment);
  if (!run.ok()) {
    trained.message = run.status().message();
    co_return trained;
  }
  last_progress = {};
  WorkerResult done = co_await worker.Run(*std::move(run), [this](const v1::WorkerProgress& p) { LogProgress(p); });
  // One that is kept holds a part of the model that was too large.
  if (done.out_of_memory) co_await worker.Stop(kWorkerStopLimit);
  TakeReplayedWeights(assignment.plan(), work / "adapter", &cache);
  worker.Rest();
  trained.message = done.message;
  trained.metrics = done.metrics;
  trained.out_of_memory = done.out_of_memory;
  if (done.outcome == WorkerResult::Outcome::kInterrupted) trained.outcome = Trained::Outcome::kInterrupted;
  if (done.outcome == WorkerResult::Outcome::kCompleted) {
    HEDDLE_FAILPOINT(kClientUpdateFinished);
    const Status filled = FillUpdate(&trained);
    if (filled.ok()) trained.outcome = Trained::Outcome::kCompleted;
    trained.message = filled.message();
  }
  update_is_fresh = true;
  co_return trained;
}

void Daemon::Impl::Do(const Upload& action) {
  if (action.anew) link.ForgetUpload();
  Operation([&] {
    return link.Upload(action.report, journal.update_file(), std::exchange(update_is_fresh, false) || action.anew);
  });
}

void Daemon::Impl::Do(const Report& action) {
  Operation([&] { return link.Report(action.report, action.with_update ? journal.update_file() : fs::path()); });
}

void Daemon::Impl::Do(const Wait& action) {
  Log(Severity::kDebug, "waiting", {{"seconds", ToSeconds(action.time)}});
  wait_timer.expires_after(action.time);
  wait_timer.async_wait([this](const boost::system::error_code&) { Dispatch(TimerFired{}); });
}

void Daemon::Impl::Do(const CancelOperation&) {
  link.Cancel();
  worker.Cancel();
  wait_timer.cancel();
}

void Daemon::Impl::Do(const SaveReport& action) {
  if (personal.unsettled()) return;  // the journal has what was accepted; this one is of a task that did not begin
  const Status saved = journal.Write(action.report);
  if (!saved.ok()) Log(Severity::kWarning, "the journal cannot be written: " + saved.message());
}

void Daemon::Impl::Do(const EndTask& action) {
  // With a journal that is still there, the report and this are repeated after a crash.
  const Status kept = personal.End(action.accepted);
  if (!personal.unsettled()) journal.Clear();
  if (!kept.ok()) Log(Severity::kWarning, "what this device keeps of the run could not be stored: " + kept.message());
  link.ForgetUpload();
}

void Daemon::Impl::Do(const Note& action) {
  const Severity severity = action.warning ? Severity::kWarning : Severity::kInfo;
  if (action.assignment_id.empty()) {
    Log(severity, action.text);
  } else {
    Log(severity, action.text, {{"assignment_id", action.assignment_id}});
  }
}

// Ends everything that keeps the io_context at work, so that Run returns by itself.
void Daemon::Impl::Do(const Finish& action) {
  finished = true;
  result = action.status;
  stop_watching.emit(asio::cancellation_type::terminal);
  boost::system::error_code ignored;
  signals.cancel(ignored);
  grace_timer.cancel();
  wait_timer.cancel();
  link.Close();
  asio::co_spawn(
      io, [this]() -> asio::awaitable<void> { co_await worker.Stop(kWorkerStopLimit); },
      [this](std::exception_ptr) { end_timer.cancel(); });
  end_timer.expires_after(kWorkerStopLimit + Seconds(2));
  end_timer.async_wait([this](const boost::system::error_code& aborted) {
    if (!aborted) io.stop();
  });
}

// ---- around it ----

void Daemon::Impl::Shutdown() {
  if (finished) return;
  Log(Severity::kInfo, "stopping");
  grace_timer.expires_after(options.shutdown_grace);
  grace_timer.async_wait([this](const boost::system::error_code& aborted) {
    if (!aborted) Dispatch(GraceExpired{});
  });
  Dispatch(ShutdownRequested{});
}

void Daemon::Impl::Start() {
  if (options.handle_signals) {
    signals.add(SIGTERM);
    signals.add(SIGINT);
    signals.async_wait([this](const boost::system::error_code& aborted, int) {
      if (aborted) return;
      Shutdown();
      if (finished) return;
      signals.async_wait([this](const boost::system::error_code& again, int) {
        if (!again) Dispatch(GraceExpired{});  // somebody is in a hurry
      });
    });
  }
  Started started;
  started.unreported = journal.Read();
  Dispatch(started);
  if (finished) return;
  asio::co_spawn(io,
                 WatchEligibility(config.eligibility,
                                  [this](const Eligible& found) {
                                    EligibilityChanged changed;
                                    changed.eligible = found.eligible;
                                    changed.reason = found.reason;
                                    Dispatch(changed);
                                  }),
                 asio::bind_cancellation_slot(stop_watching.slot(), asio::detached));
}

Daemon::Daemon(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Daemon::~Daemon() = default;

Result<std::unique_ptr<Daemon>> Daemon::Open(const ClientConfig& config, const DaemonOptions& options) {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(config.state_dir / "work"));
  HEDDLE_ASSIGN_OR_RETURN(UniqueFd lock, TakeLock(config.state_dir));
  HEDDLE_ASSIGN_OR_RETURN(protocol::ClientOptions link,
                          options.insecure ? InsecureLink(config, options) : SecureLink(config));
  link.host = config.host;
  link.port = config.port;
  link.server_name = config.server_name;
  HEDDLE_ASSIGN_OR_RETURN(BlobCache cache, BlobCache::Open(config.state_dir / "cache", config.cache_max_bytes));
  SessionOptions session;
  std::random_device device;
  session.seed = (uint64_t{device()} << 32) | device();
  session.backoff_base = config.backoff_base;
  session.backoff_max = config.backoff_max;
  session.max_tasks = options.max_tasks;
  session.max_inline_update_bytes = config.inline_update_bytes;
  session.memory_limit_bytes = config.memory_limit_bytes;
  auto impl = std::make_unique<Impl>(config, options, std::move(lock), std::move(link), std::move(cache), session);
  return std::unique_ptr<Daemon>(new Daemon(std::move(impl)));
}

Status Daemon::Run() {
  Log(Severity::kInfo, "client started",
      {{"version", VersionString()},
       {"coordinator", impl_->config.host + ":" + std::to_string(impl_->config.port)},
       {"state_dir", impl_->config.state_dir.string()}});
  ::signal(SIGPIPE, SIG_IGN);  // a worker that is gone
  impl_->Start();
  impl_->io.run();
  Log(Severity::kInfo, "client stopped", {{"tasks_reported", impl_->session.tasks_reported()}});
  return impl_->result;
}

void Daemon::RequestStop() {
  asio::post(impl_->io, [impl = impl_.get()] { impl->Shutdown(); });
}

uint64_t Daemon::tasks_reported() const { return impl_->session.tasks_reported(); }

}  // namespace heddle::client
