// A hostile world around the engine and the store, drawn from one seed: devices that are slow, fail, lie, repeat
// themselves and lose messages; a coordinator that dies at any step; a disk that fails, fills up and loses its power in
// the middle of a write. Time is virtual. The same seed gives the same world, event by event.
//
// Run() plays one run to its end and returns the first breach of the contract, or nothing.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <string>
#include <vector>

#include "common/random.h"
#include "coordinator/engine/engine.h"
#include "coordinator/store/store.h"
#include "tests/simulation/coordinator/contract_checker.h"
#include "tests/simulation/coordinator/memory_disk.h"

namespace heddle::coordinator::testing {

// What happened, so that a test can tell that the worlds it ran were worth running.
struct WorldCounts {
  uint64_t steps = 0, crashes_before = 0, crashes_after = 0, disk_faults = 0, power_cuts = 0, found_after_error = 0;
  uint64_t accepted = 0, late = 0, invalid = 0, superseded = 0, noted = 0, repeated = 0, unknown = 0;
  uint64_t committed = 0, abandoned = 0, complete = 0, failed = 0, stopped = 0;
};

class CoordinatorWorld {
 public:
  explicit CoordinatorWorld(uint64_t seed);
  ~CoordinatorWorld();

  std::optional<std::string> Run();

  const WorldCounts& counts() const { return counts_; }
  const RunSpec& spec() const { return spec_; }
  // The last events, a line each.
  std::string Trace() const;
  // Of everything that happened: equal for equal worlds.
  Sha256Digest Fingerprint();

 private:
  struct Device;
  struct Happening {
    Time at;
    uint64_t order = 0;
    std::function<void()> what;
    bool operator>(const Happening& other) const { return std::tie(at, order) > std::tie(other.at, other.order); }
  };

  // ---- the world ----
  bool Chance(double probability) { return random_.NextUniform() < probability; }
  Duration Between(double low_s, double high_s) { return Seconds(low_s + (high_s - low_s) * random_.NextUniform()); }
  void After(Duration delay, std::function<void()> what);
  void Note(const std::string& line);
  void Breach(const std::string& sentence);

  // ---- the coordinator ----
  void Start();              // opens the store; creates or restores the run
  void Die(bool power_cut);  // and starts again after a while
  void BreakPolls();
  void FindUncertain();
  void Feed(const Event& event);                       // one event, with every fault that may meet it
  bool Durable(const Event& event, const Step& step);  // false: the coordinator died or starts anew
  void CarryOut(const Step& step);
  void Do(const Effect& effect);
  void ScheduleTick();
  void CompareRows();

  // ---- devices ----
  void Checkin(Device& device);
  void CheckinAfter(Device& device, Duration delay);
  void Answered(PollToken token, const std::function<void(Device&)>& what);
  void Train(Device& device, const AssignmentRecord& assignment);
  void SendReport(Device& device, ReportEvent report, bool repetition);
  void HearVerdict(Device& device, const ReportEvent& report, const VerdictEffect& effect);

  // ---- the end ----
  void CheckEnd();

  PhiloxStream random_;
  RunSpec spec_;
  double crash_rate_ = 0, disk_fault_rate_ = 0;
  Time now_, deadline_of_world_;
  uint64_t order_ = 0;
  std::priority_queue<Happening, std::vector<Happening>, std::greater<>> queue_;
  std::optional<std::string> breach_;
  std::vector<std::string> trace_;
  Sha256Hasher fingerprint_;
  WorldCounts counts_;

  MemoryDisk disk_;
  std::unique_ptr<Store> store_;
  std::optional<Engine> engine_;  // none: the coordinator is down
  ContractChecker checker_;
  uint64_t life_ = 0;  // of the coordinator: what it had begun ends with it
  std::vector<Sha256Digest> sum_;
  struct Uncertain {
    Time at;
    Event event;
    Step step;
  };
  std::vector<Uncertain> uncertain_;  // answered with an error, and nothing was written since
  bool ended_ = false;

  struct Poll {
    size_t device;
    std::optional<ReportEvent> report;
    bool repetition = false;
  };
  PollToken next_token_ = 1;
  std::map<PollToken, Poll> polls_;
  std::vector<std::unique_ptr<Device>> devices_;
};

}  // namespace heddle::coordinator::testing
