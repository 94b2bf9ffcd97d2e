// The thread that owns the active run. Whatever concerns a run (check-ins, reports, time, submission, stop) is a job in
// its queue, so the engine sees one event after the other, and the disk may block here without stopping a connection.
//
// Devices that check in while there is no run wait in the lobby and are handed to the next run's engine; nothing polls.
//
// Life cycle: construct; Start (takes up the active run of the store); any calls; Stop (answers every waiting poll with
// SHUTTING_DOWN, finishes the queue, joins). Thread-safety: every method from any thread; callbacks run on the driver's
// thread and must only hand the answer on.
//
// Without a thread of its own (RunDriverOptions::own_thread = false) whoever owns the driver is that thread: it calls
// RunPending when something was asked, and at NextWake. Every method is then called from that one thread, and the
// answers to Submit and the like are given at once. For tests that play the whole coordinator on a virtual clock.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "coordinator/service/folder_repairs.h"
#include "coordinator/service/retry_spread.h"
#include "coordinator/service/run_core.h"

namespace heddle::coordinator {

using AnswerCallback = std::function<void(Answer)>;

struct RunDriverOptions {
  RunCoreOptions core;                 // observer included
  Duration lobby_hold = Seconds(300);  // a check-in without a run is answered POLL_AGAIN after this, less jitter
  size_t max_waiting = 100'000;        // polls that may wait; beyond it they are told to come back
  bool own_thread = true;              // false: the owner calls RunPending
};

class RunDriver {
 public:
  explicit RunDriver(RunDriverOptions options);
  ~RunDriver();

  // Errors: those of RunCore::Resume. The thread runs afterwards also without a run.
  Status Start();
  void Stop();

  // Does everything that is in the queue and everything that is due by the clock. Only without a thread of its own.
  void RunPending();
  // When something is due at the latest, whoever asks meanwhile; nothing while no time limit runs. On the driver's
  // thread.
  std::optional<Time> NextWake() const;

  // A check-in; `answer` is called once, unless PollGone(token) came first.
  // `memory_bytes`: that the device has for a task; 0: not known.
  PollToken Checkin(DeviceId device, std::vector<std::string> local_tasks, uint64_t memory_bytes,
                    AnswerCallback answer);
  void PollGone(PollToken token);
  // A report whose update has been looked at, with its content when that came along.
  // `looked_at`: the update of a completed report was checked; else one whose assignment is open is not taken.
  void Report(ReportEvent event, bool looked_at, InlineContent content, AnswerCallback answer);
  void DeviceRevoked(const DeviceId& device);

  // What a completed report's update must be held against: the aggregator of the present attempt and the adapter it
  // started from, when the assignment is open there; else nothing (the engine decides without looking).
  struct Expectation {
    std::shared_ptr<const aggregation::Aggregator> validator;
    std::shared_ptr<const UpdateReader> reader;
    // The adapter as that device was given it; nothing while that cannot be read.
    std::optional<Sha256Digest> start;
    DeviceView view;  // what of the model that is
  };
  std::optional<Expectation> ExpectationOf(const AssignmentId& id, const DeviceId& device) const;

  // Errors: those of RunCore::Create.
  Result<RunId> Submit(const Submission& submission);
  // Also a run that stands still because its engine cannot be rebuilt. Errors: kNotFound when it is not the active run;
  // the store's; kUnavailable.
  Status StopRun(const RunId& id, const std::string& reason);
  // The active run, or the one that ended last since the start; nothing after one that was stopped standing still.
  std::optional<RunProgress> Progress();
  // Blocks until the progress is not `seen` any more, the run has ended or the time ran out. For watchers of a run.
  struct Watch {
    std::optional<RunProgress> progress;
    uint64_t version = 0;
  };
  Watch WaitForChange(uint64_t seen, Duration timeout);
  // Runs, active and ended, whose folders lack something that could not be written, and why; it is tried again.
  std::map<RunId, std::string> FolderErrors() const;
  // Whether a device may fetch the blob.
  bool IsPublished(const Sha256Digest& digest) const;
  // The weights that a published ledger stands for, where they are kept.
  std::optional<WeightsBlob> WeightsOf(const Sha256Digest& ledger) const;
  // Whether the active run needs the blob, though no row names it. Of one that stands still it is not known: each then.
  bool IsNeeded(const Sha256Digest& digest) const;
  // Whether a run is active.
  bool busy() const { return busy_.load(); }
  // Polls that wait, for a run or in its engine.
  size_t waiting() const { return waiting_.load(); }

 private:
  struct Poll {
    DeviceId device;
    std::vector<std::string> local_tasks;
    uint64_t memory_bytes = 0;
    AnswerCallback answer;
    bool report = false;
    std::optional<Time> lobby_until;  // in the lobby
  };
  using Job = std::function<void()>;

  // False once the thread has been told to end: nothing will run any more.
  bool Post(Job job);
  template <typename T>
  T Ask(std::function<T()> question, T stopped);
  void Loop();
  void RunJobs(std::deque<Job> jobs);
  void Tick();
  void LeaveRun();
  Status StopUnready(const std::string& reason);
  void OnCheckin(PollToken token);
  // To be written and answered by the next Flush, together with what else is fed before it.
  void Feed(const Event& event, InlineContent content = nullptr);
  void Flush();
  void Deliver(Result<std::vector<AddressedAnswer>> answers);
  void AnswerAll(const std::function<Answer(const Poll&)>& answer);
  // What a device hears while the coordinator goes down.
  Answer StoppedAnswer(bool report);
  void AnswerOne(PollToken token, Answer answer);
  void EnterLobby(PollToken token, Poll& poll);
  void LeaveLobby(PollToken token, Poll& poll);
  void EmptyLobby();
  void Publish();

  RunDriverOptions options_;
  std::unique_ptr<RunCore> core_;                       // driver thread
  std::map<PollToken, Poll> polls_;                     // driver thread
  std::map<DeviceId, PollToken> lobby_;                 // driver thread
  std::set<std::pair<Time, PollToken>> lobby_by_time_;  // driver thread
  FolderRepairs repairs_{options_.core};                // driver thread: of ended runs
  uint64_t jitter_ = 0;                                 // driver thread
  size_t fed_ = 0;                                      // driver thread: events since the last Flush

  RetrySpread retry_spread_{"run driver"};
  std::atomic<PollToken> next_token_{1};
  std::atomic<bool> busy_{false};
  std::atomic<size_t> waiting_{0};

  mutable std::mutex mutex_;  // of the queue
  std::condition_variable wake_;
  std::deque<Job> queue_;
  bool stopping_ = false;
  bool started_ = false;
  bool ended_ = false;  // Stop has run; of the thread that calls it

  mutable std::mutex shared_mutex_;  // of what others read without asking
  std::condition_variable changed_;
  std::set<Sha256Digest> published_, states_;
  std::map<Sha256Digest, WeightsBlob> ledger_weights_;
  std::shared_ptr<const aggregation::Aggregator> validator_;
  std::shared_ptr<const UpdateReader> reader_;
  std::shared_ptr<const OpenAssignments> open_assignments_;
  std::optional<RunProgress> progress_;
  std::map<RunId, std::string> folder_errors_;
  uint64_t version_ = 0;
  bool stands_still_ = false;  // the active run
  bool stopped_ = false;       // nobody needs to wait for changes any more

  std::thread thread_;
};

}  // namespace heddle::coordinator
