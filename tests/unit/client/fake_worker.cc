// A worker whose task is arithmetic; the text of its data file says how it behaves: "ok", "slow" (steps until it is
// cancelled), "deaf" (never cancelled), "kill", "abort", "exit", "fail", "big" (takes memory), "keep" (as "ok", and
// keeps something), "leave" (as "ok", and leaves a file in place of weights that a ledger led to). Argument "silent":
// never gets ready; "rubbish": writes no frames.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "client/worker/worker_loop.h"
#include "common/file.h"

namespace heddle::client {
namespace {

Result<TaskOutput> RunTask(const std::string& name, const TaskInput& input, const ProgressCallback& progress) {
  if (name != "sum") return NotFound("no local task " + name);
  HEDDLE_ASSIGN_OR_RETURN(const std::string mode, ReadFile(input.data_path));
  HEDDLE_ASSIGN_OR_RETURN(const std::string config, ReadFile(input.base_model_dir / "config.json"));
  HEDDLE_ASSIGN_OR_RETURN(const std::string adapter, ReadFile(input.adapter_dir / "adapter_model.safetensors"));
  if (mode == "leave") {
    HEDDLE_ASSIGN_OR_RETURN(const std::string ledger, ReadFile(input.adapter_dir / "ledger.bin"));
    HEDDLE_RETURN_IF_ERROR(
        WriteFileAtomically(input.adapter_dir / "replayed_weights.safetensors", "replayed " + ledger));
  }
  if (mode == "fail") return InvalidArgument("the data is not to my taste");
  const uint32_t steps = mode == "slow" || mode == "deaf" || mode == "big" ? 1'000'000 : input.train.local_steps;
  std::vector<char> memory;
  for (uint32_t step = 1; step <= steps; ++step) {
    if (!progress(step, steps, 1.0 / step) && mode != "deaf") return Cancelled("stopped");
    if (mode == "kill") ::raise(SIGKILL);
    if (mode == "abort") ::abort();
    if (mode == "exit") ::_exit(7);
    if (mode == "big" && memory.size() < (size_t{256} << 20)) memory.resize(memory.size() + (size_t{32} << 20), 'x');
    if (steps > 1000) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  // The update depends on everything the task was given.
  std::vector<float> values(size_t{1024} * input.train.batch_size);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(i % 97) + static_cast<float>(input.seed) +
                static_cast<float>(config.size() + adapter.size());
  TaskOutput output;
  output.update["base_model.model.w"] = Tensor::FromFloats({static_cast<int64_t>(values.size())}, values);
  output.stats.num_examples = uint64_t{input.train.batch_size} * steps;
  output.stats.steps = steps;
  if (mode == "keep") output.personal["mine"] = Tensor::FromFloats({1}, std::vector<float>{1});
  return output;
}

int Main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "silent") == 0) ::pause();
  Result<UniqueFd> output = TakeStandardOutput();
  if (!output.ok()) return 1;
  ::printf("a library prints to standard output\n");  // must not break a frame
  ::fflush(stdout);
  if (argc > 1 && std::strcmp(argv[1], "rubbish") == 0) {
    [[maybe_unused]] const ssize_t n = ::write(output->get(), "Segmentation fault\n", 19);
    ::pause();
  }
  WorkerBackend backend;
  backend.local_tasks = {"sum"};
  backend.run = RunTask;
  return RunWorkerLoop(STDIN_FILENO, output->get(), backend).ok() ? 0 : 1;
}

}  // namespace
}  // namespace heddle::client

int main(int argc, char** argv) { return heddle::client::Main(argc, argv); }
