// Watches an engine from outside and holds it to its contract: every rule of engine.h that can be seen in events,
// writes and effects, judged by a bookkeeping of its own. Used by the unit tests, the fault simulation and the fuzzer.
//
// Use: BeforeEvent, then AfterStep with the engine's answer, for every event; Restarted after Engine::Restore. The
// first breach found is kept in breach(); what comes after it is not judged. Not thread-safe.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "coordinator/engine/engine.h"

namespace heddle::coordinator::testing {

class ContractChecker {
 public:
  explicit ContractChecker(RunSpec spec) : spec_(std::move(spec)) {}

  void Created(const Engine& engine, Time now, const Step& first);
  // The old engine is gone, with its polls. What its last step wrote counts when `Written` was called for it.
  void Restarted(const Engine& engine, Time now, const Step& first);

  void BeforeEvent(Time now, const Event& event);
  // The step was made durable; its effects were carried out (or lost by a crash, which is the same to the engine).
  void AfterStep(const Engine& engine, const Step& step);
  // The step was made durable, but the driver died before it carried out any effect.
  void Written(const Step& step);

  const std::optional<std::string>& breach() const { return breach_; }

  // What the store holds by now; assignments by id.
  const std::optional<RunRecord>& run() const { return run_; }
  const std::map<AssignmentId, AssignmentRecord>& assignments() const { return assignments_; }
  const std::map<std::pair<uint32_t, uint32_t>, RoundRecord>& rounds() const { return rounds_; }

 private:
  using AttemptKey = std::pair<uint32_t, uint32_t>;

  void Expect(bool condition, const std::string& sentence);
  // Of the second stage.
  bool IsLater(uint32_t round) const { return spec_.first_stage_rounds != 0 && spec_.first_stage_rounds < round; }

  void OnWrite(const Record& record);
  void OnWrite(const RunRecord& run);
  void OnWrite(const RoundRecord& round);
  void OnWrite(const AssignmentRecord& assignment);

  void OnEffect(const Effect& effect);
  void OnEffect(const AssignEffect& effect);
  void OnEffect(const RejectEffect& effect);
  void OnEffect(const FoldEffect& effect);
  void OnEffect(const VerdictEffect& effect);
  void OnEffect(const UnknownAssignmentEffect& effect);
  void OnEffect(const CommitEffect& effect);
  void OnEffect(const ResetSumEffect& effect);
  void OnEffect(const RoundEndedEffect& effect);
  void OnEffect(const RunEndedEffect& effect);

  void CheckState(const Engine& engine);
  uint32_t AllowedLayers(uint64_t memory_bytes) const;
  void CheckVerdict(const AssignmentRecord& row, const VerdictEffect& effect);
  std::set<AssignmentId> AcceptedOf(AttemptKey key) const;

  RunSpec spec_;
  std::optional<std::string> breach_;
  Time now_;

  // Rows.
  std::optional<RunRecord> run_;
  std::map<AttemptKey, RoundRecord> rounds_;
  std::map<AssignmentId, AssignmentRecord> assignments_;

  // What the driver knows.
  struct Poll {
    DeviceId device;
    Time since;
    uint64_t memory_bytes = 0;
  };
  std::map<PollToken, Poll> polls_;
  std::set<AssignmentId> given_;       // that were told of
  std::optional<ReportEvent> report_;  // of the present event
  bool report_answered_ = false;
  bool restoring_ = false;
  std::map<AssignmentId, VerdictEffect> verdicts_;
  AttemptKey sum_of_{0, 0};
  std::set<AssignmentId> folded_;
  bool run_ended_ = false;
  std::set<AttemptKey> ended_;
};

}  // namespace heddle::coordinator::testing
