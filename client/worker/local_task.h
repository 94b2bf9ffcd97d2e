// The client half of a federated method: what a device does with a plan. Runs in the worker process and, unchanged, in
// the simulator's threads. To add a method: one file with a LocalTask, one line in registry.cc, one recipe.
//
// Free of LibTorch and Protobuf, so that its users are too; the implementations use LibTorch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::client {

// In every kResourceExhausted that is of memory, of which a smaller task takes less, and in none of a full disk or of
// too many open files.
inline constexpr std::string_view kNotEnoughMemory = "not enough memory";
inline bool IsOutOfMemory(const Status& status) {
  return status.code() == Code::kResourceExhausted && status.message().find(kNotEnoughMemory) != std::string::npos;
}

// As heddle.v1.DeviceRules: what a method adds to plain training.
struct TrainRules {
  std::vector<std::string> frozen, kept;  // patterns of tensors: not trained; trained but not sent
  std::string correction;                 // "", "scaffold", "feddyn"
  double feddyn_alpha = 0, proximal_mu = 0, prune_gamma = 0, prune_lambda = 0;
  std::vector<std::string> upload;  // how the update is made smaller
};

// As heddle.v1.PseudoLabels: what a device does with examples that nobody labelled.
struct PseudoLabelSettings {
  bool label_now = false, soft = false;
  uint32_t samples = 0, neighbours = 0, candidates = 0, pool = 0;
  std::optional<double> min_logit;
};

// As heddle.v1.PromptTemplate.
struct PromptSettings {
  std::string pattern;
  std::vector<std::string> words, label_names;
};

// As heddle.v1.ZerothOrder, same units: training with forward passes only.
struct ZerothOrderSettings {
  std::string estimator, distribution, optimizer;  // by name; empty: the default
  double zo_eps = 0, clip_projected_grad = 0, max_loss_difference = 0, sparse_fraction = 0, projection_scale = 0;
  uint32_t num_perturbations = 0, anchor_interval = 0, anchor_perturbations = 0, layer_groups = 0, layer_group = 0;
  uint32_t intrinsic_dim = 0, population = 0, kept_front_mb = 0;
};

// As heddle.v1.SharedSeeds.
struct SharedSeedSettings {
  uint64_t seed = 0, first_ref = 0, span = 0;
  uint32_t pool_size = 0, resolution_bits = 30, candidates = 0;
  std::string scalars;  // by name
};

// As heddle.v1.TrainPlan, same units.
struct TrainSettings {
  uint32_t local_steps = 1, batch_size = 1, sequence_length = 128, warmup_steps = 0, threads = 1;
  double learning_rate = 1e-3, weight_decay = 0, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, max_grad_norm = 0;
  double momentum = 0;
  std::string optimizer, lr_scheduler_type, base_dtype;  // by name; empty: the default
  uint32_t gradient_accumulation_steps = 1;
  bool gradient_checkpointing = false, bf16 = false;
  TrainRules rules;
  ZerothOrderSettings zo;
  std::optional<SharedSeedSettings> seeds;
  std::vector<uint32_t> layers;  // of the base model that the task computes with, rising; empty: all
  std::optional<PseudoLabelSettings> pseudo_labels;
  std::optional<PromptSettings> prompt;
};

// As heddle.v1.DataFields.
struct DataFields {
  std::vector<std::string> columns, text;
  std::string pair, label, prompt, completion;
  bool any() const;              // whether anything is not as usual
  std::string Identity() const;  // other fields, other text
};

struct TaskInput {
  TrainSettings train;
  uint64_t seed = 0;
  std::filesystem::path base_model_dir;  // Hugging Face layout
  std::filesystem::path adapter_dir;     // PEFT layout
  std::filesystem::path data_path;
  DataFields data_fields;
  std::filesystem::path personal_path;  // what the device kept of the run (safetensors); empty or absent: nothing
  std::string device;                   // what computes: "cpu" (also when empty) or "cuda"
  uint64_t memory_limit_bytes = 0;      // 0: none; else a task that cannot fit is refused with kResourceExhausted
  bool shares_process = false;  // with other devices (a simulator): estimates count, the process's memory does not
};

struct TaskStats {
  uint64_t num_examples = 0, num_tokens = 0;
  uint64_t estimated_memory_bytes = 0;  // what the task was thought to need before it began (memory_limit_bytes)
  uint32_t steps = 0;
  double train_loss = 0, first_loss = 0, last_loss = 0, train_seconds = 0;
  uint64_t forward_passes = 0, skipped_directions = 0;  // of zeroth-order tasks
  bool loss_stalled = false;                            // as TaskMetrics
  uint64_t pseudo_labels = 0;                           // as TaskMetrics
};

struct TaskOutput {
  StateDict update;  // trained minus initial adapter, F32, PEFT key names
  TaskStats stats;
  StateDict personal = {};  // what the device keeps if the update is accepted, in place of what it kept before
};

// Called after each step; false asks the task to stop (it then returns kCancelled).
using ProgressCallback = std::function<bool(uint32_t step, uint32_t total_steps, double loss)>;

// What tasks may share: base models, tokenized data. The worker keeps one for its life, the simulator one for all
// devices, so frozen weights exist once in memory. Thread-safe.
class TaskResources;
std::shared_ptr<TaskResources> MakeTaskResources();

// Stateless; Run may be called from several threads at once with one TaskResources. Sets its thread's compute threads.
class LocalTask {
 public:
  virtual ~LocalTask() = default;
  // Errors: kCancelled; kInvalidArgument (model, adapter, data or settings do not fit together: one sentence);
  // kNotFound; kResourceExhausted (memory); kInternal (a library's exception, or a loss that is not finite).
  virtual Result<TaskOutput> Run(const TaskInput& input, TaskResources& resources,
                                 const ProgressCallback& progress) const = 0;
};

// Errors: kNotFound with the nearest name.
Result<std::shared_ptr<const LocalTask>> FindLocalTask(std::string_view name);
std::vector<std::string> LocalTaskNames();  // sorted

// Held-out quality of base + adapter over all of the data.
struct Evaluation {
  double loss = 0;            // mean: nats a token, nats an example of a classifier, squared error
  double perplexity = 0;      // exp(loss) of a language model, else 0
  uint64_t num_tokens = 0;    // that were asked for (language models) or read (classifiers)
  uint64_t data_tokens = 0;   // of a causal language model: all of the data's; else 0
  uint64_t num_examples = 0;  // rows
  // By name: perplexity; accuracy, f1 (of class 1, with two classes), macro_f1, matthews; or mean_squared_error,
  // pearson, spearman.
  std::vector<std::pair<std::string, double>> metrics;
};
// What an evaluation computes with.
struct EvaluationForm {
  std::string device;      // "cpu" (also when empty) or "cuda"
  std::string base_dtype;  // of the frozen weights, by name; empty: float32. bfloat16 is also computed in
  std::optional<PromptSettings> prompt = {};  // a language model is asked for classes, and evaluated as a classifier
  // Running text of a causal model: whether the tokens after the last whole window count too. Runs leave them out.
  bool short_last_window = false;
};
// adapter_dir empty: the base alone. The data are read as lora_sft reads them. Tokens of masked language models are
// masked the same in every call. With `threads` above 0 the calling thread computes with so many from then on.
Result<Evaluation> EvaluateModel(const std::filesystem::path& base_model_dir, const std::filesystem::path& adapter_dir,
                                 const std::filesystem::path& data_path, uint32_t sequence_length,
                                 TaskResources& resources, unsigned threads = 0, const EvaluationForm& form = {});

}  // namespace heddle::client
