#include "simulator/demo/baselines.h"

#include <atomic>
#include <thread>
#include <utility>

#include "client/worker/local_task.h"
#include "client/worker/train_plan.h"
#include "common/file.h"
#include "common/random.h"
#include "peft/adapter/adapter.h"
#include "simulator/world/training_pool.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;

// initial + update, as a PEFT folder.
Status SaveTrained(const fs::path& initial, const StateDict& update, const fs::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(const peft::Adapter adapter, peft::ReadAdapter(initial));
  StateDict trained;
  for (const auto& [name, tensor] : adapter.tensors) {
    const auto found = update.find(name);
    if (found == update.end()) return Internal("the update lacks " + name);
    std::span<std::byte> bytes;
    Tensor sum = Tensor::Allocate(tensor.spec(), &bytes);
    auto* out = reinterpret_cast<float*>(bytes.data());
    const auto before = tensor.values<float>(), change = found->second.values<float>();
    for (size_t i = 0; i < before.size(); ++i) out[i] = before[i] + change[i];
    trained.emplace(name, std::move(sum));
  }
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  return peft::WriteAdapter(folder, adapter.config, trained);
}

struct Job {
  std::string name;
  fs::path data;
  uint32_t batch_size = 0;
  fs::path adapter;  // where the result goes
};

class Runner {
 public:
  explicit Runner(const BaselineOptions& options) : options_(options), resources_(client::MakeTaskResources()) {}

  Status Train(const std::vector<Job>& jobs);
  Result<double> Perplexity(const fs::path& adapter) {
    HEDDLE_ASSIGN_OR_RETURN(const client::Evaluation evaluation,
                            client::EvaluateModel(options_.recipe.base_model, adapter, options_.heldout,
                                                  options_.recipe.train.sequence_length(), *resources_, 1));
    return evaluation.perplexity;
  }
  bool Tell(const std::string& what, double done) const { return !options_.progress || options_.progress(what, done); }

 private:
  Status TrainOne(const Job& job, const client::LocalTask& task, std::atomic<uint64_t>& done, uint64_t total);

  const BaselineOptions& options_;
  std::shared_ptr<client::TaskResources> resources_;
};

Status Runner::TrainOne(const Job& job, const client::LocalTask& task, std::atomic<uint64_t>& done, uint64_t total) {
  client::TaskInput input;
  input.train = client::ToTrainSettings(options_.recipe.train);
  input.train.local_steps *= options_.recipe.spec.rounds;
  input.train.batch_size = job.batch_size;
  input.seed = DeriveSeed(options_.recipe.seed, "baseline", job.name);
  input.base_model_dir = options_.recipe.base_model;
  input.adapter_dir = options_.initial_adapter;
  input.data_path = job.data;
  input.device = options_.recipe.simulation.device;
  auto output = task.Run(input, *resources_, [&](uint32_t, uint32_t, double) {
    return Tell("baselines", static_cast<double>(done += job.batch_size) / static_cast<double>(total));
  });
  HEDDLE_RETURN_IF_ERROR(output.status().Annotate(job.name));
  return SaveTrained(options_.initial_adapter, output->update, job.adapter);
}

// Calls work(i) for i below `count`, on as many threads as there are cores. The first failure, if any.
Status ForEach(size_t count, const std::function<Status(size_t)>& work) {
  std::atomic<size_t> next{0};
  std::vector<Status> statuses(count);
  const auto loop = [&] {
    for (size_t i = next++; i < count; i = next++) statuses[i] = work(i);
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1U, std::thread::hardware_concurrency()); ++i) threads.emplace_back(loop);
  for (std::thread& thread : threads) thread.join();
  for (const Status& status : statuses) HEDDLE_RETURN_IF_ERROR(status);
  return OkStatus();
}

// The long job first, so that no core waits for it at the end.
Status Runner::Train(const std::vector<Job>& jobs) {
  HEDDLE_ASSIGN_OR_RETURN(const auto task, client::FindLocalTask(options_.recipe.local_task));
  uint64_t total = 0;
  for (const Job& job : jobs) {
    total += uint64_t{job.batch_size} * options_.recipe.train.local_steps() * options_.recipe.spec.rounds;
  }
  std::atomic<uint64_t> done{0};
  return ForEach(jobs.size(), [&](size_t i) { return TrainOne(jobs[i], *task, done, total); });
}

}  // namespace

Result<Baselines> MeasureBaselines(const BaselineOptions& options) {
  Runner runner(options);
  std::vector<Job> jobs;
  const uint32_t batch = options.recipe.train.batch_size();
  jobs.push_back({"centralised", options.all_data, batch * static_cast<uint32_t>(options.device_data.size()),
                  options.scratch / "centralised"});
  for (const fs::path& data : options.device_data) {
    const std::string name = "alone-" + data.stem().string();
    jobs.push_back({name, data, batch, options.scratch / name});
  }
  HEDDLE_RETURN_IF_ERROR(runner.Train(jobs));
  std::vector<fs::path> adapters = {{}, options.federated_adapter};
  for (const Job& job : jobs) adapters.push_back(job.adapter);
  std::vector<double> perplexities(adapters.size());
  std::atomic<size_t> done{0};
  HEDDLE_RETURN_IF_ERROR(ForEach(adapters.size(), [&](size_t i) -> Status {
    HEDDLE_ASSIGN_OR_RETURN(perplexities[i], runner.Perplexity(adapters[i]));
    const bool go_on = runner.Tell("evaluation", static_cast<double>(++done) / static_cast<double>(adapters.size()));
    return go_on ? OkStatus() : Cancelled("interrupted");
  }));
  Baselines out;
  out.base = perplexities[0];
  out.federated = perplexities[1];
  out.centralised = perplexities[2];
  out.local_each.assign(perplexities.begin() + 3, perplexities.end());
  for (double alone : out.local_each) out.local_only += alone / static_cast<double>(out.local_each.size());
  return out;
}

}  // namespace heddle::simulator
