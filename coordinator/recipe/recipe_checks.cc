#include "coordinator/recipe/recipe_checks.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "aggregation/aggregator.h"
#include "aggregation/averaging/few_shot.h"
#include "aggregation/device_rules.h"
#include "aggregation/layer_choice.h"
#include "coordinator/recipe/zo_bindings.h"
#include "protocol/limits.h"

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
    refuse(!recipe.download.empty(), "compression.download",
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
    refuse(recipe.later_local_steps > 0, "train.later_local_steps", "a ledger's tasks are of one size; remove it");
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

Status CheckGenerator(const Recipe& recipe) {
  if (recipe.generator.dim == 0) {
    if (recipe.generator.scale == 1) return OkStatus();
    return InvalidArgument("tuning.generator_scale: it is of a generator; set generator_dim, or remove it");
  }
  std::string mistakes;
  const auto refuse = [&](bool wrong, const std::string& why) {
    if (wrong) mistakes += "\n  " + why;
  };
  const peft::AdapterConfig& adapter = recipe.lora;
  refuse(
      adapter.kind() != peft::TuningKind::kPromptTuning || !adapter.modules_to_save.empty(),
      "tuning.generator_dim: a generator makes a prompt and nothing beside it; set tuning.method = \"prompt-tuning\", "
      "without modules_to_save");
  refuse(adapter.prompt_tuning_init != "RANDOM",
         "tuning.prompt_tuning_init: a generator's prompt begins with numbers that everybody knows; remove it");
  refuse(recipe.local_task != "zo_sft", "tuning.generator_dim: the local task '" + recipe.local_task +
                                            "' does not train a generator; set train.local_task = \"zo_sft\", with a "
                                            "strategy that merges updates, or remove generator_dim");
  refuse(!recipe.download.empty(),
         "compression.download: coordinator and devices make the prompt of the same numbers; remove it");
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe contradicts itself:" + mistakes);
}

Status TieLocalMomentum(Recipe* recipe) {
  if (recipe->strategy != "FedNova") return OkStatus();
  const v1::TrainPlan& train = recipe->train;
  std::string mistakes;
  const auto refuse = [&](bool wrong, const std::string& sentence) {
    if (wrong) mistakes += "\n  " + sentence;
  };
  if (recipe->local_task == "zo_sft") {
    refuse(!train.zo().optimizer().empty() && train.zo().optimizer() != "zo_sgd",
           "zo.optimizer: FedNova counts steps of zo_sgd, not of " + train.zo().optimizer());
  } else {
    refuse(recipe->local_task == "bbpt", "strategy.name: bbpt takes no steps that FedNova could count; choose FedBPT");
    refuse(train.optimizer() != "SGD",
           "train.optimizer: FedNova counts what steps of SGD add up to, not those of other optimizers; set \"SGD\"");
  }
  const std::string& schedule = train.lr_scheduler_type();
  refuse(train.warmup_steps() > 0 || schedule == "linear" || schedule == "cosine",
         "train.lr_scheduler_type: FedNova counts steps of one size; set \"constant\", and warmup_steps = 0");
  const auto [said, derived] = recipe->aggregator.method.emplace("local_momentum", train.momentum());
  refuse(said->second != train.momentum(), "strategy.local_momentum: the devices' is train.momentum = " +
                                               std::to_string(train.momentum()) + "; remove it");
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe contradicts itself:" + mistakes);
}

Status CheckKeptFront(const Recipe& recipe) {
  if (recipe.train.zo().kept_front_mb() == 0 || IsZerothOrderTask(recipe.local_task)) return OkStatus();
  std::string mistakes;
  if (recipe.local_task != "lora_sft" && recipe.local_task != "sft") {
    mistakes += "\n  train.kept_front_mb: the local task '" + recipe.local_task + "' keeps nothing; remove it";
  }
  if (peft::IsPromptLearning(recipe.lora.kind())) {
    mistakes += "\n  train.kept_front_mb: virtual tokens are before all layers, so none can be kept; remove it";
  }
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe contradicts itself:" + mistakes);
}

Status CheckPopulation(const Recipe& recipe) {
  const auto settings = aggregation::SettingsOf(recipe.strategy);
  if (std::none_of(settings.begin(), settings.end(), [](const auto& one) { return one.name == "num_devices"; })) {
    return OkStatus();
  }
  const size_t cohort = std::max(recipe.spec.cohort_size, recipe.spec.later_cohort_size);
  const size_t simulated = recipe.simulation.names.size();
  const auto given = recipe.aggregator.method.find("num_devices");
  const bool said = given != recipe.aggregator.method.end();
  if (said ? given->second >= static_cast<double>(cohort) : simulated > 0 && simulated <= cohort) return OkStatus();
  return InvalidArgument("strategy.num_devices: " + recipe.strategy +
                         " weighs a round by its share of all devices; say how many there are" +
                         (simulated > 0 ? " ([simulation] has " + std::to_string(simulated) + ")" : "") +
                         ", at least the " + std::to_string(cohort) + " of a round");
}

Status CheckCorrections(const Recipe& recipe) {
  const v1::TrainPlan& train = recipe.train;
  if (recipe.RulesOf(1).correction != aggregation::Correction::kScaffold || IsZerothOrderTask(recipe.local_task)) {
    return OkStatus();
  }
  if (aggregation::IsPlainSgd(train.optimizer(), train.momentum(), train.weight_decay())) return OkStatus();
  return InvalidArgument("train.optimizer: " + recipe.strategy +
                         " needs \"SGD\" without momentum and weight_decay: its control variates are mean gradients");
}

Status CheckLabels(const Recipe& recipe) {
  const v1::PromptTemplate& prompt = recipe.train.prompt();
  const auto check = [](const char* key, const auto& names) {
    std::set<std::string> seen;
    for (const std::string& name : names) {
      if (seen.insert(name).second) continue;
      return InvalidArgument(std::string(key) + ": '" + name + "' stands twice; classes are told apart by it");
    }
    return OkStatus();
  };
  HEDDLE_RETURN_IF_ERROR(check("model.label_names", recipe.head.label_names));
  HEDDLE_RETURN_IF_ERROR(check("simulation.label_names", recipe.simulation.label_names));
  HEDDLE_RETURN_IF_ERROR(check("prompt.words", prompt.words()));
  HEDDLE_RETURN_IF_ERROR(check("prompt.label_names", prompt.label_names()));
  if (prompt.label_names().empty() || prompt.label_names_size() == prompt.words_size()) return OkStatus();
  return InvalidArgument("prompt.label_names has " + std::to_string(prompt.label_names_size()) +
                         " entries, prompt.words " + std::to_string(prompt.words_size()) +
                         "; each class has one of both");
}

Status CheckFewShotClasses(const Recipe& recipe, const model::ModelSpec& base) {
  if (recipe.local_task != "few_shot") return OkStatus();
  const bool words = base.head.task == model::Task::kCausalLm || base.head.task == model::Task::kMaskedLm;
  if (words && !recipe.train.has_prompt()) {
    return InvalidArgument("model.base: " + base.architecture +
                           " has no classes to label with; give [prompt] a pattern and words, or take a model with a "
                           "classifier head (model.num_labels)");
  }
  if (!words && base.num_labels == 1) {
    return InvalidArgument(
        "model.base: pseudo-labels are classes, and this model predicts numbers; set "
        "model.num_labels to 2 or more");
  }
  return OkStatus();
}

Status CheckPruning(const Recipe& recipe) {
  if (recipe.lora.rank_pattern.empty() || recipe.RulesOf(1).prune_gamma == 0) return OkStatus();
  return InvalidArgument(
      "lora.rank_pattern: devices give up a part of the one rank that all modules have; remove it, or set "
      "strategy.prune_gamma = 0");
}

Status CheckPrivacy(const Recipe& recipe) {
  if (!recipe.update_privacy.on()) return OkStatus();
  const bool noise = recipe.update_privacy.noise_multiplier > 0;
  std::string mistakes;
  const auto refuse = [&](bool wrong, const std::string& why) {
    if (wrong) mistakes += "\n  privacy.update_clip: " + why;
  };
  const std::string& strategy = recipe.strategy;
  refuse(UsesSharedSeeds(strategy),
         strategy +
             "'s devices send scalars of shared directions, which are no difference to clip; choose a strategy "
             "that merges updates, or remove [privacy]");
  refuse(recipe.local_task == "bbpt",
         "bbpt sends the mean and the variance of a search, which is no difference to clip; choose another task");
  refuse(aggregation::ChoosesLayers(strategy),
         strategy + "'s devices send scores of layers beside their updates; choose another strategy");
  refuse(aggregation::LabellingOf(strategy, recipe.aggregator).on,
         strategy +
             "'s devices remember labels, so that a round that is tried again is another report; choose another "
             "strategy");
  refuse(recipe.local_task == "lora_sft", "the local task 'lora_sft' does not know it; remove train.local_task");
  bool keeps = false;
  for (uint32_t round = 1; round <= std::min(2U, recipe.spec.rounds); ++round) {
    keeps = keeps || !recipe.RulesOf(round).kept.empty();
  }
  refuse(keeps,
         "what devices keep moves on with a report, so that a round that is tried again is another one; remove "
         "strategy.kept, or choose a strategy whose devices send all they train");
  const aggregation::DeviceRules rules = recipe.RulesOf(1);
  refuse(rules.correction != aggregation::Correction::kNone,
         strategy +
             "'s devices keep corrections that must be what they have sent, without noise; choose another strategy");
  refuse(rules.prune_gamma > 0, "the shape of a pruned update tells of the data; set strategy.prune_gamma = 0");
  refuse(
      noise && rules.groups > 0,
      strategy + " judges its trials by the devices' losses, which are withheld with noise; choose another strategy");
  for (const compression::Pipeline* upload : {&recipe.upload, &recipe.later_upload}) {
    refuse(
        recipe.update_privacy.Words().size() + upload->Words().size() > static_cast<size_t>(protocol::kMaxUploadSteps),
        "beside it compression.upload may have " +
            std::to_string(static_cast<size_t>(protocol::kMaxUploadSteps) - recipe.update_privacy.Words().size()) +
            " words");
  }
  const double largest = recipe.update_privacy.clip + privacy::kMostDeviations * recipe.update_privacy.deviation();
  if (noise && largest > recipe.aggregator.max_abs) {
    mistakes += "\n  strategy.max_abs: an element with its noise is up to " + std::to_string(largest) +
                ", and larger ones than this are refused; raise it, or lower privacy.update_clip";
  }
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe contradicts itself:" + mistakes);
}

Status CheckNoiseFits(const Recipe& recipe, const StateDict& initial) {
  if (!recipe.update_privacy.on() || recipe.update_privacy.noise_multiplier == 0) return OkStatus();
  double values = 0;
  const StateDictSpec spec = aggregation::UpdateSpec(SpecOf(initial), recipe.RulesOf(1), /*rank=*/0);
  for (const auto& [name, tensor] : spec) {
    const auto elements = NumElements(tensor.shape);
    values += elements.ok() ? static_cast<double>(*elements) : 0;
  }
  // The norm of n standard normal values is beyond sqrt(n) + 6 with a probability of less than e^-18.
  const double longest = recipe.update_privacy.clip + recipe.update_privacy.deviation() * (std::sqrt(values) + 6);
  std::string mistakes;
  const auto check = [&](const char* key, double bound, const char* what) {
    if (bound == 0 || longest <= bound) return;
    mistakes += "\n  " + std::string(key) + ": an update of " + std::to_string(static_cast<uint64_t>(values)) +
                " values with its noise is up to " + std::to_string(longest) + " long, and longer ones than this are " +
                what + "; raise it or set it to 0";
  };
  check("strategy.max_norm", recipe.aggregator.max_norm, "refused");
  check("strategy.clip_norm", recipe.aggregator.clip_norm, "shortened once more, with what they say");
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe contradicts itself:" + mistakes);
}

}  // namespace heddle::coordinator
