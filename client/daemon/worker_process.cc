#include "client/daemon/worker_process.h"

#include <signal.h>
#include <sys/resource.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include "client/daemon/child_wait.h"
#include "client/worker/framing.h"
#include "common/logging.h"
#include "common/subprocess.h"
#include "protocol/validate.h"

namespace heddle::client {

namespace asio = boost::asio;
using asio::posix::stream_descriptor;

namespace {

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr Duration kStopLimit = std::chrono::seconds(2);

// Ends that others wanted, as opposed to crashes.
bool IsOutsideSignal(int signal) {
  return signal == SIGKILL || signal == SIGTERM || signal == SIGINT || signal == SIGHUP || signal == SIGQUIT;
}

}  // namespace

struct WorkerProcess::Impl : std::enable_shared_from_this<WorkerProcess::Impl> {
  Impl(asio::any_io_executor exec, WorkerOptions opts)
      : executor(exec),
        options(std::move(opts)),
        input(exec),
        output(exec),
        limit_timer(exec),
        memory_timer(exec),
        rest_timer(exec) {}

  asio::awaitable<Status> EnsureReady();
  Status Start();
  asio::awaitable<Result<v1::WorkerEvent>> ReadEvent();
  asio::awaitable<Status> Write(std::string frame);
  asio::awaitable<WorkerResult> Run(v1::WorkerRun run, std::function<void(const v1::WorkerProgress&)> progress);
  asio::awaitable<WorkerResult> ReadUntilDone(const std::function<void(const v1::WorkerProgress&)>& progress);
  asio::awaitable<void> WatchMemory(uint64_t generation);
  asio::awaitable<WorkerResult> ResultOfEnd(Status broken);
  asio::awaitable<void> Stop(Duration limit);
  void Kill();
  void KillAfter(Duration limit);
  void Forget();

  asio::any_io_executor executor;
  WorkerOptions options;
  std::optional<Subprocess> process;
  stream_descriptor input, output;  // its standard input and output
  asio::steady_timer limit_timer, memory_timer, rest_timer;
  std::vector<std::string> local_tasks;
  bool in_call = false, ready = false, task_sent = false;
  bool cancelled = false;
  bool over_memory = false;
  uint64_t calls = 0;  // tells the timers of one call from those of the next
};

Status WorkerProcess::Impl::Start() {
  SubprocessOptions start;
  start.argv = options.argv;
  start.pipe_stdin = start.pipe_stdout = true;
  HEDDLE_ASSIGN_OR_RETURN(Subprocess started, Subprocess::Start(start));
  process.emplace(std::move(started));
  if (options.nice > 0 && ::setpriority(PRIO_PROCESS, static_cast<id_t>(process->pid()),
                                        ::getpriority(PRIO_PROCESS, 0) + options.nice) != 0) {
    Log(Severity::kWarning, "the worker's niceness cannot be set");
  }
  boost::system::error_code error;
  input.assign(process->TakeStdin().Release(), error);
  if (!error) output.assign(process->TakeStdout().Release(), error);
  if (error) return Internal("cannot watch the worker's pipes: " + error.message());
  Log(Severity::kDebug, "worker started", {{"pid", process->pid()}});
  return OkStatus();
}

void WorkerProcess::Impl::Forget() {
  boost::system::error_code ignored;
  input.close(ignored);
  output.close(ignored);
  process.reset();  // kills it if it still runs
  ready = false;
}

void WorkerProcess::Impl::Kill() {
  if (process) process->Signal(SIGKILL);
}

void WorkerProcess::Impl::KillAfter(Duration limit) {
  limit_timer.expires_after(limit);
  limit_timer.async_wait([self = shared_from_this(), call = calls](const boost::system::error_code& aborted) {
    if (!aborted && self->in_call && self->calls == call) self->Kill();
  });
}

asio::awaitable<Status> WorkerProcess::Impl::Write(std::string frame) {
  auto [error, n] = co_await asio::async_write(input, asio::buffer(frame), kTuple);
  if (error) co_return Unavailable("the worker takes no commands: " + error.message());
  co_return OkStatus();
}

asio::awaitable<Result<v1::WorkerEvent>> WorkerProcess::Impl::ReadEvent() {
  std::array<std::byte, kFrameHeaderBytes> header{};
  auto [head_error, head_bytes] = co_await asio::async_read(output, asio::buffer(header), kTuple);
  if (head_error) co_return Unavailable("the worker ended");
  const Result<size_t> size = ParseFrameHeader(header);
  if (!size.ok()) co_return DataLoss("the worker sent rubbish: " + size.status().message());
  std::string body(*size, '\0');
  auto [body_error, body_bytes] = co_await asio::async_read(output, asio::buffer(body), kTuple);
  if (body_error) co_return Unavailable("the worker ended in the middle of a message");
  Result<v1::WorkerEvent> event = protocol::ParseMessage<v1::WorkerEvent>(body);
  if (!event.ok()) co_return DataLoss("the worker sent rubbish: " + event.status().message());
  co_return event;
}

asio::awaitable<Status> WorkerProcess::Impl::EnsureReady() {
  rest_timer.cancel();
  if (process && process->Poll()) Forget();  // ended while it rested
  if (process && ready) co_return OkStatus();
  Status started = Start();
  if (!started.ok()) {
    Forget();
    co_return started;
  }
  KillAfter(options.start_limit);
  Result<v1::WorkerEvent> event = co_await ReadEvent();
  limit_timer.cancel();
  if (cancelled) {
    Forget();
    co_return Cancelled("the worker's start was cancelled");
  }
  if (event.ok() && !event->has_ready()) event = DataLoss("the worker did not say that it is ready");
  if (!event.ok()) {
    std::string how;
    if (event.status().code() == Code::kUnavailable) {
      const std::optional<int> exit = co_await WaitForExit(*process, kStopLimit);
      if (exit) how = " at its start with status " + std::to_string(*exit);
    }
    Forget();
    co_return Status(event.status().code(), event.status().message() + how);
  }
  local_tasks.assign(event->ready().local_tasks().begin(), event->ready().local_tasks().end());
  ready = true;
  co_return OkStatus();
}

// Looks at the worker's memory now and then, while a task runs.
asio::awaitable<void> WorkerProcess::Impl::WatchMemory(uint64_t generation) {
  while (in_call && calls == generation && process) {
    const Result<ProcessMemory> memory = ReadProcessMemory(process->pid());
    if (memory.ok() && memory->rss_bytes > options.memory_limit_bytes) {
      over_memory = true;
      Kill();
      co_return;
    }
    memory_timer.expires_after(options.memory_interval);
    auto [error] = co_await memory_timer.async_wait(kTuple);
    if (error) co_return;
  }
}

// Why the pipe broke: the exit status knows.
asio::awaitable<WorkerResult> WorkerProcess::Impl::ResultOfEnd(Status broken) {
  WorkerResult result;
  result.message = broken.message();
  if (broken.code() == Code::kUnavailable) {
    const std::optional<int> exit = co_await WaitForExit(*process, kStopLimit);
    if (exit && *exit > 128) {
      const int signal = *exit - 128;
      result.message = "the worker was killed by signal " + std::to_string(signal) +
                       (signal == SIGKILL ? " (the system does so when memory runs out)" : "");
      if (IsOutsideSignal(signal)) result.outcome = WorkerResult::Outcome::kInterrupted;
      // Where there is a limit the system has no reason of this worker's.
      result.out_of_memory = signal == SIGKILL && !cancelled && options.memory_limit_bytes == 0;
    } else if (exit) {
      result.message = "the worker ended with status " + std::to_string(*exit) + " in the middle of a task";
    }
  }
  if (over_memory) {
    result.outcome = WorkerResult::Outcome::kInterrupted;
    result.out_of_memory = true;
    result.message = "the worker took more memory than [worker] memory_limit_mb allows and was stopped";
  }
  Forget();
  co_return result;
}

asio::awaitable<WorkerResult> WorkerProcess::Impl::ReadUntilDone(
    const std::function<void(const v1::WorkerProgress&)>& progress) {
  for (;;) {
    Result<v1::WorkerEvent> event = co_await ReadEvent();
    if (event.ok() && event->has_ready()) event = DataLoss("the worker said twice that it is ready");
    if (!event.ok()) {
      WorkerResult ended = co_await ResultOfEnd(event.status());
      co_return ended;
    }
    if (event->has_progress()) {
      if (progress) progress(event->progress());
      continue;
    }
    const v1::WorkerDone& done = event->done();
    WorkerResult result;
    result.metrics = done.metrics();
    result.message = done.message();
    result.out_of_memory = done.out_of_memory();
    if (done.code() == static_cast<int>(Code::kOk)) {
      result.outcome = WorkerResult::Outcome::kCompleted;
    } else if (done.code() == static_cast<int>(Code::kCancelled)) {
      result.outcome = WorkerResult::Outcome::kInterrupted;
    }
    co_return result;
  }
}

asio::awaitable<WorkerResult> WorkerProcess::Impl::Run(v1::WorkerRun run,
                                                       std::function<void(const v1::WorkerProgress&)> progress) {
  WorkerResult result;
  Status status = co_await EnsureReady();
  Result<std::string> frame = std::string();
  if (status.ok()) {
    v1::WorkerCommand command;
    *command.mutable_run() = std::move(run);
    frame = MakeFrame(command);
    status = frame.status();
  }
  if (status.ok() && cancelled) status = Cancelled("the task was cancelled before it began");
  if (!status.ok()) {
    if (status.code() == Code::kCancelled) result.outcome = WorkerResult::Outcome::kInterrupted;
    result.message = status.message();
    co_return result;
  }
  if (options.memory_limit_bytes > 0) {
    asio::co_spawn(
        executor,
        [](std::shared_ptr<Impl> self) -> asio::awaitable<void> {
          co_await self->WatchMemory(self->calls);
        }(shared_from_this()),
        asio::detached);
  }
  status = co_await Write(*std::move(frame));
  task_sent = true;
  if (cancelled) {  // meanwhile
    v1::WorkerCommand cancel;
    cancel.mutable_cancel();
    Result<std::string> cancel_frame = MakeFrame(cancel);
    if (cancel_frame.ok()) status = co_await Write(*std::move(cancel_frame));
  }
  // A worker that takes no commands has said why, or ended.
  result = co_await ReadUntilDone(progress);
  task_sent = false;
  limit_timer.cancel();
  memory_timer.cancel();
  if (cancelled && result.outcome == WorkerResult::Outcome::kFailed)
    result.outcome = WorkerResult::Outcome::kInterrupted;
  co_return result;
}

asio::awaitable<void> WorkerProcess::Impl::Stop(Duration limit) {
  rest_timer.cancel();
  if (!process) co_return;
  boost::system::error_code ignored;
  input.close(ignored);
  co_await WaitForExit(*process, limit);
  if (process) Forget();
}

namespace {

// One call at a time, whatever way it ends.
struct InCall {
  explicit InCall(bool& flag) : flag_(flag) { flag_ = true; }
  ~InCall() { flag_ = false; }
  bool& flag_;
};

}  // namespace

WorkerProcess::WorkerProcess(asio::any_io_executor executor, WorkerOptions options)
    : impl_(std::make_shared<Impl>(std::move(executor), std::move(options))) {}

WorkerProcess::~WorkerProcess() {
  impl_->limit_timer.cancel();
  impl_->memory_timer.cancel();
  impl_->rest_timer.cancel();
  impl_->Forget();
}

asio::awaitable<Result<std::vector<std::string>>> WorkerProcess::Probe() {
  const std::shared_ptr<Impl> impl = impl_;
  const InCall call(impl->in_call);
  ++impl->calls;
  impl->cancelled = impl->over_memory = false;
  const Status status = co_await impl->EnsureReady();
  if (!status.ok()) co_return status;
  co_return impl->local_tasks;
}

asio::awaitable<WorkerResult> WorkerProcess::Run(v1::WorkerRun run,
                                                 std::function<void(const v1::WorkerProgress&)> progress) {
  const std::shared_ptr<Impl> impl = impl_;
  const InCall call(impl->in_call);
  ++impl->calls;
  impl->cancelled = impl->over_memory = false;
  WorkerResult result = co_await impl->Run(std::move(run), std::move(progress));
  co_return result;
}

void WorkerProcess::Cancel() {
  if (!impl_->in_call || impl_->cancelled) return;
  impl_->cancelled = true;
  if (!impl_->ready) return impl_->Kill();
  impl_->KillAfter(impl_->options.cancel_limit);
  if (!impl_->task_sent) return;  // Run sees it
  v1::WorkerCommand cancel;
  cancel.mutable_cancel();
  Result<std::string> frame = MakeFrame(cancel);
  if (!frame.ok()) return;
  asio::co_spawn(
      impl_->executor,
      [](std::shared_ptr<Impl> self, std::string bytes) -> asio::awaitable<void> {
        const Status ignored = co_await self->Write(std::move(bytes));
        (void)ignored;
      }(impl_, *std::move(frame)),
      asio::detached);
}

void WorkerProcess::Rest() {
  if (!impl_->process || impl_->in_call) return;
  impl_->rest_timer.expires_after(impl_->options.keep_alive);
  impl_->rest_timer.async_wait([impl = impl_, call = impl_->calls](const boost::system::error_code& aborted) {
    if (aborted || impl->in_call || impl->calls != call) return;
    ++impl->calls;
    // Its end is waited for by nobody: the next call starts another.
    asio::co_spawn(
        impl->executor,
        [](std::shared_ptr<Impl> self) -> asio::awaitable<void> {
          boost::system::error_code ignored;
          self->input.close(ignored);
          self->output.close(ignored);
          self->ready = false;
          std::optional<Subprocess> ending = std::exchange(self->process, std::nullopt);
          if (ending) co_await WaitForExit(*ending, kStopLimit);
        }(impl),
        asio::detached);
  });
}

asio::awaitable<void> WorkerProcess::Stop(Duration limit) {
  const std::shared_ptr<Impl> impl = impl_;
  ++impl->calls;
  co_await impl->Stop(limit);
}

bool WorkerProcess::running() const { return impl_->process.has_value(); }

}  // namespace heddle::client
