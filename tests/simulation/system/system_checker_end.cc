// SystemChecker: the whole history of a run, at its end.
#include <cstdlib>

#include "tests/simulation/system/coordinator_host.h"
#include "tests/simulation/system/system_checker.h"

namespace heddle::system_simulation {

using coordinator::RoundPhase;
using coordinator::RoundRecord;
using coordinator::RunState;

std::pair<uint32_t, Sha256Digest> SystemChecker::CheckChain(const std::vector<RoundRecord>& rounds, RunState state) {
  Sha256Digest model = initial_;
  uint32_t version = 0, last = 0;
  for (const RoundRecord& round : rounds) last = round.phase == RoundPhase::kCommitted ? round.round : last;
  for (const RoundRecord& round : rounds) {
    if (round.parent != model) Breach("a round does not start from the last committed model");
    if (round.phase == RoundPhase::kAbandoned && round.reason.empty()) {
      Breach("an abandoned attempt does not say why");
    }
    if (round.phase != RoundPhase::kCommitted) continue;
    if (round.round != version + 1) Breach("the rounds do not follow one another");
    const bool newest = round.round == last && state == RunState::kRunning;
    CheckModel(round, models_[model], newest, &models_[round.model]);
    CheckBlob(round.model, "the model of round " + std::to_string(round.round));
    if (breach_) break;
    model = round.model;
    ++version;
  }
  return {version, model};
}

void SystemChecker::CheckState(RunState state) {
  if (stopped_ && state != RunState::kStopped) Breach("the run goes on although its owner was told that it is stopped");
}

void SystemChecker::CheckBounds() {
  const coordinator::CoordinatorConfig& config = host_.config();
  if (host_.blobs().num_uploads() > kDevices * config.max_device_uploads) {
    Breach("there are more unfinished uploads than the devices may leave");
  }
}

void SystemChecker::CheckCounted() {
  const std::string metrics = host_.MetricsText();
  for (const auto& [reason, times] : refused_) {
    const std::string name = "\nheddle_refusals_total{reason=\"" + reason + "\"} ";
    const size_t at = metrics.find(name);
    const double counted = at == std::string::npos ? 0 : std::strtod(metrics.c_str() + at + name.size(), nullptr);
    if (counted < static_cast<double>(times)) {
      Breach("the metrics know " + std::to_string(counted) + " of " + std::to_string(times) + " refusals " + reason);
    }
  }
}

// From the store alone, as an auditor would.
void SystemChecker::AtEnd() {
  auto run = host_.store().GetRun(*run_);
  auto rounds = host_.store().ListRounds(*run_);
  if (!run.ok() || !rounds.ok()) return Breach("the run cannot be read at the end");
  if (rounds->back().phase != RoundPhase::kCommitted && rounds->back().phase != RoundPhase::kAbandoned) {
    return Breach("a round is open after the end of the run");
  }
  CheckState(run->run.state);
  CheckCounted();
  const auto [version, model] = CheckChain(*rounds, run->run.state);
  if (run->run.state == RunState::kComplete && version != spec_.rounds) Breach("rounds are missing");
  if (run->run.model != model || run->run.committed_rounds != version) Breach("the run does not name its last model");
  for (const auto& [id, verdict] : verdicts_) CheckRow(id, verdict);
}

}  // namespace heddle::system_simulation
