#include "client/worker/train_plan.h"

#include <algorithm>

namespace heddle::client {

namespace {

ZerothOrderSettings ToZerothOrderSettings(const v1::ZerothOrder& zo) {
  ZerothOrderSettings out;
  out.estimator = zo.estimator();
  out.zo_eps = zo.zo_eps();
  out.num_perturbations = zo.num_perturbations();
  out.distribution = zo.distribution();
  out.clip_projected_grad = zo.clip_projected_grad();
  out.max_loss_difference = zo.max_loss_difference();
  out.optimizer = zo.optimizer();
  out.sparse_fraction = zo.sparse_fraction();
  out.anchor_interval = zo.anchor_interval();
  out.anchor_perturbations = zo.anchor_perturbations();
  out.layer_groups = zo.layer_groups();
  out.layer_group = zo.layer_group();
  out.intrinsic_dim = zo.intrinsic_dim();
  out.population = zo.population();
  out.projection_scale = zo.projection_scale();
  out.kept_front_mb = zo.kept_front_mb();
  return out;
}

v1::ZerothOrder ToZerothOrder(const ZerothOrderSettings& settings) {
  v1::ZerothOrder zo;
  zo.set_estimator(settings.estimator);
  zo.set_zo_eps(settings.zo_eps);
  zo.set_num_perturbations(settings.num_perturbations);
  zo.set_distribution(settings.distribution);
  zo.set_clip_projected_grad(settings.clip_projected_grad);
  zo.set_max_loss_difference(settings.max_loss_difference);
  zo.set_optimizer(settings.optimizer);
  zo.set_sparse_fraction(settings.sparse_fraction);
  zo.set_anchor_interval(settings.anchor_interval);
  zo.set_anchor_perturbations(settings.anchor_perturbations);
  zo.set_layer_groups(settings.layer_groups);
  zo.set_layer_group(settings.layer_group);
  zo.set_intrinsic_dim(settings.intrinsic_dim);
  zo.set_population(settings.population);
  zo.set_projection_scale(settings.projection_scale);
  zo.set_kept_front_mb(settings.kept_front_mb);
  return zo;
}

SharedSeedSettings ToSharedSeedSettings(const v1::SharedSeeds& seeds) {
  SharedSeedSettings out;
  out.seed = seeds.seed();
  out.first_ref = seeds.first_ref();
  out.pool_size = seeds.pool_size();
  out.resolution_bits = seeds.resolution_bits();
  out.scalars = seeds.scalars();
  out.candidates = seeds.candidates();
  out.span = seeds.span();
  return out;
}

v1::SharedSeeds ToSharedSeeds(const SharedSeedSettings& settings) {
  v1::SharedSeeds seeds;
  seeds.set_seed(settings.seed);
  seeds.set_first_ref(settings.first_ref);
  seeds.set_pool_size(settings.pool_size);
  seeds.set_resolution_bits(settings.resolution_bits);
  seeds.set_scalars(settings.scalars);
  seeds.set_candidates(settings.candidates);
  seeds.set_span(settings.span);
  return seeds;
}

PseudoLabelSettings ToPseudoLabelSettings(const v1::PseudoLabels& labels) {
  PseudoLabelSettings out;
  out.label_now = labels.label_now();
  out.samples = labels.samples();
  if (labels.has_min_logit()) out.min_logit = labels.min_logit();
  out.soft = labels.soft();
  out.neighbours = labels.neighbours();
  out.candidates = labels.candidates();
  out.pool = labels.pool();
  return out;
}

v1::PseudoLabels ToPseudoLabels(const PseudoLabelSettings& settings) {
  v1::PseudoLabels labels;
  labels.set_label_now(settings.label_now);
  labels.set_samples(settings.samples);
  if (settings.min_logit) labels.set_min_logit(*settings.min_logit);
  labels.set_soft(settings.soft);
  labels.set_neighbours(settings.neighbours);
  labels.set_candidates(settings.candidates);
  labels.set_pool(settings.pool);
  return labels;
}

PromptSettings ToPromptSettings(const v1::PromptTemplate& prompt) {
  return {prompt.pattern(),
          {prompt.words().begin(), prompt.words().end()},
          {prompt.label_names().begin(), prompt.label_names().end()}};
}

v1::PromptTemplate ToPromptTemplate(const PromptSettings& settings) {
  v1::PromptTemplate prompt;
  prompt.set_pattern(settings.pattern);
  prompt.mutable_words()->Assign(settings.words.begin(), settings.words.end());
  prompt.mutable_label_names()->Assign(settings.label_names.begin(), settings.label_names.end());
  return prompt;
}

}  // namespace

TrainSettings ToTrainSettings(const v1::TrainPlan& plan) {
  TrainSettings settings;
  settings.local_steps = plan.local_steps();
  settings.batch_size = plan.batch_size();
  settings.sequence_length = plan.sequence_length();
  settings.warmup_steps = plan.warmup_steps();
  settings.threads = plan.threads();
  settings.learning_rate = plan.learning_rate();
  settings.weight_decay = plan.weight_decay();
  settings.beta1 = plan.beta1();
  settings.beta2 = plan.beta2();
  settings.epsilon = plan.epsilon();
  settings.max_grad_norm = plan.max_grad_norm();
  settings.momentum = plan.momentum();
  settings.optimizer = plan.optimizer();
  settings.lr_scheduler_type = plan.lr_scheduler_type();
  settings.base_dtype = plan.base_dtype();
  settings.gradient_accumulation_steps = std::max(1U, plan.gradient_accumulation_steps());
  settings.gradient_checkpointing = plan.gradient_checkpointing();
  settings.bf16 = plan.bf16();
  const v1::DeviceRules& rules = plan.rules();
  settings.rules.frozen.assign(rules.frozen().begin(), rules.frozen().end());
  settings.rules.kept.assign(rules.kept().begin(), rules.kept().end());
  settings.rules.correction = rules.correction();
  settings.rules.feddyn_alpha = rules.feddyn_alpha();
  settings.rules.proximal_mu = rules.proximal_mu();
  settings.rules.prune_gamma = rules.prune_gamma();
  settings.rules.prune_lambda = rules.prune_lambda();
  settings.rules.upload.assign(rules.upload().begin(), rules.upload().end());
  settings.zo = ToZerothOrderSettings(plan.zo());
  if (plan.has_seeds()) settings.seeds = ToSharedSeedSettings(plan.seeds());
  settings.layers.assign(plan.layers().begin(), plan.layers().end());
  if (plan.has_pseudo_labels()) settings.pseudo_labels = ToPseudoLabelSettings(plan.pseudo_labels());
  if (plan.has_prompt()) settings.prompt = ToPromptSettings(plan.prompt());
  return settings;
}

v1::TrainPlan ToTrainPlan(const TrainSettings& settings) {
  v1::TrainPlan plan;
  plan.set_local_steps(settings.local_steps);
  plan.set_batch_size(settings.batch_size);
  plan.set_sequence_length(settings.sequence_length);
  plan.set_warmup_steps(settings.warmup_steps);
  plan.set_threads(settings.threads);
  plan.set_learning_rate(settings.learning_rate);
  plan.set_weight_decay(settings.weight_decay);
  plan.set_beta1(settings.beta1);
  plan.set_beta2(settings.beta2);
  plan.set_epsilon(settings.epsilon);
  plan.set_max_grad_norm(settings.max_grad_norm);
  plan.set_momentum(settings.momentum);
  plan.set_optimizer(settings.optimizer);
  plan.set_lr_scheduler_type(settings.lr_scheduler_type);
  plan.set_base_dtype(settings.base_dtype);
  // One is said by saying nothing: the bytes of plans of before.
  if (settings.gradient_accumulation_steps > 1) {
    plan.set_gradient_accumulation_steps(settings.gradient_accumulation_steps);
  }
  plan.set_gradient_checkpointing(settings.gradient_checkpointing);
  plan.set_bf16(settings.bf16);
  v1::DeviceRules rules;
  rules.mutable_frozen()->Assign(settings.rules.frozen.begin(), settings.rules.frozen.end());
  rules.mutable_kept()->Assign(settings.rules.kept.begin(), settings.rules.kept.end());
  rules.set_correction(settings.rules.correction);
  rules.set_feddyn_alpha(settings.rules.feddyn_alpha);
  rules.set_proximal_mu(settings.rules.proximal_mu);
  rules.set_prune_gamma(settings.rules.prune_gamma);
  rules.set_prune_lambda(settings.rules.prune_lambda);
  rules.mutable_upload()->Assign(settings.rules.upload.begin(), settings.rules.upload.end());
  if (rules.ByteSizeLong() > 0) *plan.mutable_rules() = std::move(rules);
  if (settings.seeds) *plan.mutable_seeds() = ToSharedSeeds(*settings.seeds);
  plan.mutable_layers()->Assign(settings.layers.begin(), settings.layers.end());
  if (settings.pseudo_labels) *plan.mutable_pseudo_labels() = ToPseudoLabels(*settings.pseudo_labels);
  if (settings.prompt) *plan.mutable_prompt() = ToPromptTemplate(*settings.prompt);
  v1::ZerothOrder zo = ToZerothOrder(settings.zo);
  if (zo.ByteSizeLong() > 0) *plan.mutable_zo() = std::move(zo);
  return plan;
}

v1::TaskMetrics ToTaskMetrics(const TaskStats& stats) {
  v1::TaskMetrics metrics;
  metrics.set_num_examples(stats.num_examples);
  metrics.set_steps(stats.steps);
  metrics.set_num_tokens(stats.num_tokens);
  metrics.set_train_loss(stats.train_loss);
  metrics.set_first_loss(stats.first_loss);
  metrics.set_last_loss(stats.last_loss);
  metrics.set_train_seconds(stats.train_seconds);
  metrics.set_forward_passes(stats.forward_passes);
  metrics.set_skipped_directions(stats.skipped_directions);
  metrics.set_loss_stalled(stats.loss_stalled);
  metrics.set_pseudo_labels(stats.pseudo_labels);
  return metrics;
}

}  // namespace heddle::client
