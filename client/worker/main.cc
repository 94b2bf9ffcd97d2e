// heddle-worker: trains. Started by the daemon, with commands on standard input and events on standard output; it has
// no network and no keys.
#include <unistd.h>

#include <iostream>
#include <string_view>

#include "client/worker/local_task.h"
#include "client/worker/task_resources.h"
#include "client/worker/worker_loop.h"
#include "common/build_info.h"
#include "common/logging.h"
#include "model/memory/tensor_memory.h"
#include "model/transformer/blas_check.h"

namespace heddle::client {
namespace {

int Main(int argc, char** argv) {
  if (argc > 1) {
    const std::string_view option = argv[1];
    if (option == "--version") {
      std::cout << "heddle-worker " << VersionString() << "\n";
      return 0;
    }
    const bool help = option == "--help";
    (help ? std::cout : std::cerr) << "heddle-worker: trains for heddle-client, which starts it and speaks to it over "
                                      "its standard input and output.\nOptions: --version, --help\n";
    return help ? 0 : 2;
  }
  Result<UniqueFd> output = TakeStandardOutput();
  if (!output.ok()) {
    std::cerr << "heddle-worker: " << output.status().message() << "\n";
    return 1;
  }
  model::UseTensorMemory(model::kDeviceSpare);
  model::WarnOfSlowBlas();

  const std::shared_ptr<TaskResources> resources = MakeTaskResources();
  resources->ledgers().LeaveWeights();  // the daemon keeps them, and this process may end after its task
  WorkerBackend backend;
  backend.local_tasks = LocalTaskNames();
  backend.run = [&](const std::string& name, const TaskInput& input,
                    const ProgressCallback& progress) -> Result<TaskOutput> {
    HEDDLE_ASSIGN_OR_RETURN(const auto task, FindLocalTask(name));
    resources->fronts().Shrink(uint64_t{input.train.zo.kept_front_mb} << 20);  // to what this task allows
    Result<TaskOutput> output_of_task = task->Run(input, *resources, progress);
    model::ReleaseTensorMemory();  // a worker that is kept waits with the model, not with what training it took
    return output_of_task;
  };
  const Status end = RunWorkerLoop(STDIN_FILENO, output->get(), backend);
  if (end.ok()) return 0;
  std::cerr << "heddle-worker: " << end.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace heddle::client

int main(int argc, char** argv) {
  try {
    return heddle::client::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "heddle-worker: " << error.what() << "\n";
    return 1;
  }
}
