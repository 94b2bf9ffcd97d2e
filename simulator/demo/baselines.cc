#include "simulator/demo/baselines.h"

#include <atomic>
#include <thread>
#include <utility>

#include "client/worker/local_task.h"
#include "simulator/world/lone_training.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;

using Job = LoneTraining;

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
  Status TrainOne(const Job& job, std::atomic<uint64_t>& done, uint64_t total);

  const BaselineOptions& options_;
  std::shared_ptr<client::TaskResources> resources_;
};

Status Runner::TrainOne(const Job& job, std::atomic<uint64_t>& done, uint64_t total) {
  return TrainAlone(options_.recipe, job, *resources_, [&](uint32_t, uint32_t, double) {
    return Tell("baselines", static_cast<double>(done += job.batches) / static_cast<double>(total));
  });
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
  uint64_t total = 0;
  for (const Job& job : jobs) {
    total += uint64_t{job.batches} * options_.recipe.StepsOfADevice();
  }
  std::atomic<uint64_t> done{0};
  return ForEach(jobs.size(), [&](size_t i) { return TrainOne(jobs[i], done, total); });
}

}  // namespace

Result<Baselines> MeasureBaselines(const BaselineOptions& options) {
  Runner runner(options);
  std::vector<Job> jobs;
  const auto add = [&](const std::string& name, const fs::path& data, size_t batches) {
    jobs.push_back({name, options.recipe.base_model, options.initial_adapter, data, static_cast<uint32_t>(batches),
                    options.scratch / name});
  };
  add("centralised", options.all_data, options.device_data.size());
  for (const fs::path& data : options.device_data) add("alone-" + data.stem().string(), data, 1);
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
