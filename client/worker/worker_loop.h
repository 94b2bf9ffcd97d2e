// The worker's half of the pipe: reads commands, runs tasks one at a time, writes events. Free of LibTorch, and its
// header of Protobuf, so that main.cc can bring the two together. Tests run it with a task of their own.
//
// Life cycle: one RunWorkerLoop a process. A second thread reads commands while a task runs, so that a cancellation or
// the end of the pipe stops the task at its next step.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "client/worker/local_task.h"
#include "common/file.h"
#include "common/status.h"

namespace heddle::client {

struct WorkerBackend {
  std::vector<std::string> local_tasks;  // announced at start
  // Runs the named task. Errors: those of LocalTask::Run and FindLocalTask. An exception becomes kInternal.
  std::function<Result<TaskOutput>(const std::string& local_task, const TaskInput& input,
                                   const ProgressCallback& progress)>
      run;
};

// Serves until the input ends: ok. The update is written as MakeUpload (upload.h) gives it before the task is said to
// be done; its noise comes from the file kNoiseSecretFile beside it, where there is one. Errors: kDataLoss,
// kResourceExhausted or kInvalidArgument when the input is not what a daemon sends; kUnavailable when nobody reads the
// output. A task that runs then is stopped first. Ignores SIGPIPE.
Status RunWorkerLoop(int input_fd, int output_fd, const WorkerBackend& backend);

// Takes standard output for the protocol: returns a duplicate of it and lets descriptor 1 be standard error, so that
// what libraries print cannot break a frame. Errors: kInternal.
Result<UniqueFd> TakeStandardOutput();

}  // namespace heddle::client
