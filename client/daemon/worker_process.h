// The worker process: started for work, fed a task, kept for a while or ended, killed when it does not listen.
//
// Life cycle: construct; Probe and Run start it when it does not run; Stop ends it. On one executor, one call at a
// time; Cancel may be called while one is under way. Destroying it kills the process; no coroutine of it may be under
// way.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "protocol/v1/worker.pb.h"

namespace heddle::client {

struct WorkerOptions {
  std::vector<std::string> argv;            // the program and its arguments
  int nice = 0;                             // added to the daemon's niceness
  uint64_t memory_limit_bytes = 0;          // resident memory beyond which it is killed; 0: no limit
  Duration keep_alive{0};                   // how long it stays after work
  Duration start_limit = Seconds(120);      // until it says that it is ready
  Duration cancel_limit = Seconds(5);       // from a cancellation until it is killed
  Duration memory_interval = Seconds(0.5);  // between looks at its memory
};

struct WorkerResult {
  enum class Outcome { kCompleted, kInterrupted, kFailed };
  Outcome outcome = Outcome::kFailed;
  std::string message;
  v1::TaskMetrics metrics;
  // A smaller task may succeed: memory ran out in the worker, it took more than its limit, or, where it has none, it
  // was killed by SIGKILL, as the system does when memory runs out.
  bool out_of_memory = false;
};

class WorkerProcess {
 public:
  WorkerProcess(boost::asio::any_io_executor executor, WorkerOptions options);
  ~WorkerProcess();

  // Starts it if need be and returns the names of its local tasks. Errors: kNotFound (no such program), kUnavailable
  // (it ended or did not get ready in time), kCancelled, kDataLoss (it is no worker).
  boost::asio::awaitable<Result<std::vector<std::string>>> Probe();
  // Runs one task; always has a result. Killed by SIGKILL, SIGTERM and the like, or for its memory, or cancelled:
  // interrupted; any other end: failed.
  boost::asio::awaitable<WorkerResult> Run(v1::WorkerRun run, std::function<void(const v1::WorkerProgress&)> progress);
  // The call under way ends soon: the task at its next step, a start at once.
  void Cancel();
  // Call after work: ends the worker when keep_alive has passed without another call.
  void Rest();
  // Ends it: by the end of its input, killed when it has not ended within `limit`.
  boost::asio::awaitable<void> Stop(Duration limit);

  bool running() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace heddle::client
