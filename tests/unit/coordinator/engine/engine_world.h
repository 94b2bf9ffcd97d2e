// An engine with the least world around it that its tests need: rows in memory, a clock that stands until it is told to
// go, polls and reports with short names. Every step goes past the contract checker; a breach fails the test.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/engine/engine.h"
#include "tests/simulation/coordinator/contract_checker.h"

namespace heddle::coordinator::testing {

// Two of two devices, one commit; every time limit differs from every other.
RunSpec SmallSpec();

inline Sha256Digest DigestOf(const std::string& text) { return Sha256(text); }

class World {
 public:
  explicit World(RunSpec spec);

  // ---- time ----
  Time now() const { return now_; }
  void Go(Duration by) { now_ += by; }
  // To the engine's next deadline, and ticks there.
  Step TickAtDeadline();
  // Lets `by` pass and ticks.
  Step TickAfter(Duration by);

  // ---- events ----
  Step Do(const Event& event);
  Step Checkin(const std::string& device, uint64_t memory_bytes = 0);
  Step PollGone(const std::string& device);  // the device's last check-in
  // Reports of the device's newest assignment.
  Step Report(const std::string& device);
  Step ReportFailed(const std::string& device, const std::string& message = "out of memory");
  Step ReportInvalid(const std::string& device, int reason = 7, const std::string& message = "an element is NaN");
  Step ModelReady(const std::string& model = "");  // the commit under way; default name: "model <round>"
  Step ModelFailed(const std::string& reason);
  Step Revoke(const std::string& device);
  Step Stop(const std::string& reason);

  // A report on this assignment that is all right; a start for others.
  ReportEvent GoodReport(const AssignmentRecord& assignment);

  // The coordinator dies and comes back `down` later: the same run from the rows. Polls are gone.
  Step Restart(Duration down = {});
  Snapshot SnapshotOfRows() const;

  // ---- looking ----
  const Engine& engine() const { return *engine_; }
  const RunSpec& spec() const { return spec_; }
  const RoundRecord& round() const { return *engine_->round(); }
  const Step& last() const { return last_; }
  const AssignmentRecord& Newest(const std::string& device) const;
  const std::map<AssignmentId, AssignmentRecord>& rows() const { return assignments_; }
  const std::map<std::pair<uint32_t, uint32_t>, RoundRecord>& rounds() const { return rounds_; }
  const RunRecord& run_row() const { return run_; }
  // Devices whose check-in waits.
  std::set<std::string> Waiting() const;
  // Devices that got a task in this step, sorted by name.
  static std::set<std::string> Assigned(const Step& step);
  std::set<std::string> AtWork() const;

 private:
  void Take(const Step& step);

  RunSpec spec_;
  Time now_ = FromUnixMicros(1'700'000'000'000'000);
  std::optional<Engine> engine_;
  ContractChecker checker_;
  Step last_;
  PollToken next_token_ = 1;
  std::map<std::string, PollToken> poll_of_;  // the last one, answered or not
  std::map<PollToken, std::string> unanswered_;
  std::map<std::string, AssignmentId> newest_;
  RunRecord run_;
  std::map<std::pair<uint32_t, uint32_t>, RoundRecord> rounds_;
  std::map<AssignmentId, AssignmentRecord> assignments_;
};

// All effects of one kind, in order.
template <typename E>
std::vector<E> All(const Step& step) {
  std::vector<E> found;
  for (const Effect& effect : step.effects) {
    if (const auto* e = std::get_if<E>(&effect)) found.push_back(*e);
  }
  return found;
}

// The only one; fails the test when there are none or more.
template <typename E>
E Only(const Step& step) {
  std::vector<E> found = All<E>(step);
  EXPECT_EQ(found.size(), 1U);
  return found.empty() ? E{} : found.front();
}

// Of SmallSpec: both devices of a round.
inline void FillTwo(World& world) {
  world.Checkin("a");
  world.Checkin("b");
}

template <typename R>
std::vector<R> Rows(const Step& step) {
  std::vector<R> found;
  for (const Record& record : step.writes) {
    if (const auto* r = std::get_if<R>(&record)) found.push_back(*r);
  }
  return found;
}

}  // namespace heddle::coordinator::testing
