// The keys of [zo] and where their values go: training with forward passes only. Part of RecipeBindings. All are silent
// at their defaults. Beside them train.kept_front_mb, which is zo.kept_front_mb for tasks that compute gradients, and
// travels in the same field of the plan.
//
// A recipe trains so when its local task is one of IsZerothOrderTask, or when it has a key of [zo] and names no task
// (then it is zo_sft), or when its strategy is SPRY (zo_sft) or FedBPT (bbpt). What such a recipe leaves out follows
// from what it trains, since step sizes that differ by orders of magnitude are right for different parts of a model
// (Malladi et al., 2305.17333, appendix D):
//
//   tuning.method                                 zo_eps   train.learning_rate: zo_sgd   zo_adam   zo_sign_sgd
//   full, bitfit                                  1e-3                          1e-6     1e-5      1e-5
//   lora, ia3, bottleneck                         1e-2                          5e-5     5e-4      5e-4
//   prefix-tuning, prompt-tuning, p-tuning        1e-1                          1e-2     1e-2      1e-2
#pragma once

#include <string>
#include <string_view>

#include "common/config.h"
#include "common/status.h"
#include "peft/adapter/adapter_config.h"
#include "protocol/v1/task.pb.h"

namespace heddle::coordinator {

// Local tasks with forward passes only, which read all of TrainPlan.zo.
bool IsZerothOrderTask(std::string_view local_task);

class ZoBindings {
 public:
  void Bind(ConfigSchema* schema);
  // After a load, and after the rest of `train`, `adapter` and `local_task` are what the recipe says: names the task
  // where [zo] asks for it, and completes `train`. What follows from the presets is also written to where
  // train.learning_rate is bound, so that the resolved recipe says it. Errors: kInvalidArgument, every mistake on a
  // line of its own.
  Status Store(const ConfigSchema& schema, const peft::AdapterConfig& adapter, std::string_view strategy,
               std::string* local_task, double* learning_rate, v1::TrainPlan* train);

 private:
  std::string estimator_ = "spsa", distribution_ = "normal", optimizer_ = "zo_sgd";
  double zo_eps_ = 0, clip_projected_grad_ = 0, max_loss_difference_ = 0, sparse_fraction_ = 0, projection_scale_ = 1;
  uint64_t num_perturbations_ = 1, anchor_interval_ = 0, anchor_perturbations_ = 16, intrinsic_dim_ = 0;
  uint64_t population_ = 0, kept_front_mb_ = 0, trained_front_mb_ = 0;
};

}  // namespace heddle::coordinator
