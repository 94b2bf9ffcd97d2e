// The part of RunCore that writes the run's folder, for people; what devices are told never waits for it.
#include <utility>

#include "common/logging.h"
#include "common/test_hooks.h"
#include "coordinator/service/run_core.h"
#include "coordinator/service/run_json.h"

namespace heddle::coordinator {

namespace {

// A folder that could not be written: what stands in its way lasts minutes, and an attempt costs a read of the history.
constexpr Duration kMendFolderEvery = std::chrono::seconds(5);
// Bytes of checkpoints that are written before devices are answered again.
constexpr uint64_t kMendAtOnce = uint64_t{64} << 20;

}  // namespace

Result<bool> RunCore::WriteFolder(uint64_t most_bytes) {
  HEDDLE_ASSIGN_OR_RETURN(const StoredRun stored, options_.store->GetRun(id()));
  HEDDLE_ASSIGN_OR_RETURN(const bool whole,
                          files_.Repair(id(), *options_.store, *options_.blobs, material_.adapter_config_json,
                                        unwritten_traffic_, most_bytes));
  if (!whole) return false;
  const Traffic now = TrafficNow();
  HEDDLE_RETURN_IF_ERROR(
      files_.WriteRun(stored.run, origin_, {now.down - start_traffic_.down, now.up - start_traffic_.up}));
  return true;
}

// A failure here is logged, and mended when the folder can be written again.
void RunCore::FolderIs(Status status) {
  const bool new_trouble = !status.ok() && status.message() != folder_state_.message();
  if (!HEDDLE_PLANTED(kForgetFolder)) folder_state_ = std::move(status);
  mend_folder_at_ = options_.clock->Now() + kMendFolderEvery;
  if (!new_trouble) return;
  Log(Severity::kError, "the run folder could not be written; it is tried again",
      {{"run_id", id().value()}, {"error", folder_state_.message()}});
}

Time RunCore::NextMend() const { return NotLaterThanIn(kMendFolderEvery, mend_folder_at_); }

void RunCore::MendFolder(bool now_too) {
  if (folder_state_.ok()) return;
  const Time now = options_.clock->Now();
  if (!now_too && now < NextMend()) return;
  const Result<bool> whole = WriteFolder(kMendAtOnce);
  if (whole.ok() && !*whole) {
    mend_folder_at_ = now;  // the rest of it, after what has come in meanwhile
    return;
  }
  FolderIs(whole.status());
  if (!folder_state_.ok()) return;
  unwritten_traffic_.clear();
  Log(Severity::kInfo, "the run folder is whole again", {{"run_id", id().value()}});
}

Time RunCore::NotLaterThanIn(Duration most, Time at) const {
  const Time now = options_.clock->Now();
  return at > now + most ? now : at;
}

// After a failure everything goes by way of MendFolder: a line must not be added to a torn one, and lines are in order.
void RunCore::WriteRound(const RoundEndedEffect& effect, const Traffic& traffic) {
  const RoundRecord& round = effect.round;
  const bool committed = round.phase == RoundPhase::kCommitted;
  if (folder_state_.ok()) {
    const RoundFigures figures = committed ? FiguresOfModel(round.model, *options_.blobs) : RoundFigures{};
    Status status = files_.AppendHistory(round, HistoryLine(round, effect.assignments, traffic, figures));
    if (committed && status.ok()) {
      status = files_.WriteCheckpoint(round.round, material_.adapter_config_json, round.model, *options_.blobs);
    }
    FolderIs(std::move(status));
    if (folder_state_.ok()) return;
  }
  unwritten_traffic_[{round.round, round.attempt}] = traffic;
}

void RunCore::On(const RoundEndedEffect& effect, std::vector<AddressedAnswer>*, std::vector<Event>*) {
  const RoundRecord& round = effect.round;
  const Traffic now = TrafficNow();
  const Traffic traffic{now.down - round_traffic_.down, now.up - round_traffic_.up};
  const bool committed = round.phase == RoundPhase::kCommitted;
  WriteRound(effect, traffic);
  const RoundLosses losses = LossesOf(effect.assignments);
  if (committed) {
    PublishAround(round.parent, round.model);
    last_train_loss_ = losses.told() ? std::optional(losses.train_loss) : std::nullopt;
    Log(Severity::kInfo, "round committed",
        {{"run_id", id().value()},
         {"round", round.round},
         {"attempt", round.attempt},
         {"updates", losses.num_accepted},
         {"train_loss", losses.train_loss},
         {"seconds", ToSeconds(round.ended_at - round.started_at)},
         {"model_sha256", round.model.ToHex()}});
    if (losses.told() && loss_watch_.Add(losses.train_loss)) {
      Log(Severity::kWarning, loss_watch_.Sentence(recipe_.train.zo().zo_eps() > 0),
          {{"run_id", id().value()}, {"round", round.round}});
    }
  } else {
    Log(Severity::kWarning, "round abandoned",
        {{"run_id", id().value()}, {"round", round.round}, {"attempt", round.attempt}, {"reason", round.reason}});
  }
  if (options_.observer.round_ended) options_.observer.round_ended(round, effect.assignments);
}

void RunCore::On(const RunEndedEffect& effect, std::vector<AddressedAnswer>*, std::vector<Event>*) {
  HEDDLE_FAILPOINT(kRunEndUnwritten);
  if (folder_state_.ok()) {
    const Result<bool> whole = WriteFolder(kMendAtOnce);
    FolderIs(whole.ok() && !*whole ? Unavailable("there is more to write") : whole.status());
  } else {
    MendFolder(true);
  }
  Log(Severity::kInfo, "run ended",
      {{"run_id", id().value()},
       {"state", StateName(effect.run.state)},
       {"rounds", effect.run.committed_rounds},
       {"reason", effect.run.reason},
       {"model_sha256", effect.run.model.ToHex()}});
  aggregator_.reset();
  if (options_.observer.run_ended) options_.observer.run_ended(effect.run);
}

}  // namespace heddle::coordinator
