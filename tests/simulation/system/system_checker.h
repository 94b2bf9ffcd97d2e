// Holds a simulated coordinator to the contract (DESIGN 5) from outside: it sees every answer that is given, every
// restart and the store, and keeps books of its own. The first breach is kept.
//
//   1, 2   an accepted update has its row at once and for ever; a repeated report gets the same bytes again; no
//          assignment is answered for a device that it was not given to
//   3      the model of every committed round, and what its method remembers, is computed anew from the accepted rows
//          and from what the devices really trained, with code of its own, and must have the same digest
//          A ledger leads to the weights that it names, and a patch to the ledger that was asked for
//          A device is asked for the layers that are its own, and gets the adapter's tensors of these alone
//   4      the chain of rounds explains itself from the store and the blobs alone, and everything it names is there
//   5      what is due is done; deadlines stand; an attempt with enough updates commits, an abandoned one says why
//   6      every refusal is typed and comes with its own HTTP status; each flaw gets its own reason; a good update is
//          never called invalid, nor late while its round collects
//
// Not thread-safe; one a world.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "protocol/v1/device.pb.h"
#include "tests/simulation/system/coordinator_host.h"
#include "tests/simulation/system/layers.h"
#include "tests/simulation/system/ledgers.h"
#include "tests/simulation/system/network.h"
#include "tests/simulation/system/updates.h"

namespace heddle::system_simulation {

struct Counts {
  uint64_t answers = 0, refusals = 0, accepted = 0, late = 0, invalid = 0, superseded = 0, noted = 0, repeated = 0;
  uint64_t committed = 0, abandoned = 0, restarts = 0, power_cuts = 0, storage_errors = 0, jumps = 0, rogue = 0;
  uint64_t patches = 0;                      // of ledgers, to devices that had an earlier one
  uint64_t short_forms = 0;                  // of assignments
  uint64_t tensors = 0;                      // of the base model, fetched by themselves
  uint64_t cleaned = 0;                      // blobs that were thrown away
  std::map<std::string, uint64_t> happened;  // of each kind of flaw, weather and trouble
};

// Rounds above `after` have a cohort and steps of their own.
struct SecondStage {
  uint32_t after = 0, cohort_size = 0, local_steps = 0;
};

class SystemChecker {
 public:
  // `seed`: of the world. `cleans`: the coordinator throws away what nothing needs any more. `rounds_downloads`:
  // devices get models in bfloat16.
  SystemChecker(Timeline& time, CoordinatorHost& host, uint64_t seed, Method method, bool cleans, bool rounds_downloads,
                std::optional<SecondStage> second_stage)
      : time_(time),
        host_(host),
        seed_(seed),
        method_(method),
        cleans_(cleans),
        rounds_downloads_(rounds_downloads),
        second_stage_(second_stage) {}
  bool cleans() const { return cleans_; }

  const std::optional<std::string>& breach() const { return breach_; }
  void Breach(const std::string& sentence);
  Counts counts;

  // ---- what the world tells ----
  // Just submitted; the store has its row.
  void RunBegan(const RunId& run);
  // The device asks for a task, and tells this memory.
  void Told(const std::string& device, uint64_t memory) { told_[device].insert(LayersWithin(memory)); }
  // The device has trained this for this assignment.
  void Made(const std::string& device, const std::string& assignment, const MadeUpdate& update);
  // Storage fails, a crash, the clock is set: limits of time are not exact for a while.
  void Disturbed() { disturbed_at_ = time_.true_now(); }
  void PowerWasCut() {
    ++counts.power_cuts;
    power_cut_at_ = time_.true_now();
  }
  void ClockWasSetBack(Duration by) { set_back_ += by; }
  // The owner was told that the run is stopped.
  void WasStopped() { stopped_ = true; }
  void WasRevoked(const std::string& device) { revoked_.insert(device); }
  // No fault from now on but those of malicious devices.
  void FaultsEnd() { faults_ended_at_ = time_.true_now(); }

  // ---- what happens ----
  void OnAnswer(const std::string& device, const Request& request, const Network::Answer& answer);
  void OnRestart();
  void OnRoundEnded(const coordinator::RoundRecord& round);
  void AfterPump();
  // The run's state may be this, as far as the owner has been told anything.
  void CheckState(coordinator::RunState state);
  void AtEnd();

  Duration set_back() const { return set_back_; }
  const std::optional<RunId>& run() const { return run_; }
  const coordinator::RunSpec& spec() const { return spec_; }
  const StateDictSpec& model_spec() const { return model_spec_; }
  bool has_ledger() const { return HasLedger(method_); }
  bool has_layers() const { return HasLayers(method_); }
  uint64_t MemoryOf(const std::string& device) const { return system_simulation::MemoryOf(method_, seed_, device); }
  uint64_t RealMemoryOf(const std::string& device) const {
    return system_simulation::RealMemoryOf(method_, seed_, device);
  }
  // What a device sends for this task: of the model, or of its layers. With a flaw of layers those of another
  // (layers.h), and *flaw becomes what it is in truth.
  StateDictSpec SentFor(const std::string& device, const v1::TaskAssignment& task, uint64_t key, Flaw* flaw) const;
  // The proof of a device that starts this task with this ledger; empty: there is none yet. A breach when the ledger
  // does not lead to the weights that it names.
  Sha256Digest ProofFor(const v1::TaskAssignment& task, const std::string& ledger_bytes);
  // A few that have been given out, for those who make mischief with them.
  const std::vector<std::pair<std::string, std::string>>& issued_list() const { return issued_list_; }  // id, device
  // A good update that somebody has made; nothing when there is none.
  const MadeUpdate* SomeUpdate(uint32_t pick) const;

 private:
  struct Issued {
    std::string device;
    uint32_t round = 0, attempt = 0;
    int64_t deadline = 0;
  };
  struct Known {
    MadeUpdate update;
    Time made_at;  // for the first time; a device that forgot makes the same again
    // A copy with other bytes than the digest says has the digest of the right one; a device that forgot may make both.
    bool right_copy = false, wrong_copy = false;
    bool honest = false;  // made at least once without any flaw
    // A device whose report was wrong once may have sent the good bytes, and name them in a good report later.
    bool may_count() const { return update.values != nullptr && right_copy; }
    std::set<std::pair<std::string, std::string>> by;  // device, assignment
  };
  struct Verdict {
    std::string bytes;  // the answer
    v1::ReportVerdict verdict{};
  };

  // What devices have left on the disk is within what the configuration lets each of them leave.
  void CheckBounds();
  // Each refusal that anybody heard is in the metrics, under its reason.
  void CheckCounted();
  void CheckTyped(const Request& request, const Network::Answer& answer);
  void OnCheckin(const std::string& device, const Network::Answer& answer);
  void OnReport(const std::string& device, const Request& request, const Network::Answer& answer);
  void OnMismatch(const Request& request);
  void OnUpload(const Request& request, const Network::Answer& answer);
  void OnFirstVerdict(const std::string& device, const v1::ReportRequest& request, const v1::ReportResponse& response);
  void CheckRow(const std::string& id, const Verdict& verdict);
  void CheckAccepted(const std::string& device, const std::string& id);
  void CheckLate(const std::string& device, const std::string& id);
  void CheckAbandoned(const coordinator::RoundRecord& round);
  // Rounds that were committed, from the first on: their models, and that one follows from the other. Returns the
  // number and the digest of the last.
  std::pair<uint32_t, Sha256Digest> CheckChain(const std::vector<coordinator::RoundRecord>& rounds,
                                               coordinator::RunState state);
  void CheckModel(const coordinator::RoundRecord& round, const Version& parent, bool newest, Version* next);
  // What follows from these rows, and its files.
  VersionFiles Follow(const coordinator::RoundRecord& round, const Version& parent,
                      const std::vector<std::pair<const MadeUpdate*, uint64_t>>& accepted, Version* next);
  const Values& Replayed(const zo::Ledger& ledger);
  void CheckBlob(const Sha256Digest& digest, const std::string& what);
  bool IsLater(uint32_t round) const { return second_stage_ && round > second_stage_->after; }
  uint32_t CohortOf(uint32_t round) const { return IsLater(round) ? second_stage_->cohort_size : spec_.cohort_size; }
  void CheckStart(const std::string& device, const v1::TaskAssignment& task);
  Share ShareFor(const std::string& device, const v1::TaskAssignment& task) const;
  void Count(v1::ReportVerdict verdict);

  Timeline& time_;
  CoordinatorHost& host_;
  uint64_t seed_;
  Method method_;
  bool cleans_, rounds_downloads_, stopped_ = false;
  std::optional<SecondStage> second_stage_;
  std::optional<std::string> breach_;
  std::optional<RunId> run_;
  coordinator::RunSpec spec_;
  StateDictSpec model_spec_;
  Sha256Digest initial_;
  std::map<Sha256Digest, Version> models_;  // as computed here
  // What devices with these layers get of them; without layers: where downloads are rounded.
  std::map<std::pair<Sha256Digest, Layers>, Sha256Digest> starts_;
  std::map<std::string, Values> replays_;  // by the ledger's packed form, without its weights
  std::map<Sha256Digest, Known> updates_;
  std::map<std::string, std::set<uint32_t>> told_;  // how many layers devices ever had memory for, as they told it
  std::map<std::string, Issued> issued_;
  std::map<std::string, uint64_t> refused_;         // by reason
  std::set<std::string> revoked_;                   // once, at least
  std::map<uint64_t, v1::TaskAssignment> lasting_;  // parts of assignments by their keys
  std::vector<std::pair<std::string, std::string>> issued_list_;
  std::map<std::pair<uint32_t, uint32_t>, int64_t> deadlines_;  // of attempts, as devices were told
  std::map<std::string, Verdict> verdicts_;                     // by assignment
  std::optional<Time> disturbed_at_, power_cut_at_, faults_ended_at_;
  Duration set_back_{0};
};

}  // namespace heddle::system_simulation
