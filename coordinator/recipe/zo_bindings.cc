#include "coordinator/recipe/zo_bindings.h"

#include <algorithm>
#include <array>
#include <vector>

#include "protocol/limits.h"

namespace heddle::coordinator {
namespace {

constexpr std::array<const char*, 14> kKeys = {
    "zo.estimator",         "zo.distribution",         "zo.optimizer",           "zo.zo_eps",
    "zo.num_perturbations", "zo.clip_projected_grad",  "zo.max_loss_difference", "zo.sparse_fraction",
    "zo.anchor_interval",   "zo.anchor_perturbations", "zo.intrinsic_dim",       "zo.population",
    "zo.projection_scale",  "zo.kept_front_mb"};

// The table of the header.
struct Preset {
  double zo_eps, zo_sgd, others;
};

Preset PresetOf(peft::TuningKind kind) {
  switch (kind) {
    case peft::TuningKind::kFull:
    case peft::TuningKind::kBitFit:
      return {1e-3, 1e-6, 1e-5};
    case peft::TuningKind::kLora:
    case peft::TuningKind::kIa3:
    case peft::TuningKind::kBottleneck:
      return {1e-2, 5e-5, 5e-4};
    case peft::TuningKind::kPromptTuning:
    case peft::TuningKind::kPrefixTuning:
    case peft::TuningKind::kPTuning:
      break;
  }
  return {1e-1, 1e-2, 1e-2};
}

}  // namespace

bool IsZerothOrderTask(std::string_view local_task) {
  return local_task == "zo_sft" || local_task == "zo_ledger" || local_task == "bbpt";
}

void ZoBindings::Bind(ConfigSchema* schema) {
  constexpr double kMost = protocol::kMaxPerturbations;
  const auto text = [schema](const char* key, std::string* to, const char* help, std::vector<std::string> choices) {
    schema->Bind(key, to, {.help = help, .choices = std::move(choices), .silent_default = true});
  };
  const auto number = [schema](const char* key, ConfigSchema::Target to, const char* help, double min, double max) {
    schema->Bind(key, to, {.help = help, .min = min, .max = max, .silent_default = true});
  };
  text("zo.estimator", &estimator_, "how the gradient is estimated", {"spsa", "spsa_one_sided", "forward_gradient"});
  text("zo.distribution", &distribution_, "of the directions", {"normal", "rademacher"});
  text("zo.optimizer", &optimizer_, "what is done with an estimate", {"zo_sgd", "zo_adam", "zo_sign_sgd"});
  number("zo.zo_eps", &zo_eps_, "step of the differences; 0: what suits tuning.method", 0, 1e6);
  number("zo.num_perturbations", &num_perturbations_, "directions a step", 1, kMost);
  number("zo.clip_projected_grad", &clip_projected_grad_, "bound of a projected gradient; 0: none", 0, 1e30);
  number("zo.max_loss_difference", &max_loss_difference_,
         "directions whose losses differ by more are skipped; 0: none are", 0, 1e30);
  number("zo.sparse_fraction", &sparse_fraction_,
         "Sparse-MeZO: only this share of each tensor's elements, the smallest, is trained; 0: all", 0, 1);
  number("zo.anchor_interval", &anchor_interval_, "variance reduction: steps that share an anchor; 0: none", 0,
         protocol::kMaxLocalSteps);
  number("zo.anchor_perturbations", &anchor_perturbations_, "directions of the estimate at an anchor", 1, kMost);
  number("zo.intrinsic_dim", &intrinsic_dim_, "black-box tuning: coordinates that are searched", 0, kMost);
  number("zo.population", &population_, "black-box tuning: candidates a generation; 0: what the dimension asks for", 0,
         kMost);
  number("zo.kept_front_mb", &kept_front_mb_,
         "MiB in which a device keeps what the layers below the trained ones make of its examples; 0: none", 0,
         protocol::kMaxKeptFrontMb);
  number("train.kept_front_mb", &trained_front_mb_,
         "MiB in which a device keeps what the frozen layers below the trained ones make of its examples; 0: none", 0,
         protocol::kMaxKeptFrontMb);
  number("zo.projection_scale", &projection_scale_, "black-box tuning: size of the projection's columns", 1e-9, 1e6);
}

Status ZoBindings::Store(const ConfigSchema& schema, const peft::AdapterConfig& adapter, std::string_view strategy,
                         std::string* local_task, double* learning_rate, v1::TrainPlan* train) {
  const auto given = std::find_if(kKeys.begin(), kKeys.end(), [&](const char* key) { return schema.WasGiven(key); });
  const bool spry = strategy == "SPRY";
  if (local_task->empty() && strategy == "FedBPT") *local_task = "bbpt";
  if (local_task->empty() && (given != kKeys.end() || spry)) *local_task = "zo_sft";
  if (spry && !schema.WasGiven("zo.estimator")) estimator_ = "forward_gradient";
  if (!IsZerothOrderTask(*local_task)) {
    if (given != kKeys.end()) {
      return InvalidArgument("the recipe contradicts itself:\n  " + std::string(*given) + ": the local task '" +
                             *local_task + "' computes gradients; remove it, or set train.local_task = \"zo_sft\"");
    }
    if (trained_front_mb_ > 0) train->mutable_zo()->set_kept_front_mb(static_cast<uint32_t>(trained_front_mb_));
    return OkStatus();
  }
  if (trained_front_mb_ > 0) {
    return InvalidArgument("the recipe contradicts itself:\n  train.kept_front_mb: the local task '" + *local_task +
                           "' computes no gradients; set zo.kept_front_mb in its place");
  }
  // What is sent is checked against a bound, which the recipe has to say (FedKSeed-Pro's own: 1000).
  if (*local_task == "zo_ledger" && clip_projected_grad_ == 0) clip_projected_grad_ = 1000;
  const Preset preset = PresetOf(adapter.kind());
  if (zo_eps_ == 0) zo_eps_ = preset.zo_eps;
  if (!schema.WasGiven("train.learning_rate")) *learning_rate = optimizer_ == "zo_sgd" ? preset.zo_sgd : preset.others;
  train->set_learning_rate(*learning_rate);
  v1::ZerothOrder& zo = *train->mutable_zo();
  zo.set_estimator(estimator_);
  zo.set_zo_eps(zo_eps_);
  zo.set_num_perturbations(static_cast<uint32_t>(num_perturbations_));
  zo.set_distribution(distribution_);
  zo.set_clip_projected_grad(clip_projected_grad_);
  zo.set_max_loss_difference(max_loss_difference_);
  zo.set_optimizer(optimizer_);
  zo.set_sparse_fraction(sparse_fraction_);
  zo.set_kept_front_mb(static_cast<uint32_t>(kept_front_mb_));
  zo.set_anchor_interval(static_cast<uint32_t>(anchor_interval_));
  if (anchor_interval_ > 0) zo.set_anchor_perturbations(static_cast<uint32_t>(anchor_perturbations_));
  if (*local_task == "bbpt" && kept_front_mb_ > 0) {
    return InvalidArgument(
        "the recipe contradicts itself:\n  zo.kept_front_mb: a prompt stands before all layers, so none can be kept; "
        "remove it");
  }
  if (*local_task == "bbpt") {
    zo.set_intrinsic_dim(static_cast<uint32_t>(intrinsic_dim_ == 0 ? 500 : intrinsic_dim_));
    zo.set_population(static_cast<uint32_t>(population_));
    zo.set_projection_scale(projection_scale_);
  }
  return OkStatus();
}

}  // namespace heddle::coordinator
