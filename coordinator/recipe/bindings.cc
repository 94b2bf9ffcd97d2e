#include "coordinator/recipe/bindings.h"

#include <algorithm>

#include "coordinator/engine/engine.h"
#include "model/quant/weight_type.h"
#include "model/training/optimizer_kind.h"
#include "model/training/schedule.h"
#include "protocol/limits.h"

namespace heddle::coordinator {
namespace {

// Far above what training makes of an adapter, far below what one device needs to drown all others.
constexpr double kDefaultMaxNorm = 1000;
// Ten times what adapters' updates are long, so that honest ones stay as they are
// (docs/decisions/0012-robust-rules.md).
constexpr double kDefaultClipNorm = 100;

}  // namespace

RecipeBindings::RecipeBindings(Recipe* recipe) : recipe_(recipe) {
  schema_.Bind("name", &recipe_->name, {.help = "short name of the run: a-z, 0-9, '-'", .required = true});
  schema_.Bind("seed", &recipe_->seed, {.help = "seed of everything random in the run"});
  BindModel();
  tuning_.Bind(&schema_, &recipe_->lora, &recipe_->head, &recipe_->generator);
  BindStrategy();
  BindStages();
  BindMethods();
  BindCompression();
  BindPrivacy();
  BindTrain();
  BindPrompt();
  zo_.Bind(&schema_);
  simulation_.Bind(&schema_, &recipe_->simulation);
}

void RecipeBindings::BindModel() {
  schema_.Bind("model.base", &base_,
               {.help = "folder of the base model in Hugging Face layout, relative to the recipe",
                .required = true,
                .is_path = true});
  schema_.Bind("lora.r", &lora_r_, {.help = "rank", .min = 1, .max = 4096});
  schema_.Bind("lora.lora_alpha", &recipe_->lora.lora_alpha,
               {.help = "scaling is lora_alpha / r", .min = 1e-6, .max = 1e6});
  schema_.Bind("lora.lora_dropout", &recipe_->lora.lora_dropout, {.help = "dropout before A", .min = 0, .max = 0.99});
  schema_.Bind("lora.use_rslora", &recipe_->lora.use_rslora, {.help = "scaling is lora_alpha / sqrt(r)"});
  schema_.Bind("lora.target_modules", &target_modules_,
               {.help = "names of linear layers, or [\"all-linear\"]", .min = 1, .max = 256});
  schema_.Bind(
      "lora.device_ranks", &device_ranks_,
      {.help = "ranks of devices by name or beginning of a name: [\"phone-7:4\", \"tablet-*:8\"]; r for others",
       .max = 4096,
       .silent_default = true});
  schema_.Bind(
      "lora.rank_tiers", &rank_tiers_,
      {.help = "ranks of which each other device gets one, drawn by seed and name", .max = 64, .silent_default = true});
  schema_.Bind("lora.exclude_modules", &recipe_->lora.exclude_modules, {.help = "names that get no factors"});
  schema_.Bind("lora.exclude_modules_regex", &recipe_->lora.exclude_modules_regex,
               {.help = "the same as an expression of the whole path", .silent_default = true});
}

// Settings of all methods; that a method has one is checked when it is made.
void RecipeBindings::BindMethods() {
  std::map<std::string, std::string> help;
  for (const std::string& method : aggregation::AggregatorNames()) {
    for (const aggregation::Setting& setting : aggregation::SettingsOf(method)) {
      std::string& text = help[std::string(setting.name)];
      text += (text.empty() ? "" : "; ") + method + ": " + std::string(setting.help);
    }
  }
  for (auto& [name, text] : help) {
    schema_.Bind("strategy." + name, &method_settings_[name], {.help = std::move(text), .silent_default = true});
  }
}

void RecipeBindings::BindCompression() {
  schema_.Bind("compression.upload", &upload_,
               {.help = "how updates are made smaller, stage by stage: blocks:F, top_k:F, random_mask:F, then bf16, "
                        "int8, int4, int2, nnadq:W or sign; and error_feedback",
                .max = static_cast<double>(compression::Pipeline::kMaxWords),
                .silent_default = true});
  schema_.Bind(
      "compression.upload_rounds", &upload_rounds_,
      {.help = "rounds with upload, after which later_upload holds; 0: all", .max = 1e6, .silent_default = true});
  schema_.Bind("compression.later_upload", &later_upload_,
               {.help = "as upload, for the rounds after upload_rounds",
                .max = static_cast<double>(compression::Pipeline::kMaxWords),
                .silent_default = true});
  schema_.Bind(
      "compression.download", &download_,
      {.help = "how devices get the model of a round: float32, or rounded by bf16 or nnadq:W", .silent_default = true});
}

void RecipeBindings::BindPrivacy() {
  schema_.Bind("privacy.update_clip", &recipe_->update_privacy.clip,
               {.help = "L2 norm that devices clip their updates to, all tensors together; 0: they do not",
                .min = 0,
                .max = privacy::kMaxClip,
                .silent_default = true});
  schema_.Bind("privacy.noise_multiplier", &recipe_->update_privacy.noise_multiplier,
               {.help = "deviation of the noise that devices add to each value, in units of update_clip; 0: none",
                .min = 0,
                .max = privacy::kMaxNoise,
                .silent_default = true});
  schema_.Bind("privacy.delta", &recipe_->privacy_delta,
               {.help = "for which the guarantee is said", .min = 1e-15, .max = 0.5, .silent_default = true});
}

Status RecipeBindings::StorePrivacy() const {
  const auto& [clip, noise] = recipe_->update_privacy;
  std::string mistakes;
  if (clip > 0 && clip < privacy::kMinClip) mistakes += "\n  privacy.update_clip: it must be 0, or at least 1e-06";
  if (noise > 0 && noise < privacy::kMinNoise) {
    mistakes += "\n  privacy.noise_multiplier: it must be 0, or at least 0.001; less guarantees nothing";
  }
  if (noise > 0 && clip == 0) {
    mistakes += "\n  privacy.noise_multiplier: it is in units of privacy.update_clip, which must be set too";
  }
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe is wrong:" + mistakes);
}

Status RecipeBindings::ParseUpload(const char* key, const std::vector<std::string>& words,
                                   compression::Pipeline* out) const {
  Result<compression::Pipeline> parsed = compression::Pipeline::Parse(words);
  if (!parsed.ok()) {
    // Each mistake on a line of its own.
    const std::string line = "\n  " + std::string(key) + ": ";
    std::string mistakes = line + parsed.status().message();
    for (size_t at = 2; (at = mistakes.find('\n', at)) != std::string::npos; at += 3) mistakes.replace(at, 1, line);
    return InvalidArgument("the recipe is wrong:" + mistakes);
  }
  *out = *std::move(parsed);
  return OkStatus();
}

Status RecipeBindings::StoreCompression() {
  HEDDLE_RETURN_IF_ERROR(ParseUpload("compression.upload", upload_, &recipe_->upload));
  HEDDLE_RETURN_IF_ERROR(ParseUpload("compression.later_upload", later_upload_, &recipe_->later_upload));
  recipe_->upload_rounds = static_cast<uint32_t>(upload_rounds_);
  if (download_ != "float32") {
    HEDDLE_RETURN_IF_ERROR(ParseUpload("compression.download", {download_}, &recipe_->download));
    const auto stages = recipe_->download.stages();
    const bool known = stages.size() == 1 && (stages[0].kind == compression::StageKind::kBf16 ||
                                              stages[0].kind == compression::StageKind::kAdaptive);
    if (!known) {
      return InvalidArgument(
          "the recipe is wrong:\n  compression.download: it must be float32, bf16 or nnadq:W, not '" + download_ + "'");
    }
  }
  const bool feedback = recipe_->upload.error_feedback() || recipe_->later_upload.error_feedback();
  if (upload_rounds_ > 0 && feedback) {
    return InvalidArgument(
        "the recipe is wrong:\n  compression.upload_rounds: what error_feedback keeps belongs to one upload for all "
        "rounds; remove one of the two");
  }
  if (upload_rounds_ == 0 && !later_upload_.empty()) {
    return InvalidArgument("the recipe is wrong:\n  compression.later_upload: it needs upload_rounds above 0");
  }
  return OkStatus();
}

void RecipeBindings::BindStrategy() {
  RunSpec& spec = recipe_->spec;
  schema_.Bind("strategy.name", &recipe_->strategy,
               {.help = "aggregation method", .choices = aggregation::AggregatorNames()});
  schema_.Bind("strategy.num_server_rounds", &rounds_,
               {.help = "commits until the run is complete", .min = 1, .max = 1e6});
  schema_.Bind("strategy.cohort_size", &cohort_size_, {.help = "reports that close a round", .min = 1, .max = 1e5});
  schema_.Bind("strategy.over_selection", &spec.over_selection,
               {.help = "this many times cohort_size devices get the task", .min = 1, .max = 100});
  schema_.Bind("strategy.min_available_devices", &min_available_,
               {.help = "devices that must wait before a round selects; 0: as many as it selects", .max = 1e6});
  schema_.Bind("strategy.min_reports", &min_reports_,
               {.help = "reports with which a round commits at its deadline; 0: cohort_size", .max = 1e5});
  schema_.Bind("strategy.selection_timeout_s", &selection_timeout_s_,
               {.help = "seconds until a round without enough devices is abandoned", .min = 0.001, .max = 1e7});
  schema_.Bind("strategy.report_deadline_s", &report_deadline_s_,
               {.help = "seconds from selection to commit or abandon", .min = 0.001, .max = 1e7});
  schema_.Bind("strategy.max_abandoned_attempts", &max_abandoned_,
               {.help = "abandoned attempts of a round before the run fails; 0: no limit", .max = 1e6});
  schema_.Bind("strategy.max_poll_hold_s", &max_poll_hold_s_,
               {.help = "seconds a waiting check-in is held", .min = 0.01, .max = 3600});
  schema_.Bind("strategy.min_retry_after_s", &min_retry_after_s_,
               {.help = "bounds of retry_after", .min = 0, .max = 86400});
  schema_.Bind("strategy.max_retry_after_s", &max_retry_after_s_,
               {.help = "bounds of retry_after", .min = 0, .max = 86400});
  schema_.Bind("strategy.max_abs", &recipe_->aggregator.max_abs,
               {.help = "largest element of an update; sets the grid of the sums", .min = 1e-6, .max = 1e12});
  recipe_->aggregator.max_norm = kDefaultMaxNorm;
  schema_.Bind("strategy.max_norm", &recipe_->aggregator.max_norm,
               {.help = "largest L2 norm of an update; 0: no bound", .min = 0, .max = 1e12});
  recipe_->aggregator.clip_norm = kDefaultClipNorm;
  schema_.Bind("strategy.kept", &recipe_->aggregator.kept,
               {.help = "parts of names of tensors that stay on each device (\"lora_B\", \"classifier\")",
                .max = protocol::kMaxPatterns / 2,
                .silent_default = true});
  schema_.Bind("strategy.clip_norm", &recipe_->aggregator.clip_norm,
               {.help = "L2 norm to which longer updates are clipped; 0: no clipping",
                .min = 0,
                .max = 1e12,
                .silent_default = true});
  schema_.Bind(
      "strategy.device_layers", &device_layers_,
      {.help = "layers that devices can hold, by name or beginning of a name: [\"phone-7:2\", \"tablet-*:4\"]; "
               "all for others",
       .max = 4096,
       .silent_default = true});
  schema_.Bind("strategy.layer_tiers", &layer_tiers_,
               {.help = "numbers of layers of which each other device can hold one, drawn by seed and name",
                .max = 64,
                .silent_default = true});
  schema_.Bind("strategy.layers_by_memory", &recipe_->layers_by_memory,
               {.help = "a device has as many layers as the memory allows that it tells", .silent_default = true});
  schema_.Bind("strategy.worker_memory_mb", &worker_memory_mb_,
               {.help = "with layers_by_memory: of a device's memory what its worker takes beside the task",
                .max = 1 << 20,
                .silent_default = true});
  schema_.Bind("strategy.max_num_examples", &max_num_examples_,
               {.help = "largest weight of an update; 0: as many as the steps see", .max = 536870912});
}

void RecipeBindings::BindStages() {
  schema_.Bind("strategy.first_stage_rounds", &first_stage_rounds_,
               {.help = "rounds after which later_cohort_size and train.later_local_steps hold; 0: all",
                .max = 1e6,
                .silent_default = true});
  schema_.Bind("strategy.later_cohort_size", &later_cohort_size_,
               {.help = "cohort_size after first_stage_rounds; 0: as before", .max = 1e5, .silent_default = true});
  schema_.Bind("train.later_local_steps", &later_local_steps_,
               {.help = "local_steps after strategy.first_stage_rounds; 0: as before",
                .max = protocol::kMaxLocalSteps,
                .silent_default = true});
}

// Once the first stage is stored. What was said of min_reports and min_available_devices holds in both.
Status RecipeBindings::StoreStages() {
  RunSpec& spec = recipe_->spec;
  spec.first_stage_rounds = static_cast<uint32_t>(first_stage_rounds_);
  const bool differs = later_cohort_size_ > 0 || later_local_steps_ > 0;
  if (differs != (first_stage_rounds_ > 0)) {
    return InvalidArgument(
        "the recipe is wrong:\n  strategy.first_stage_rounds: it goes with strategy.later_cohort_size or "
        "train.later_local_steps, and they with it");
  }
  if (!differs) return OkStatus();
  recipe_->later_local_steps = static_cast<uint32_t>(later_local_steps_);
  spec.later_cohort_size = later_cohort_size_ > 0 ? static_cast<uint32_t>(later_cohort_size_) : spec.cohort_size;
  spec.later_min_reports = min_reports_ > 0 ? spec.min_reports : spec.later_cohort_size;
  spec.later_min_available_devices =
      min_available_ > 0 ? spec.min_available_devices : SelectionTarget(spec, spec.first_stage_rounds + 1);
  return OkStatus();
}

void RecipeBindings::BindTrain() {
  schema_.Bind("train.local_task", &recipe_->local_task, {.help = "the devices' half of the method"});
  schema_.Bind("train.optimizer", &optimizer_,
               {.help = "optimizer of the devices", .choices = model::OptimizerNames()});
  schema_.Bind("train.local_steps", &local_steps_,
               {.help = "optimizer steps a round", .min = 1, .max = protocol::kMaxLocalSteps});
  schema_.Bind("train.batch_size", &batch_size_,
               {.help = "sequences at a time", .min = 1, .max = protocol::kMaxBatchSize});
  schema_.Bind("train.gradient_accumulation_steps", &gradient_accumulation_steps_,
               {.help = "batches whose gradients make one step",
                .min = 1,
                .max = protocol::kMaxBatchSize,
                .silent_default = true});
  schema_.Bind("train.sequence_length", &sequence_length_, {.help = "tokens a sequence", .min = 1, .max = 1 << 20});
  schema_.Bind("train.learning_rate", &learning_rate_, {.help = "the optimizer's step size", .min = 0, .max = 1000});
  schema_.Bind("train.learning_rate_schedule", &recipe_->learning_rate_schedule,
               {.help = "over the rounds", .choices = {"constant", "cosine"}});
  schema_.Bind("train.lr_scheduler_type", &lr_scheduler_type_,
               {.help = "over the steps of a task", .choices = model::ScheduleNames(), .silent_default = true});
  schema_.Bind("train.weight_decay", &weight_decay_,
               {.help = "weight decay: decoupled of AdamW, in the gradient of SGD", .min = 0, .max = 100});
  schema_.Bind("train.momentum", &momentum_, {.help = "SGD", .min = 0, .max = 0.999999, .silent_default = true});
  schema_.Bind(
      "train.base_dtype", &base_dtype_,
      {.help = "how devices keep the frozen base model", .choices = model::WeightTypeNames(), .silent_default = true});
  schema_.Bind("train.gradient_checkpointing", &gradient_checkpointing_,
               {.help = "compute activations again instead of keeping them", .silent_default = true});
  schema_.Bind("train.bf16", &bf16_, {.help = "compute in bfloat16; adapters stay float32", .silent_default = true});
  schema_.Bind("train.beta1", &beta1_, {.help = "AdamW", .min = 0, .max = 0.999999});
  schema_.Bind("train.beta2", &beta2_, {.help = "AdamW", .min = 0, .max = 0.999999999});
  schema_.Bind("train.epsilon", &epsilon_, {.help = "AdamW", .min = 1e-30, .max = 1});
  schema_.Bind("train.max_grad_norm", &max_grad_norm_,
               {.help = "clip to this L2 norm; 0: no clipping", .min = 0, .max = 1e9});
  schema_.Bind("train.warmup_steps", &warmup_steps_, {.help = "linear warm-up of each task", .max = 1e6});
  schema_.Bind("train.threads", &threads_,
               {.help = "compute threads of a task; changes the last bits", .min = 1, .max = 256});
}

void RecipeBindings::BindPrompt() {
  schema_.Bind("prompt.pattern", &prompt_pattern_,
               {.help = "makes a classifier of a language model: what it reads, \"{text} It was {mask}.\"",
                .max = protocol::kMaxPromptBytes,
                .silent_default = true});
  schema_.Bind(
      "prompt.words", &prompt_words_,
      {.help = "the word at {mask} that means each class", .max = protocol::kMaxPromptWords, .silent_default = true});
  schema_.Bind("prompt.label_names", &prompt_label_names_,
               {.help = "what the data call the classes; none: as the words, or their numbers",
                .max = protocol::kMaxPromptWords,
                .silent_default = true});
}

Status RecipeBindings::Store(Recipe::Origin origin) {
  recipe_->base_model = base_;
  if (worker_memory_mb_ != kWorkerMemoryMb && !recipe_->layers_by_memory) {
    return InvalidArgument("strategy.worker_memory_mb: it goes with layers_by_memory");
  }
  recipe_->worker_memory_bytes = worker_memory_mb_ << 20;
  recipe_->lora.r = lora_r_;
  recipe_->lora.target_modules = target_modules_;
  HEDDLE_RETURN_IF_ERROR(tuning_.Store(&recipe_->lora, &recipe_->head));
  if (origin == Recipe::Origin::kGiven) HEDDLE_RETURN_IF_ERROR(tuning_.CheckAllCount(recipe_->lora));
  RunSpec& spec = recipe_->spec;
  spec.seed = recipe_->seed;
  spec.rounds = static_cast<uint32_t>(rounds_);
  spec.cohort_size = static_cast<uint32_t>(cohort_size_);
  spec.min_available_devices = min_available_ > 0 ? static_cast<uint32_t>(min_available_) : SelectionTarget(spec, 1);
  spec.min_reports = static_cast<uint32_t>(min_reports_ > 0 ? min_reports_ : cohort_size_);
  spec.max_abandoned_attempts = static_cast<uint32_t>(max_abandoned_);
  spec.selection_timeout = Seconds(selection_timeout_s_);
  spec.report_deadline = Seconds(report_deadline_s_);
  spec.max_poll_hold = Seconds(max_poll_hold_s_);
  spec.min_retry_after = Seconds(min_retry_after_s_);
  spec.max_retry_after = Seconds(std::max(min_retry_after_s_, max_retry_after_s_));
  v1::TrainPlan& train = recipe_->train;
  train.set_local_steps(static_cast<uint32_t>(local_steps_));
  train.set_batch_size(static_cast<uint32_t>(batch_size_));
  train.set_sequence_length(static_cast<uint32_t>(sequence_length_));
  train.set_warmup_steps(static_cast<uint32_t>(warmup_steps_));
  train.set_threads(static_cast<uint32_t>(threads_));
  train.set_learning_rate(learning_rate_);
  train.set_weight_decay(weight_decay_);
  train.set_beta1(beta1_);
  train.set_beta2(beta2_);
  train.set_epsilon(epsilon_);
  train.set_max_grad_norm(max_grad_norm_);
  // What is at its default is not said: the bytes of plans of before.
  if (optimizer_ != model::OptimizerNames().front()) train.set_optimizer(optimizer_);
  if (lr_scheduler_type_ != model::ScheduleNames().front()) train.set_lr_scheduler_type(lr_scheduler_type_);
  if (base_dtype_ != model::WeightTypeNames().front()) train.set_base_dtype(base_dtype_);
  if (gradient_accumulation_steps_ > 1) {
    train.set_gradient_accumulation_steps(static_cast<uint32_t>(gradient_accumulation_steps_));
  }
  train.set_momentum(momentum_);
  train.set_gradient_checkpointing(gradient_checkpointing_);
  train.set_bf16(bf16_);
  if (origin == Recipe::Origin::kGiven && prompt_pattern_.empty() && prompt_words_.empty() &&
      !prompt_label_names_.empty()) {
    return InvalidArgument("the recipe is wrong:\n  prompt.label_names: they go with prompt.pattern and prompt.words");
  }
  if (!prompt_pattern_.empty() || !prompt_words_.empty()) {
    v1::PromptTemplate& prompt = *train.mutable_prompt();
    prompt.set_pattern(prompt_pattern_);
    prompt.mutable_words()->Assign(prompt_words_.begin(), prompt_words_.end());
    prompt.mutable_label_names()->Assign(prompt_label_names_.begin(), prompt_label_names_.end());
  }
  if (recipe_->local_task.empty() && UsesSharedSeeds(recipe_->strategy)) recipe_->local_task = "zo_ledger";
  HEDDLE_RETURN_IF_ERROR(
      zo_.Store(schema_, recipe_->lora, recipe_->strategy, &recipe_->local_task, &learning_rate_, &train));
  // The tighter the bounds, the finer the grid of the sums: devices report exactly so many examples.
  const uint64_t examples = std::max(local_steps_, later_local_steps_) * batch_size_ * gradient_accumulation_steps_;
  recipe_->aggregator.max_num_examples = max_num_examples_ > 0 ? max_num_examples_ : examples;
  recipe_->aggregator.max_updates = cohort_size_;
  for (const auto& [name, value] : method_settings_) {
    if (value) recipe_->aggregator.method[name] = *value;
  }
  spec.max_num_examples = recipe_->aggregator.max_num_examples;
  HEDDLE_RETURN_IF_ERROR(StoreStages());
  HEDDLE_RETURN_IF_ERROR(StoreCompression());
  HEDDLE_RETURN_IF_ERROR(StorePrivacy());
  return simulation_.Store(&recipe_->simulation, batch_size_);
}

}  // namespace heddle::coordinator
