// A worker without LibTorch for the tests of real processes: the real pipe and loop around ArithmeticUpdate.
#include <unistd.h>

#include "client/worker/worker_loop.h"
#include "common/safetensors.h"
#include "tests/integration/processes/arithmetic_task.h"

namespace heddle {
namespace {

Result<client::TaskOutput> RunTask(const std::string& name, const client::TaskInput& input,
                                   const client::ProgressCallback& progress) {
  if (name != kArithmeticTask) return NotFound("this worker has no local task " + name);
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile adapter,
                          ReadSafetensors(input.adapter_dir / "adapter_model.safetensors"));
  const uint32_t steps = input.train.local_steps;
  for (uint32_t step = 1; step <= steps; ++step) {
    if (!progress(step, steps, 1.0 / step)) return Cancelled("stopped");
  }
  client::TaskOutput output;
  output.update = ArithmeticUpdate(adapter.tensors, input.seed);
  output.stats.num_examples = uint64_t{steps} * input.train.batch_size;
  output.stats.steps = steps;
  output.stats.train_loss = output.stats.first_loss = output.stats.last_loss = 1;
  return output;
}

int Main() {
  Result<UniqueFd> output = client::TakeStandardOutput();
  if (!output.ok()) return 1;
  client::WorkerBackend backend;
  backend.local_tasks = {kArithmeticTask};
  backend.run = RunTask;
  return client::RunWorkerLoop(STDIN_FILENO, output->get(), backend).ok() ? 0 : 1;
}

}  // namespace
}  // namespace heddle

int main() { return heddle::Main(); }
