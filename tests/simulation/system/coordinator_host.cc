#include "tests/simulation/system/coordinator_host.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "common/file.h"
#include "coordinator/service/clean_up.h"

namespace heddle::system_simulation {

namespace fs = std::filesystem;
using coordinator::BlobStore;
using coordinator::BlobStoreOptions;
using coordinator::DeviceApi;
using coordinator::RunDriver;
using coordinator::RunDriverOptions;
using coordinator::Store;

namespace {

// The service's loop looks at the clock at least that often.
constexpr Duration kLongestSleep = std::chrono::seconds(60);

}  // namespace

CoordinatorHost::CoordinatorHost(Stage& stage, Timeline& time, uint64_t seed)
    : stage_(stage),
      time_(time),
      disk_("system-" + std::to_string(stage.number()) + "-" + std::to_string(seed)),
      slow_workers_(time.Chance(0.5)) {
  config_.state_dir = stage_.state().string();
  config_.max_upload_bytes = 1 << 20;
  disk_.SetContent(kDatabase, stage_.database());
  files().SetTime([this] { return time_.true_now(); });
}

CoordinatorHost::~CoordinatorHost() {
  Heal();
  life_.reset();
  stage_.Sweep();
  files().SetTime([] { return FromUnixMicros(0); });
}

// ---- life and death ----

Status CoordinatorHost::OpenLife(Life& life) {
  HEDDLE_ASSIGN_OR_RETURN(life.store, Store::Open(kDatabase, {.busy_timeout = Seconds(0), .vfs = disk_.name()}));
  BlobStoreOptions blobs;
  blobs.root = stage_.state();
  blobs.files = &files();
  HEDDLE_ASSIGN_OR_RETURN(life.blobs, BlobStore::Open(std::move(blobs)));
  HEDDLE_RETURN_IF_ERROR(life.directory.Load(*life.store));
  RunDriverOptions options;
  options.own_thread = false;
  options.core.store = life.store.get();
  options.core.blobs = life.blobs.get();
  options.core.clock = &time_;
  options.core.runs_folder = runs_;
  options.core.scratch = stage_.state();
  options.core.observer.round_ended = [this](const coordinator::RoundRecord& round,
                                             std::span<const coordinator::AssignmentRecord>) {
    if (!dying_ && round_ended) round_ended(round);
  };
  life.driver = std::make_unique<RunDriver>(std::move(options));
  HEDDLE_RETURN_IF_ERROR(life.driver->Start());
  boost::asio::io_context& workers = slow_workers_ ? life.workers : life.io;
  life.api = std::make_unique<DeviceApi>(coordinator::DeviceApiContext{.config = &config_,
                                                                       .store = life.store.get(),
                                                                       .blobs = life.blobs.get(),
                                                                       .driver = life.driver.get(),
                                                                       .directory = &life.directory,
                                                                       .metrics = &metrics_,
                                                                       .clock = &time_,
                                                                       .authority = &stage_.authority(),
                                                                       .disk = workers.get_executor(),
                                                                       .check = workers.get_executor(),
                                                                       .close_connections = {}});
  return OkStatus();
}

Status CoordinatorHost::Start() {
  ++lives_;
  wake_.reset();
  work_planned_ = false;
  life_ = std::make_unique<Life>();
  const Status status = OpenLife(*life_);
  if (!status.ok()) {
    if (dying_) return status;  // it died of an armed crash; Die clears it away
    Clear();
    disk_.Kill();
  }
  return status;
}

void CoordinatorHost::ArmCrash(uint64_t n, bool power_cut) {
  power_cut_ = power_cut;
  const auto met = [this] {
    if (std::exchange(dying_, true)) return;
    // Nothing reaches either disk any more.
    disk_.FailAt(1, SQLITE_IOERR_WRITE, true);
    files().FailAt(1, EIO, true);
  };
  disk_.OnFault(met);
  files().OnFault(met);
  database_trouble_ = true;
  // One of the two gets there first.
  if (time_.Chance(0.6)) {
    disk_.FailAt(n, SQLITE_IOERR_WRITE, true);
  } else {
    files().FailAt(n, EIO, true);
  }
}

void CoordinatorHost::Heal() {
  disk_.OnFault(nullptr);
  files().OnFault(nullptr);
  disk_.Heal();
  files().Heal();
  database_trouble_ = false;
}

void CoordinatorHost::FailOnce() {
  Heal();
  // One draw after the other: in one call's arguments each compiler would have an order of its own.
  const bool database = time_.Chance(0.6), full = time_.Chance(0.5);
  const uint64_t n = 1 + time_.Below(database ? 30 : 12);
  database_trouble_ = database;
  if (database) {
    disk_.FailAt(n, full ? SQLITE_FULL : SQLITE_IOERR_WRITE, false);
  } else {
    files().FailAt(n, full ? ENOSPC : EIO, false);
  }
}

void CoordinatorHost::FillDisk() {
  Heal();
  database_trouble_ = true;
  disk_.FailAt(1, SQLITE_FULL, true);
  files().FailAt(1, ENOSPC, true);
}

void CoordinatorHost::FailReads() {
  Heal();
  const uint32_t which = time_.Below(3);  // the database, the blobs, or both
  database_trouble_ = which != 1;
  if (which != 1) disk_.FailReads();
  if (which != 0) files().FailReads();
}

void CoordinatorHost::FailReadsOfBlobs() {
  Heal();
  files().FailReads();
}

void CoordinatorHost::LockDatabase() {
  Heal();
  database_trouble_ = true;
  disk_.LockOut();
}

void CoordinatorHost::BlockRuns() {
  std::error_code ignored;
  if (fs::exists(stage_.runs_aside(), ignored)) return;
  fs::rename(runs_, stage_.runs_aside(), ignored);
  const UniqueFd in_the_way(::open(runs_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0640));
}

void CoordinatorHost::UnblockRuns() {
  std::error_code ignored;
  if (!fs::exists(stage_.runs_aside(), ignored)) return;
  fs::remove(runs_, ignored);
  fs::rename(stage_.runs_aside(), runs_, ignored);
}

void CoordinatorHost::TearHistory(const RunId& run, uint32_t bytes) {
  std::error_code error;
  const auto told = ReadFile(runs_ / run.value() / "run.json");
  if (told.ok() && told->find(R"("state":"running")") == std::string::npos) return;  // synced before the end was told
  const fs::path history = runs_ / run.value() / "history.jsonl";
  const uint64_t size = fs::file_size(history, error);
  if (!error) fs::resize_file(history, size - std::min<uint64_t>(size, bytes), error);
}

void CoordinatorHost::Die(bool power_cut) {
  dying_ = true;
  disk_.OnFault(nullptr);
  files().OnFault(nullptr);
  files().FailAt(1, EIO, true);
  if (power_cut) {
    disk_.PowerCut(time_.Bits());
  } else {
    disk_.Kill();
  }
  Clear();
  files().Heal();
  if (power_cut) {
    PhiloxStream random(time_.Bits());
    files().PowerCut(random);
  }
  dying_ = database_trouble_ = false;
}

void CoordinatorHost::Stop() {
  life_->driver->Stop();
  Poll();
  if (dying_) return Pump();
  Clear();
  disk_.Kill();
}

void CoordinatorHost::Clear() {
  if (gone) gone();
  life_.reset();
}

// ---- use ----

Result<RunId> CoordinatorHost::Submit(const std::string& recipe) {
  coordinator::Submission submission;
  submission.recipe_text = recipe;
  submission.folder = Stage::RecipeFolder();
  return life_->driver->Submit(submission);
}

std::shared_ptr<testing::LocalExchange> CoordinatorHost::Open(protocol::RequestHead head, protocol::Peer peer) {
  return std::make_shared<testing::LocalExchange>(life_->io.get_executor(), std::move(head), std::move(peer));
}

void CoordinatorHost::Serve(const std::shared_ptr<testing::LocalExchange>& exchange) {
  DeviceApi* api = life_->api.get();
  testing::StartHandling(
      life_->io, [api](protocol::Exchange& request) { return api->Handle(request); }, exchange);
}

void CoordinatorHost::Poll() {
  Life& life = *life_;
  const auto poll = [&life] {
    life.io.restart();
    return life.io.poll();
  };
  poll();
  do {
    life.driver->RunPending();
  } while (poll() > 0);
}

void CoordinatorHost::Pump() {
  if (life_ == nullptr) return;
  if (!dying_) Poll();
  if (dying_) {
    const bool power_cut = power_cut_;
    time_.Note(power_cut ? "the power goes in the middle of an operation" : "killed in the middle of an operation");
    if (died) died(power_cut);
    Die(power_cut);
    return;
  }
  PlanWake();
  PlanWork();
}

void CoordinatorHost::PlanWake() {
  Duration wait = kLongestSleep;
  if (const auto next = life_->driver->NextWake()) wait = std::min(wait, *next - time_.Now());
  wait = std::max(wait, Duration(1));
  const Time at = time_.true_now() + wait;
  if (wake_ && *wake_ <= at && *wake_ > time_.true_now()) return;
  wake_ = at;
  time_.After(wait, [this, life = lives_, at] {
    if (life != lives_ || wake_ != at) return;
    wake_.reset();
    Pump();
  });
}

// While there may be work for the thread pools, a piece of it is done every now and then.
void CoordinatorHost::PlanWork() {
  if (!slow_workers_ || work_planned_) return;
  work_planned_ = true;
  time_.After(time_.Skewed(0.0005, 2), [this, life = lives_] {
    if (life != lives_ || life_ == nullptr) return;
    work_planned_ = false;
    life_->workers.restart();
    if (life_->workers.poll_one() > 0) Pump();
  });
}

size_t CoordinatorHost::CleanUp(Duration age) {
  const size_t blobs = coordinator::CleanUp({.store = life_->store.get(),
                                             .blobs = life_->blobs.get(),
                                             .driver = life_->driver.get(),
                                             .keep_update_rounds = 0,
                                             .tokens_before = time_.Now(),
                                             .uploads_before = FromUnixMicros(0),
                                             .blobs_before = time_.true_now() - age})
                           .blobs;
  Pump();
  return blobs;
}

void CoordinatorHost::Revoke(const DeviceId& device) {
  if (!life_->store->RevokeDevice(device, time_.Now()).ok()) return;
  life_->directory.Revoke(device, time_.Now());
  life_->driver->DeviceRevoked(device);
}

Status CoordinatorHost::StopRun(const RunId& run) {
  const Status stopped = life_->driver->StopRun(run, "its owner has enough");
  Pump();
  return stopped;
}

bool CoordinatorHost::MakeToken(const Sha256Digest& hash, const DeviceId& device, Time expires_at) {
  return life_->store->CreateToken(hash, device, expires_at).ok();
}

void CoordinatorHost::EnrolAgain(size_t device, const std::string& serial) {
  const Sha256Digest token = Sha256("token " + serial);
  coordinator::DeviceRecord record;
  record.device = Stage::DeviceName(device);
  record.serial = serial;
  record.enrolled_at = time_.Now();
  record.not_after = FromUnixMicros(int64_t{1} << 60);
  if (!life_->store->CreateToken(token, record.device, record.not_after).ok()) return;
  if (life_->store->RedeemToken(token, time_.Now(), record).ok()) life_->directory.Put(record);
}

}  // namespace heddle::system_simulation
