#include "coordinator/recipe/recipe_checks.h"

#include <string>

#include "aggregation/averaging/few_shot.h"
#include "aggregation/layer_choice.h"

namespace heddle::coordinator {

Status CheckSeeds(const Recipe& recipe) {
  const bool seeds = UsesSharedSeeds(recipe.strategy);
  std::string mistakes;
  if (seeds != (recipe.local_task == "zo_ledger")) {
    mistakes += seeds ? "\n  train.local_task: " + recipe.strategy + " needs 'zo_ledger'; remove it"
                      : "\n  train.local_task: 'zo_ledger' sends scalars, which " + recipe.strategy +
                            " cannot merge; choose FedKSeed, DeComFL or BAFFLE as strategy.name";
  }
  if (seeds) {
    const v1::ZerothOrder& zo = recipe.train.zo();
    const auto refuse = [&](bool wrong, const char* key, const char* why) {
      if (wrong) mistakes += "\n  " + std::string(key) + ": " + why;
    };
    refuse(!recipe.upload.empty() || !recipe.later_upload.empty(), "compression.upload",
           "scalars are small as they are; remove it");
    refuse(recipe.bfloat16_download, "compression.download",
           "devices replay the ledger from the same start to the bit; remove it");
    refuse(!recipe.aggregator.kept.empty(), "strategy.kept", "a ledger is of all trained tensors; remove it");
    refuse(zo.estimator() == "forward_gradient", "zo.estimator", "the ledger is of differences; use spsa");
    refuse(!zo.optimizer().empty() && zo.optimizer() != "zo_sgd", "zo.optimizer", "the ledger knows plain steps only");
    refuse(zo.sparse_fraction() != 0 && zo.sparse_fraction() != 1, "zo.sparse_fraction", "the ledger knows no mask");
    refuse(zo.anchor_interval() != 0, "zo.anchor_interval", "the ledger knows plain steps only");
    refuse(recipe.train.momentum() != 0, "train.momentum", "the ledger knows plain steps only");
    refuse(recipe.train.weight_decay() != 0, "train.weight_decay", "the ledger knows plain steps only; set it to 0");
    refuse(recipe.train.warmup_steps() != 0, "train.warmup_steps", "steps of a task are of one size");
    const std::string& schedule = recipe.train.lr_scheduler_type();
    refuse(!schedule.empty() && schedule != "constant", "train.lr_scheduler_type", "steps of a task are of one size");
    refuse(recipe.train.gradient_accumulation_steps() > 1, "train.gradient_accumulation_steps",
           "a step is of one batch; raise batch_size");
  }
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe contradicts itself:" + mistakes);
}

Status CheckFewShot(const Recipe& recipe) {
  const bool labels = aggregation::LabellingOf(recipe.strategy, recipe.aggregator).on,
             prompted = recipe.train.has_prompt();
  std::string mistakes;
  if (labels && recipe.local_task != "few_shot") {
    mistakes += "\n  train.local_task: " + recipe.strategy + " needs 'few_shot'; remove it";
  } else if (prompted && recipe.local_task != "few_shot") {
    mistakes += "\n  train.local_task: [prompt] goes with 'few_shot'; remove one of the two";
  } else if (!labels && !prompted && recipe.local_task == "few_shot") {
    mistakes += "\n  train.local_task: 'few_shot' is for [prompt], or for strategy.name = \"FeS\" or \"LP-FL\"";
  }
  if (aggregation::ChoosesLayers(recipe.strategy) && recipe.local_task != "prefix_sft") {
    mistakes += "\n  train.local_task: " + recipe.strategy + " needs 'prefix_sft'; remove it";
  }
  if (prompted && recipe.head.num_labels > 0) {
    mistakes += "\n  prompt: a language model answers with words; remove model.num_labels";
  }
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe contradicts itself:" + mistakes);
}

Status CheckPruning(const Recipe& recipe) {
  if (recipe.lora.rank_pattern.empty() || recipe.RulesOf(1).prune_gamma == 0) return OkStatus();
  return InvalidArgument(
      "lora.rank_pattern: devices give up a part of the one rank that all modules have; remove it, or set "
      "strategy.prune_gamma = 0");
}

}  // namespace heddle::coordinator
