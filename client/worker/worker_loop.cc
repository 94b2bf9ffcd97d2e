#include "client/worker/worker_loop.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "client/worker/framing.h"
#include "client/worker/idle_memory.h"
#include "client/worker/train_plan.h"
#include "client/worker/upload.h"
#include "common/build_info.h"
#include "common/logging.h"
#include "common/safetensors.h"
#include "common/subprocess.h"
#include "protocol/limits.h"
#include "protocol/validate.h"

namespace heddle::client {
namespace {

constexpr auto kProgressInterval = std::chrono::milliseconds(200);
// Without a task for so long, a worker gives back memory.
constexpr auto kIdle = std::chrono::seconds(1);

// The reading thread. The task's thread asks it for the next command and whether to stop.
class CommandReader {
 public:
  explicit CommandReader(int fd)
      : wake_(::eventfd(0, EFD_CLOEXEC)), reader_(fd, wake_.get()), thread_([this] { ReadAll(); }) {}
  ~CommandReader() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(wake_.get(), &one, sizeof one);
    thread_.join();
  }

  // The next task; nothing when the input has ended, with the reason in `end`.
  std::optional<v1::WorkerRun> WaitForRun(Status* end) {
    std::unique_lock lock(mutex_);
    const auto something = [this] { return run_.has_value() || ended_; };
    if (!changed_.wait_for(lock, kIdle, something)) {
      lock.unlock();
      GiveBackIdleMemory();
      lock.lock();
      changed_.wait(lock, something);
    }
    if (ended_) {
      *end = end_;
      return std::nullopt;
    }
    return std::exchange(run_, std::nullopt);
  }
  bool stop_requested() const { return stop_; }
  // Call before the answer goes out: the daemon may send the next task as soon as it has it.
  void TaskDone() {
    const std::lock_guard lock(mutex_);
    busy_ = false;
  }

 private:
  void ReadAll() {
    Status end;
    for (std::string body;;) {
      const Result<bool> more = reader_.Next(&body);
      if (!more.ok()) end = more.status();
      if (!more.ok() || !*more) break;
      end = Take(body);
      if (!end.ok()) break;
    }
    const std::lock_guard lock(mutex_);
    ended_ = true;
    end_ = end;
    stop_ = true;
    changed_.notify_all();
  }

  Status Take(const std::string& body) {
    HEDDLE_ASSIGN_OR_RETURN(v1::WorkerCommand command, protocol::ParseMessage<v1::WorkerCommand>(body));
    const std::lock_guard lock(mutex_);
    if (command.has_cancel()) {
      stop_ = true;  // without a task: forgotten when the next one comes
      return OkStatus();
    }
    if (busy_) return InvalidArgument("the daemon sent a second task while one runs");
    busy_ = true;
    stop_ = false;
    run_ = std::move(*command.mutable_run());
    changed_.notify_all();
    return OkStatus();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<v1::WorkerRun> run_;
  bool busy_ = false, ended_ = false;
  Status end_;
  std::atomic<bool> stop_ = false;
  UniqueFd wake_;
  FrameReader reader_;
  std::thread thread_;  // last: it uses all of the above
};

TaskInput ToTaskInput(const v1::WorkerRun& run) {
  TaskInput input;
  input.train = ToTrainSettings(run.train());
  input.seed = run.seed();
  input.base_model_dir = run.base_model_dir();
  input.adapter_dir = run.adapter_dir();
  input.data_path = run.data_path();
  input.personal_path = run.personal_path();
  const v1::DataFields& fields = run.data_fields();
  input.data_fields = {{fields.columns().begin(), fields.columns().end()},
                       {fields.text().begin(), fields.text().end()},
                       fields.pair(),
                       fields.label(),
                       fields.prompt(),
                       fields.completion()};
  input.memory_limit_bytes = run.memory_limit_bytes();
  input.device = run.device();
  return input;
}

// What the noise on a task's update comes from: a file of the daemon's beside it. None: empty.
Result<std::string> NoiseSecretBeside(const std::filesystem::path& update) {
  Result<std::string> secret = ReadFile(update.parent_path() / kNoiseSecretFile, size_t{1} << 10);
  if (secret.status().code() == Code::kNotFound) return std::string();
  return secret;
}

class Loop {
 public:
  Loop(int output_fd, const WorkerBackend& backend, CommandReader& commands)
      : output_fd_(output_fd), backend_(backend), commands_(commands) {}

  Status Run() {
    v1::WorkerEvent ready;
    for (const std::string& name : backend_.local_tasks) ready.mutable_ready()->add_local_tasks(name);
    ready.mutable_ready()->set_software_version(std::string(VersionString()));
    HEDDLE_RETURN_IF_ERROR(WriteFrame(output_fd_, ready));
    Status end;
    while (const auto run = commands_.WaitForRun(&end)) {
      const v1::WorkerEvent done = RunTask(*run);
      HEDDLE_RETURN_IF_ERROR(output_);
      commands_.TaskDone();
      HEDDLE_RETURN_IF_ERROR(WriteFrame(output_fd_, done));
    }
    return end;
  }

 private:
  v1::WorkerEvent RunTask(const v1::WorkerRun& run) {
    v1::WorkerEvent event;
    v1::WorkerDone& done = *event.mutable_done();
    const Result<TaskStats> stats = Train(run);
    if (stats.ok()) *done.mutable_metrics() = ToTaskMetrics(*stats);
    done.set_code(static_cast<int>(stats.status().code()));
    done.set_out_of_memory(IsOutOfMemory(stats.status()));
    done.set_message(protocol::CleanText(stats.status().message(), protocol::kMaxWorkerErrorBytes));
    if (const auto memory = ReadProcessMemory(::getpid()); memory.ok())
      done.mutable_metrics()->set_peak_memory_bytes(memory->peak_rss_bytes);
    return event;
  }

  Result<TaskStats> Train(const v1::WorkerRun& run) {
    const auto progress = [this](uint32_t step, uint32_t total, double loss) { return OnStep(step, total, loss); };
    last_progress_ = {};
    Result<TaskOutput> output = Unknown();
    const TaskInput input = ToTaskInput(run);
    HEDDLE_ASSIGN_OR_RETURN(const std::string noise_secret, NoiseSecretBeside(run.update_path()));
    HEDDLE_RETURN_IF_ERROR(CheckUpload(input.train.rules, noise_secret));
    try {
      output = backend_.run(run.local_task(), input, progress);
    } catch (const std::bad_alloc&) {
      output = ResourceExhausted("there is " + std::string(kNotEnoughMemory) + " for the task");
    } catch (const std::exception& error) {
      output = Internal(std::string("the task threw an exception: ") + error.what());
    }
    HEDDLE_RETURN_IF_ERROR(output.status());
    if (commands_.stop_requested()) return Cancelled("the task was cancelled after its last step");
    HEDDLE_ASSIGN_OR_RETURN(const std::string update, MakeUpload(input, &*output, noise_secret));
    if (!output->personal.empty() && !run.next_personal_path().empty()) {
      HEDDLE_RETURN_IF_ERROR(WriteSafetensors(run.next_personal_path(), output->personal));
    }
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(run.update_path(), update));
    return output->stats;
  }

  bool OnStep(uint32_t step, uint32_t total, double loss) {
    if (commands_.stop_requested()) return false;
    const auto now = std::chrono::steady_clock::now();
    if (step != 1 && step < total && now - last_progress_ < kProgressInterval) return true;
    last_progress_ = now;
    v1::WorkerEvent event;
    v1::WorkerProgress& progress = *event.mutable_progress();
    progress.set_step(step);
    progress.set_total_steps(total);
    progress.set_loss(loss);
    output_ = WriteFrame(output_fd_, event);
    return output_.ok();
  }

  static Status Unknown() { return Internal("the task did not run"); }

  int output_fd_;
  const WorkerBackend& backend_;
  CommandReader& commands_;
  Status output_;
  std::chrono::steady_clock::time_point last_progress_;
};

}  // namespace

Status RunWorkerLoop(int input_fd, int output_fd, const WorkerBackend& backend) {
  ::signal(SIGPIPE, SIG_IGN);
  CommandReader commands(input_fd);
  return Loop(output_fd, backend, commands).Run();
}

Result<UniqueFd> TakeStandardOutput() {
  UniqueFd output(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
  if (!output.valid()) return Internal("cannot duplicate standard output");
  if (::dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return Internal("cannot redirect standard output");
  return output;
}

}  // namespace heddle::client
