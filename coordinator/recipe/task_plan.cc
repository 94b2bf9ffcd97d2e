// The half of recipe.h that says what a device is asked to do in a round.
#include <algorithm>
#include <utility>

#include "aggregation/averaging/few_shot.h"
#include "aggregation/layer_groups.h"
#include "aggregation/parts/sub_models.h"
#include "common/random.h"
#include "coordinator/engine/engine.h"
#include "coordinator/recipe/recipe.h"

namespace heddle::coordinator {

uint32_t Recipe::LocalStepsOf(uint32_t round) const {
  const bool later = spec.first_stage_rounds > 0 && round > spec.first_stage_rounds;
  return later && later_local_steps > 0 ? later_local_steps : train.local_steps();
}

namespace {

// Rounds of the first stage and of the second.
std::pair<uint32_t, uint32_t> Stages(const RunSpec& spec) {
  const uint32_t first = spec.first_stage_rounds > 0 ? std::min(spec.first_stage_rounds, spec.rounds) : spec.rounds;
  return {first, spec.rounds - first};
}

}  // namespace

uint64_t Recipe::StepsOfADevice() const {
  const auto [first, second] = Stages(spec);
  return uint64_t{first} * LocalStepsOf(1) + uint64_t{second} * LocalStepsOf(first + 1);
}

uint64_t Recipe::StepsOfAllCohorts() const {
  const auto [first, second] = Stages(spec);
  return uint64_t{first} * LocalStepsOf(1) * SizesOf(spec, 1).cohort_size +
         uint64_t{second} * LocalStepsOf(first + 1) * SizesOf(spec, first + 1).cohort_size;
}

v1::TrainPlan Recipe::TrainPlanOf(uint32_t round) const {
  v1::TrainPlan plan = train;
  plan.set_learning_rate(LearningRateOf(round));
  plan.set_local_steps(LocalStepsOf(round));
  const aggregation::DeviceRules rules = RulesOf(round);
  if (rules.seeds.on) {
    v1::SharedSeeds& seeds = *plan.mutable_seeds();
    seeds.set_seed(rules.seeds.seed);
    seeds.set_pool_size(rules.seeds.pool_size);
    seeds.set_first_ref(rules.seeds.first_ref);
    seeds.set_resolution_bits(rules.seeds.resolution_bits);
    seeds.set_candidates(rules.seeds.candidates);
    seeds.set_span(rules.seeds.span);
    if (rules.seeds.bfloat16) seeds.set_scalars("bfloat16");
    return plan;
  }
  const compression::Pipeline& smaller = UploadOf(round);
  if (const auto labelling = aggregation::LabellingOf(strategy, AggregatorOf(round)); labelling.on) {
    v1::PseudoLabels& labels = *plan.mutable_pseudo_labels();
    labels.set_samples(labelling.samples);
    if (labelling.min_logit) labels.set_min_logit(*labelling.min_logit);
    labels.set_soft(labelling.soft);
    labels.set_neighbours(labelling.neighbours);
    labels.set_candidates(labelling.candidates);
    labels.set_pool(labelling.pool);
  }
  if (rules == aggregation::DeviceRules{} && smaller.empty() && !update_privacy.on()) return plan;
  v1::DeviceRules& out = *plan.mutable_rules();
  for (std::string& word : update_privacy.Words()) *out.add_upload() = std::move(word);
  for (std::string& word : smaller.Words()) *out.add_upload() = std::move(word);
  out.mutable_frozen()->Assign(rules.frozen.begin(), rules.frozen.end());
  out.mutable_kept()->Assign(rules.kept.begin(), rules.kept.end());
  if (rules.correction == aggregation::Correction::kScaffold) out.set_correction("scaffold");
  if (rules.correction == aggregation::Correction::kFedDyn) out.set_correction("feddyn");
  out.set_feddyn_alpha(rules.feddyn_alpha);
  out.set_proximal_mu(rules.proximal_mu);
  out.set_prune_gamma(rules.prune_gamma);
  out.set_prune_lambda(rules.prune_lambda);
  return plan;
}

uint64_t TaskSeed(uint64_t run_seed, uint32_t round, const DeviceId& device) {
  return DeriveSeed(run_seed, "train", "round=" + std::to_string(round) + " device=" + device.value());
}

aggregation::SubModel Recipe::PartFor(const DeviceId& device, uint32_t round, uint32_t layers) const {
  if (!aggregation::UsesSubModels(strategy)) return {};
  return aggregation::SubModelOf(strategy, AggregatorOf(round), device.value(), layers);
}

StateDict FreshAdapter(const Recipe& recipe, const StateDictSpec& model, uint32_t round) {
  std::vector<peft::TargetModule> targets;
  static const std::string kPrefix = "base_model.model.";
  for (const auto& [key, spec] : model) {
    if (!aggregation::IsLoraA(key) || spec.shape.size() != 2 || !key.starts_with(kPrefix)) continue;
    const std::string path = key.substr(kPrefix.size(), key.size() - peft::LoraAKey("").size());
    const auto b = model.find(peft::LoraBKey(path));
    if (b == model.end() || b->second.shape.size() != 2) continue;
    targets.push_back({.path = path, .in_features = spec.shape[1], .out_features = b->second.shape[0]});
  }
  return peft::MakeInitialAdapter(targets, recipe.lora,
                                  DeriveSeed(recipe.seed, "fresh_adapter", "round=" + std::to_string(round)));
}

v1::TaskPlan MakeTaskPlan(const Recipe& recipe, const RunMaterial& material, uint32_t round,
                          const AdapterBlobs& adapter, const DeviceId& device, uint32_t layers) {
  v1::TaskPlan plan;
  plan.set_local_task(recipe.local_task);
  for (const auto& [ref, path] : material.base_model) *plan.add_base_model() = ref;
  *plan.add_adapter() = adapter.config;
  *plan.add_adapter() = adapter.model;
  if (adapter.ledger) *plan.add_adapter() = *adapter.ledger;
  *plan.mutable_train() = recipe.TrainPlanOf(round);
  if (const uint32_t groups = aggregation::LayerGroupsOf(recipe.strategy, recipe.AggregatorOf(round)); groups > 0) {
    plan.mutable_train()->mutable_zo()->set_layer_groups(groups);
    plan.mutable_train()->mutable_zo()->set_layer_group(
        aggregation::LayerGroupOf(recipe.seed, round, device.value(), groups));
  }
  const aggregation::SubModel part = recipe.PartFor(device, round, layers);
  plan.mutable_train()->mutable_layers()->Assign(part.layers.begin(), part.layers.end());
  for (const uint32_t layer : part.frozen) plan.mutable_train()->mutable_rules()->add_frozen(std::to_string(layer));
  if (!part.layers.empty()) {
    for (const auto& [ref, bytes] : material.tensor_trees) *plan.add_tensor_trees() = ref;
  }
  if (aggregation::LabelsNow(aggregation::LabellingOf(recipe.strategy, recipe.AggregatorOf(round)), recipe.seed, round,
                             device.value())) {
    plan.mutable_train()->mutable_pseudo_labels()->set_label_now(true);
  }
  plan.set_seed(TaskSeed(recipe.seed, round, device));
  plan.set_max_update_bytes(material.spec.max_update_bytes);
  plan.set_max_num_examples(material.spec.max_num_examples);
  if (layers > 0) plan.set_memory_bytes(material.spec.layer_memory.at(layers - 1));
  return plan;
}

}  // namespace heddle::coordinator
