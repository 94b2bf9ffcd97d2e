// The coordinator of a simulated world: the service's own DeviceApi, RunDriver, Store and BlobStore in one thread, with
// a disk that can fail, die in the middle of an operation and lose what was not synced.
//
// Life cycle: construct; Start; Pump after everything that concerned it; Die or Stop; Start again … Not thread-safe.
// While dying() is true the process is dead but has not been cleared away: whatever it says reaches nobody.
#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "coordinator/service/device_api.h"
#include "coordinator/service/metrics.h"
#include "tests/simulation/coordinator/memory_disk.h"
#include "tests/simulation/system/stage.h"
#include "tests/simulation/system/timeline.h"
#include "tests/support/local_exchange.h"

namespace heddle::system_simulation {

class CoordinatorHost {
 public:
  CoordinatorHost(Stage& stage, Timeline& time, uint64_t seed);
  ~CoordinatorHost();

  // Called when an attempt of a round has ended.
  std::function<void(const coordinator::RoundRecord&)> round_ended;
  // Called when the process is gone, while what its connections hang on is still there: they must go now.
  std::function<void()> gone;
  // Called when the process has died of an armed crash.
  std::function<void(bool power_cut)> died;

  // ---- life and death ----
  // Errors: what the storage answers; the coordinator is down then.
  Status Start();
  void Die(bool power_cut);
  // The orderly way.
  void Stop();
  bool up() const { return life_ != nullptr && !dying_; }
  bool dying() const { return dying_; }
  uint64_t lives() const { return lives_; }
  // The process dies in the n-th operation on the disk from now on.
  void ArmCrash(uint64_t n, bool power_cut);
  // One operation on the disk fails, soon; or everything that writes does; or the database cannot be read, or is locked
  // by another process. Until Heal.
  void FailOnce();
  void FillDisk();
  void FailReads();
  void FailReadsOfBlobs();
  void LockDatabase();
  void Heal();
  // The folders of runs cannot be written, or can again: beside all other troubles. Heal leaves it as it is.
  void BlockRuns();
  void UnblockRuns();
  // What a kill or a power cut takes of the end of a run's history, at most so many bytes.
  void TearHistory(const RunId& run, uint32_t bytes);

  // ---- use; only while up ----
  Result<RunId> Submit(const std::string& recipe);
  std::shared_ptr<testing::LocalExchange> Open(protocol::RequestHead head, protocol::Peer peer);
  void Serve(const std::shared_ptr<testing::LocalExchange>& exchange);
  // Does everything that can be done now, and plans what is due later.
  void Pump();
  const std::filesystem::path& RunsFolder() const { return runs_; }
  // Deletes what nothing needs, of blobs those that are older than this. Returns how many.
  size_t CleanUp(Duration age);
  void Revoke(const DeviceId& device);
  // As its owner asks. Errors: those of RunDriver::StopRun.
  Status StopRun(const RunId& run);
  // Whether the database can be written and read now; what is wrong with the blobs is not asked.
  bool database_works() const { return up() && !database_trouble_; }
  void EnrolAgain(size_t device, const std::string& serial);
  // As an operator makes one. False: the disk.
  bool MakeToken(const Sha256Digest& hash, const DeviceId& device, Time expires_at);
  const coordinator::CoordinatorConfig& config() const { return config_; }
  // Of all its lives.
  std::string MetricsText() { return metrics_.Text({}); }
  coordinator::Store& store() { return *life_->store; }
  coordinator::BlobStore& blobs() { return *life_->blobs; }
  coordinator::RunDriver& driver() { return *life_->driver; }

 private:
  // In the order of what holds on to what: requests under way, in the two contexts, hold uploads and shares of the
  // API's limits; answers under way, in the driver, hold timers of io.
  struct Life {
    std::unique_ptr<coordinator::Store> store;
    std::unique_ptr<coordinator::BlobStore> blobs;
    coordinator::DeviceDirectory directory;
    std::unique_ptr<coordinator::DeviceApi> api;
    boost::asio::io_context io{1};
    boost::asio::io_context workers{1};  // what the service does on its thread pools
    std::unique_ptr<coordinator::RunDriver> driver;
  };
  TornFiles& files() { return stage_.files(); }
  Status OpenLife(Life& life);
  void Clear();
  void Poll();
  void PlanWake();
  void PlanWork();

  Stage& stage_;
  std::filesystem::path runs_ = stage_.runs();
  Timeline& time_;
  coordinator::testing::MemoryDisk disk_;
  coordinator::CoordinatorConfig config_;
  coordinator::Metrics metrics_;
  bool slow_workers_;  // work off the io threads takes its time
  std::unique_ptr<Life> life_;
  uint64_t lives_ = 0;
  bool dying_ = false, power_cut_ = false, database_trouble_ = false;
  std::optional<Time> wake_;  // planned, in true time
  bool work_planned_ = false;
};

}  // namespace heddle::system_simulation
