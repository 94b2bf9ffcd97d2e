// The half of RunDriver that begins, takes up and ends runs.
#include <future>
#include <utility>

#include "common/logging.h"
#include "common/test_hooks.h"
#include "coordinator/service/run_driver.h"

namespace heddle::coordinator {
namespace {

// A run that cannot be taken up ends as failed: else it would keep the next one, or the coordinator, from starting.
Status EndAsFailed(Store& store, RunRecord run, const std::string& reason, Time now) {
  run.state = RunState::kFailed;
  run.reason = reason;
  run.ended_at = now;
  const std::vector<Record> writes = {run};
  return store.Apply(writes);
}

// What a later start would not cure: the run's own recipe, rows or blobs are at fault, not the disk of the moment.
bool IsPermanent(Code code) {
  return code == Code::kDataLoss || code == Code::kInvalidArgument || code == Code::kNotFound ||
         code == Code::kUnimplemented;
}

Status NotActive(const RunId& run) { return NotFound("run " + run.value() + " is not active"); }

}  // namespace

Status RunDriver::Start() {
  HEDDLE_ASSIGN_OR_RETURN(const std::optional<RunId> active, options_.core.store->ActiveRun());
  if (active) {
    auto core = RunCore::Resume(options_.core, *active);
    if (core.ok()) {
      core_ = *std::move(core);
      Log(Severity::kInfo, "run taken up", {{"run_id", active->value()}, {"round", core_->Progress().round}});
    } else if (IsPermanent(core.status().code())) {
      HEDDLE_ASSIGN_OR_RETURN(const StoredRun stored, options_.core.store->GetRun(*active));
      HEDDLE_RETURN_IF_ERROR(EndAsFailed(*options_.core.store, stored.run,
                                         "it could not be taken up: " + core.status().message(),
                                         options_.core.clock->Now()));
      Log(Severity::kError, "a run could not be taken up and has failed",
          {{"run_id", active->value()}, {"error", core.status().message()}});
    } else {
      return core.status().Annotate("taking up run " + active->value());
    }
  }
  repairs_.Tick();
  Publish();
  {
    std::lock_guard lock(mutex_);
    started_ = true;
  }
  if (options_.own_thread) thread_ = std::thread([this] { Loop(); });
  return OkStatus();
}

// Runs on the driver's thread and waits; `stopped` when that thread does not run.
template <typename T>
T RunDriver::Ask(std::function<T()> question, T stopped) {
  std::promise<T> promise;
  std::future<T> answer = promise.get_future();
  {
    std::unique_lock lock(mutex_);
    if (stopping_ || !started_) return stopped;
    if (!options_.own_thread) {
      lock.unlock();
      return question();
    }
    queue_.emplace_back([&] { promise.set_value(question()); });
  }
  wake_.notify_one();
  return answer.get();
}

// The run before, which has ended: what its folder still lacks.
void RunDriver::LeaveRun() {
  core_->MendFolder(true);
  if (core_->folder_state().ok()) return;
  repairs_.Add(core_->id(), core_->folder_state().message());
}

Result<RunId> RunDriver::Submit(const Submission& submission) {
  return Ask<Result<RunId>>(
      [&]() -> Result<RunId> {
        if (core_ && core_->running()) {
          return FailedPrecondition("run " + core_->id().value() + " is active; stop it or wait for its end");
        }
        Flush();  // late reports on the run of before
        HEDDLE_ASSIGN_OR_RETURN(std::unique_ptr<RunCore> core, RunCore::Create(options_.core, submission));
        if (core_) LeaveRun();
        core_ = std::move(core);
        EmptyLobby();
        Publish();  // whoever hears of the run can watch it
        Log(Severity::kInfo, "run started", {{"run_id", core_->id().value()}, {"rounds", core_->spec().rounds}});
        return core_->id();
      },
      Unavailable("the coordinator is shutting down"));
}

Status RunDriver::StopUnready(const std::string& reason) {
  const RunId id = core_->id();
  HEDDLE_ASSIGN_OR_RETURN(const RunState state, core_->StopUnready(reason));
  LeaveRun();
  core_.reset();
  {
    std::lock_guard lock(shared_mutex_);
    progress_.reset();
    open_assignments_.reset();
    validator_.reset();
    reader_.reset();
    stands_still_ = false;
    ++version_;
  }
  changed_.notify_all();
  Publish();
  return state == RunState::kStopped ? OkStatus() : NotActive(id);
}

Status RunDriver::StopRun(const RunId& id, const std::string& reason) {
  return Ask<Status>(
      [&]() -> Status {
        if (!core_ || !core_->running() || core_->id() != id) return NotActive(id);
        Flush();
        auto answers = core_->Handle(StopRunEvent{reason});
        Status status = answers.status();
        Deliver(std::move(answers));
        if (!status.ok() && !core_->ready() && !HEDDLE_PLANTED(kStopNeedsEngine)) return StopUnready(reason);
        if (!status.ok() || core_->Progress().run.state == RunState::kStopped) return status;
        // Its end was stored before, by a step of which it was only heard that it failed.
        return NotActive(id);
      },
      Unavailable("the coordinator is shutting down"));
}

}  // namespace heddle::coordinator
