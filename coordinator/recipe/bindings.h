// The recipe's keys: which TOML key sets which field. Internal to the room.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/config.h"
#include "coordinator/recipe/recipe.h"
#include "coordinator/recipe/simulation_bindings.h"
#include "coordinator/recipe/tuning_bindings.h"
#include "coordinator/recipe/zo_bindings.h"

namespace heddle::coordinator {

// Binds every key of a recipe to staging variables with the recipe's defaults; Store() moves them into it after a load.
class RecipeBindings {
 public:
  explicit RecipeBindings(Recipe* recipe);
  ConfigSchema& schema() { return schema_; }
  Status Store(Recipe::Origin origin);
  // After Store: what [simulation] contradicts itself in.
  std::vector<std::string> SimulationMistakes() const { return simulation_.Mistakes(recipe_->simulation); }

  // [lora] device_ranks and rank_tiers as they were given.
  const std::vector<std::string>& device_ranks() const { return device_ranks_; }
  const std::vector<int64_t>& rank_tiers() const { return rank_tiers_; }
  // [strategy] device_layers and layer_tiers as they were given.
  const std::vector<std::string>& device_layers() const { return device_layers_; }
  const std::vector<int64_t>& layer_tiers() const { return layer_tiers_; }

 private:
  void BindModel();
  void BindStrategy();
  void BindStages();
  Status StoreStages();
  void BindMethods();
  void BindCompression();
  Status StoreCompression();
  void BindPrivacy();
  Status StorePrivacy() const;
  Status ParseUpload(const char* key, const std::vector<std::string>& words, compression::Pipeline* out) const;
  void BindTrain();
  void BindPrompt();

  Recipe* recipe_;
  ConfigSchema schema_{"recipe"};
  SimulationBindings simulation_;
  TuningBindings tuning_;
  ZoBindings zo_;
  std::string base_;
  int64_t lora_r_ = 8;
  std::vector<std::string> target_modules_ = {"q_proj", "v_proj"};
  std::vector<std::string> device_ranks_, device_layers_, upload_, later_upload_;
  static constexpr uint64_t kWorkerMemoryMb = 192;
  uint64_t upload_rounds_ = 0, worker_memory_mb_ = kWorkerMemoryMb;
  std::string download_ = "float32";
  std::vector<int64_t> rank_tiers_, layer_tiers_;
  std::map<std::string, std::optional<double>> method_settings_;  // of all methods; those that were given
  uint64_t rounds_ = 1, cohort_size_ = 1, min_available_ = 0, min_reports_ = 0, max_abandoned_ = 0;
  uint64_t first_stage_rounds_ = 0, later_cohort_size_ = 0, later_local_steps_ = 0;
  double selection_timeout_s_ = 600, report_deadline_s_ = 600, max_poll_hold_s_ = 300;
  double min_retry_after_s_ = 1, max_retry_after_s_ = 60;
  uint64_t max_num_examples_ = 0;
  std::string optimizer_ = "AdamW", lr_scheduler_type_ = "constant_with_warmup", base_dtype_ = "float32";
  uint64_t gradient_accumulation_steps_ = 1;
  std::string prompt_pattern_;
  std::vector<std::string> prompt_words_, prompt_label_names_;
  double momentum_ = 0;
  bool gradient_checkpointing_ = false, bf16_ = false;
  uint64_t local_steps_ = 10, batch_size_ = 8, sequence_length_ = 128, warmup_steps_ = 0, threads_ = 1;
  double learning_rate_ = 1e-3, weight_decay_ = 0, beta1_ = 0.9, beta2_ = 0.999, epsilon_ = 1e-8, max_grad_norm_ = 1.0;
};

}  // namespace heddle::coordinator
