#include "coordinator/service/run_driver.h"

#include <algorithm>
#include <utility>

#include "common/logging.h"
#include "common/random.h"
#include "protocol/refusal.h"

namespace heddle::coordinator {
namespace {

// Of one transaction: what waits for the disk together. Bounds its memory and the time until the first is answered.
constexpr size_t kMaxEventsPerCommit = 512;

}  // namespace

RunDriver::RunDriver(RunDriverOptions options) : options_(std::move(options)) {}

RunDriver::~RunDriver() { Stop(); }

Answer RunDriver::StoppedAnswer(bool report) {
  if (report) return Unavailable("the coordinator is shutting down; send the report again");
  return protocol::MakeRejection(v1::REJECTION_REASON_SHUTTING_DOWN, retry_spread_.From(Seconds(2)));
}

void RunDriver::Stop() {
  if (!started_ || std::exchange(ended_, true)) return;
  Post([this] {
    Flush();
    if (core_) core_->MendFolder(true);
    AnswerAll([this](const Poll& poll) { return StoppedAnswer(poll.report); });
  });
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) {
    thread_.join();
  } else {
    RunPending();
  }
  // What came in after the answers and before the end of the queue.
  AnswerAll([this](const Poll& poll) { return StoppedAnswer(poll.report); });
  {
    std::lock_guard lock(shared_mutex_);
    ++version_;
    stopped_ = true;
  }
  changed_.notify_all();
}

// ---- the thread ----

bool RunDriver::Post(Job job) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return false;
    queue_.push_back(std::move(job));
  }
  wake_.notify_one();
  return true;
}

void RunDriver::Loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (queue_.empty()) {
      if (stopping_) return;
      lock.unlock();
      const std::optional<Time> next = NextWake();  // reads the thread's own state only
      lock.lock();
      if (queue_.empty() && !stopping_) {
        const Time now = options_.core.clock->Now();
        // Not longer than a minute, so that a clock that was set is noticed.
        const Duration most = Seconds(60);
        if (!next || *next > now) wake_.wait_for(lock, next ? std::min(most, *next - now) : most);
      }
    }
    std::deque<Job> jobs;
    jobs.swap(queue_);
    lock.unlock();
    RunJobs(std::move(jobs));
    lock.lock();
  }
}

void RunDriver::RunJobs(std::deque<Job> jobs) {
  for (Job& job : jobs) {
    job();
    if (fed_ >= kMaxEventsPerCommit) Flush();
  }
  Flush();
  Tick();
  Flush();
  Publish();
}

void RunDriver::RunPending() {
  HEDDLE_ASSERT(!options_.own_thread, "the driver's own thread does its work");
  for (bool more = true; more;) {
    std::deque<Job> jobs;
    {
      std::lock_guard lock(mutex_);
      jobs.swap(queue_);
    }
    RunJobs(std::move(jobs));
    std::lock_guard lock(mutex_);
    more = !queue_.empty();
  }
}

std::optional<Time> RunDriver::NextWake() const {
  std::optional<Time> next;
  if (core_) next = core_->NextDeadline();
  if (const auto repair = repairs_.NextDeadline()) next = next ? std::min(*next, *repair) : *repair;
  if (!lobby_by_time_.empty()) {
    const Time until = lobby_by_time_.begin()->first;
    next = next ? std::min(*next, until) : until;
  }
  return next;
}

void RunDriver::Tick() {
  const Time now = options_.core.clock->Now();
  if (core_) {
    const std::optional<Time> due = core_->NextDeadline();
    if (due && *due <= now) Feed(TickEvent{});
  }
  repairs_.Tick();
  while (!lobby_by_time_.empty() && lobby_by_time_.begin()->first <= now) {
    const PollToken token = lobby_by_time_.begin()->second;
    AnswerOne(token, protocol::MakeRejection(v1::REJECTION_REASON_POLL_AGAIN, Duration(0)));
  }
}

void RunDriver::Publish() {
  busy_ = core_ && core_->running();
  waiting_ = polls_.size();
  std::map<RunId, std::string> folder_errors = repairs_.untold();
  if (core_ && !core_->folder_state().ok()) folder_errors[core_->id()] = core_->folder_state().message();
  const auto key = [](const auto& error) { return error.first; };
  bool changed = false;
  {
    std::lock_guard lock(shared_mutex_);
    changed = !std::ranges::equal(folder_errors, folder_errors_, {}, key, key);  // of whose, not the words
    folder_errors_ = std::move(folder_errors);
    if (core_) {
      RunProgress now = core_->Progress();
      if (!core_->ready() && progress_ && progress_->run.id == now.run.id) {  // nothing newer is known
        now = *progress_;
        now.storage_error = core_->storage_state().message();
      }
      const auto same = [](const RunProgress& a, const RunProgress& b) {
        return a.run.id == b.run.id && a.run.state == b.run.state && a.round == b.round && a.attempt == b.attempt &&
               a.phase == b.phase && a.accepted == b.accepted && a.open == b.open && a.waiting == b.waiting &&
               a.run.committed_rounds == b.run.committed_rounds && a.storage_error.empty() == b.storage_error.empty();
      };
      changed = changed || !progress_ || !same(*progress_, now);
      progress_ = std::move(now);
      stands_still_ = !core_->ready();
      validator_ = core_->validator();
      reader_ = core_->reader();
      open_assignments_ = core_->open_assignments();
      if (published_ != core_->published()) published_ = core_->published();
      if (states_ != core_->states()) states_ = core_->states();
      if (ledger_weights_ != core_->ledger_weights()) ledger_weights_ = core_->ledger_weights();
    }
    if (changed) ++version_;
  }
  if (changed) changed_.notify_all();
}

// ---- events of devices ----

PollToken RunDriver::Checkin(DeviceId device, std::vector<std::string> local_tasks, uint64_t memory_bytes,
                             AnswerCallback answer) {
  const PollToken token = next_token_++;
  const bool posted = Post([this, token,
                            poll = Poll{.device = std::move(device),
                                        .local_tasks = std::move(local_tasks),
                                        .memory_bytes = memory_bytes,
                                        .answer = answer,
                                        .report = false,
                                        .lobby_until = {}}]() mutable {
    if (polls_.size() >= options_.max_waiting) {
      poll.answer(protocol::MakeRejection(v1::REJECTION_REASON_NOT_NEEDED, retry_spread_.From(Seconds(60))));
      return;
    }
    polls_.emplace(token, std::move(poll));
    OnCheckin(token);
  });
  if (!posted) answer(StoppedAnswer(false));
  return token;
}

void RunDriver::OnCheckin(PollToken token) {
  Poll& poll = polls_.at(token);
  if (!core_ || !core_->running()) {
    EnterLobby(token, poll);
    return;
  }
  Feed(CheckinEvent{
      .token = token, .device = poll.device, .local_tasks = poll.local_tasks, .memory_bytes = poll.memory_bytes});
}

void RunDriver::EnterLobby(PollToken token, Poll& poll) {
  if (auto old = lobby_.find(poll.device); old != lobby_.end()) {
    AnswerOne(PollToken(old->second), protocol::MakeRejection(v1::REJECTION_REASON_REPLACED, Seconds(1)));
  }
  const double jitter = PhiloxStream(DeriveSeed(0, "lobby", poll.device.value())).UniformAt(jitter_++);
  poll.lobby_until =
      options_.core.clock->Now() + std::chrono::duration_cast<Duration>(options_.lobby_hold * (1 - 0.1 * jitter));
  lobby_[poll.device] = token;
  lobby_by_time_.emplace(*poll.lobby_until, token);
}

void RunDriver::LeaveLobby(PollToken token, Poll& poll) {
  if (!poll.lobby_until) return;
  lobby_by_time_.erase({*poll.lobby_until, token});
  lobby_.erase(poll.device);
  poll.lobby_until.reset();
}

// A run has begun: those who wait are its devices.
void RunDriver::EmptyLobby() {
  const std::map<DeviceId, PollToken> waiting = std::exchange(lobby_, {});
  lobby_by_time_.clear();
  for (const auto& [device, token] : waiting) {
    auto poll = polls_.find(token);
    if (poll == polls_.end()) continue;
    poll->second.lobby_until.reset();
    OnCheckin(token);
  }
}

void RunDriver::PollGone(PollToken token) {
  Post([this, token] {
    auto poll = polls_.find(token);
    if (poll == polls_.end()) return;
    const bool in_lobby = poll->second.lobby_until.has_value();
    LeaveLobby(token, poll->second);
    polls_.erase(poll);
    if (!in_lobby && core_) Feed(PollGoneEvent{token});
  });
}

void RunDriver::Report(ReportEvent event, bool looked_at, InlineContent content, AnswerCallback answer) {
  event.token = next_token_++;
  const bool posted = Post([this, event = std::move(event), looked_at, content = std::move(content), answer]() mutable {
    const PollToken token = event.token;
    polls_.emplace(
        token,
        Poll{
            .device = event.device, .local_tasks = {}, .answer = std::move(answer), .report = true, .lobby_until = {}});
    if (core_ && event.completed && !looked_at && (!core_->ready() || core_->IsOpen(event.assignment, event.device))) {
      if (!core_->ready()) Feed(TickEvent{});  // rebuilds the engine
      AnswerOne(token, Unavailable("the coordinator has just recovered; send the report again"));
      return;
    }
    if (!core_ || !core_->Holds(event.assignment)) {
      Flush();  // a report of before on the same assignment is in its row first
      auto stored = options_.core.store->FindAssignment(event.assignment);
      if (!stored.ok()) {
        AnswerOne(token, Unavailable("the coordinator's storage fails; send the report again"));
        return;
      }
      event.stored = *std::move(stored);
    }
    if (core_) {
      Feed(event, std::move(content));
      return;
    }
    auto made = AnswerReportWithoutRun(*options_.core.store, options_.core.clock->Now(), event);
    AnswerOne(token, made.ok() ? std::move(made->answer)
                               : Answer(Unavailable("the coordinator's storage fails; send the report again")));
  });
  if (!posted) answer(StoppedAnswer(true));
}

void RunDriver::DeviceRevoked(const DeviceId& device) {
  Post([this, device] {
    // Whatever the engine would tell its waiting check-ins, they hear why.
    std::vector<PollToken> waiting;
    for (const auto& [token, poll] : polls_) {
      if (!poll.report && poll.device == device) waiting.push_back(token);
    }
    for (const PollToken token : waiting) AnswerOne(token, PermissionDenied("the device was revoked"));
    if (core_) Feed(DeviceRevokedEvent{device});
  });
}

std::optional<RunDriver::Expectation> RunDriver::ExpectationOf(const AssignmentId& id, const DeviceId& device) const {
  std::shared_ptr<const OpenAssignments> assignments;
  Expectation expectation;
  {
    std::lock_guard lock(shared_mutex_);
    assignments = open_assignments_;
    expectation.validator = validator_;
    expectation.reader = reader_;
  }
  if (assignments == nullptr || expectation.validator == nullptr || expectation.reader == nullptr) return std::nullopt;
  const auto open = assignments->Find(id);
  if (!open || open->device != device) return std::nullopt;
  expectation.start = open->start;
  expectation.view = open->view;
  return expectation;
}

// ---- answers ----

void RunDriver::Feed(const Event& event, InlineContent content) {
  core_->Take(event, std::move(content));
  ++fed_;
}

void RunDriver::Flush() {
  if (std::exchange(fed_, 0) > 0) Deliver(core_->Commit());
}

void RunDriver::Deliver(Result<std::vector<AddressedAnswer>> answers) {
  if (!answers.ok()) {
    // The engine has forgotten who waits; devices come back by themselves.
    AnswerAll([](const Poll&) -> Answer { return Unavailable("the coordinator's storage fails; come back later"); });
    return;
  }
  Publish();  // before a device hears of a blob it may fetch
  for (AddressedAnswer& item : *answers) AnswerOne(item.token, std::move(item.answer));
}

void RunDriver::AnswerOne(PollToken token, Answer answer) {
  auto found = polls_.find(token);
  if (found == polls_.end()) return;  // gone meanwhile
  Poll poll = std::move(found->second);
  polls_.erase(found);
  LeaveLobby(token, poll);
  poll.answer(std::move(answer));
}

void RunDriver::AnswerAll(const std::function<Answer(const Poll&)>& answer) {
  std::map<PollToken, Poll> all = std::exchange(polls_, {});
  lobby_.clear();
  lobby_by_time_.clear();
  for (auto& [token, poll] : all) poll.answer(answer(poll));
}

// ---- what others ask ----

std::optional<RunProgress> RunDriver::Progress() {
  std::lock_guard lock(shared_mutex_);
  return progress_;
}

RunDriver::Watch RunDriver::WaitForChange(uint64_t seen, Duration timeout) {
  std::unique_lock lock(shared_mutex_);
  changed_.wait_for(lock, timeout, [&] { return version_ != seen || stopped_; });
  return {progress_, version_};
}

std::map<RunId, std::string> RunDriver::FolderErrors() const {
  std::lock_guard lock(shared_mutex_);
  return folder_errors_;
}

bool RunDriver::IsNeeded(const Sha256Digest& digest) const {
  std::lock_guard lock(shared_mutex_);
  return stands_still_ || published_.contains(digest) || states_.contains(digest);
}

bool RunDriver::IsPublished(const Sha256Digest& digest) const {
  std::lock_guard lock(shared_mutex_);
  return published_.contains(digest);
}

std::optional<WeightsBlob> RunDriver::WeightsOf(const Sha256Digest& ledger) const {
  std::lock_guard lock(shared_mutex_);
  const auto found = ledger_weights_.find(ledger);
  if (found == ledger_weights_.end()) return std::nullopt;
  return found->second;
}

}  // namespace heddle::coordinator
