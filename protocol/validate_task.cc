// Validation of task.proto: what a coordinator asks of a device, and what comes out.
#include <set>
#include <utility>

#include "protocol/validate.h"
#include "protocol/validate_internal.h"

namespace heddle::protocol {

using internal::Bad;
using internal::CheckBytes;
using internal::CheckName;
using internal::CheckRange;
using internal::CheckReal;

namespace {

bool IsIn(std::string_view text, std::string_view extra) {
  for (char c : text) {
    const bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!alnum && extra.find(c) == std::string_view::npos) return false;
  }
  return true;
}

Status CheckSetting(const char* field, std::string_view text) {
  if (text.size() <= kMaxSettingBytes && IsIn(text, "._-")) return OkStatus();
  return Bad(field, "must be a name of at most 64 characters of [A-Za-z0-9._-], or empty");
}

// A folder's blobs: each valid, no two of one name.
template <typename Blobs>
Status ValidateFolder(const char* field, const Blobs& blobs) {
  if (blobs.empty() || static_cast<size_t>(blobs.size()) > kMaxBlobsPerFolder)
    return Bad(field, "names " + std::to_string(blobs.size()) + " files but must name 1 to " +
                          std::to_string(kMaxBlobsPerFolder));
  std::set<std::string_view> names;
  for (const v1::BlobRef& blob : blobs) {
    if (Status status = Validate(blob); !status.ok()) return status.Annotate(field);
    if (!names.insert(blob.name()).second) return Bad(field, "names " + blob.name() + " twice");
  }
  return OkStatus();
}

}  // namespace

bool IsValidBlobName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxBlobNameBytes && name[0] != '.' && IsIn(name, "._-");
}

bool IsValidAssignmentId(std::string_view id) {
  if (id.size() != 32) return false;
  for (char c : id) {
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

v1::BlobRef MakeBlobRef(const Sha256Digest& digest, uint64_t size_bytes, std::string_view name) {
  v1::BlobRef ref;
  ref.set_sha256(std::string(digest.raw()));
  ref.set_size_bytes(size_bytes);
  ref.set_name(std::string(name));
  return ref;
}

Result<Sha256Digest> DigestOf(const v1::BlobRef& ref) { return Sha256Digest::FromBytes(ref.sha256()); }

Status Validate(const v1::BlobRef& m) {
  if (m.sha256().size() != Sha256Digest::kSize) return Bad("sha256", "must have 32 bytes");
  HEDDLE_RETURN_IF_ERROR(CheckRange("size_bytes", m.size_bytes(), 0, kMaxBlobBytes));
  if (!IsValidBlobName(m.name()))
    return Bad("name", "must be one path component of [A-Za-z0-9._-], at most 128 bytes, not starting with a dot");
  return OkStatus();
}

namespace {

template <typename Texts>
Status CheckTexts(const char* field, const Texts& texts, int most, size_t longest) {
  if (texts.size() > most) {
    return Bad(field, "has " + std::to_string(texts.size()) + " entries but may have " + std::to_string(most));
  }
  for (const std::string& text : texts) HEDDLE_RETURN_IF_ERROR(CheckName(field, text, 1, longest));
  return OkStatus();
}

}  // namespace

Status Validate(const v1::DeviceRules& m) {
  HEDDLE_RETURN_IF_ERROR(CheckTexts("rules.frozen", m.frozen(), kMaxPatterns, kMaxPatternBytes));
  HEDDLE_RETURN_IF_ERROR(CheckTexts("rules.kept", m.kept(), kMaxPatterns, kMaxPatternBytes));
  HEDDLE_RETURN_IF_ERROR(CheckTexts("rules.upload", m.upload(), kMaxUploadSteps, kMaxSettingBytes));
  HEDDLE_RETURN_IF_ERROR(CheckSetting("rules.correction", m.correction()));
  HEDDLE_RETURN_IF_ERROR(CheckReal("rules.feddyn_alpha", m.feddyn_alpha(), 0, 1e6));
  HEDDLE_RETURN_IF_ERROR(CheckReal("rules.proximal_mu", m.proximal_mu(), 0, 1e6));
  HEDDLE_RETURN_IF_ERROR(CheckReal("rules.prune_gamma", m.prune_gamma(), 0, 1, /*closed=*/false));
  return CheckReal("rules.prune_lambda", m.prune_lambda(), 0, 1e6);
}

Status Validate(const v1::PseudoLabels& m) {
  HEDDLE_RETURN_IF_ERROR(CheckRange("pseudo_labels.samples", m.samples(), 0, kMaxPseudoLabels));
  HEDDLE_RETURN_IF_ERROR(CheckRange("pseudo_labels.pool", m.pool(), 0, kMaxPseudoLabels));
  HEDDLE_RETURN_IF_ERROR(CheckRange("pseudo_labels.neighbours", m.neighbours(), 0, kMaxNeighbours));
  HEDDLE_RETURN_IF_ERROR(CheckRange("pseudo_labels.candidates", m.candidates(), 0, kMaxNeighbours));
  return CheckReal("pseudo_labels.min_logit", m.min_logit(), -1e30, 1e30);
}

Status Validate(const v1::PromptTemplate& m) {
  HEDDLE_RETURN_IF_ERROR(CheckBytes("prompt.pattern", m.pattern(), 1, kMaxPromptBytes));
  for (const auto& [field, words] : {std::pair{"prompt.words", &m.words()}, {"prompt.label_names", &m.label_names()}}) {
    if (words->size() > kMaxPromptWords) return Bad(field, "has too many entries; it may have 1024");
    for (const std::string& word : *words) HEDDLE_RETURN_IF_ERROR(CheckBytes(field, word, 1, kMaxNameBytes));
  }
  return CheckRange("prompt.words", static_cast<uint64_t>(m.words_size()), 2, kMaxPromptWords);
}

Status Validate(const v1::ZerothOrder& m) {
  HEDDLE_RETURN_IF_ERROR(CheckSetting("zo.estimator", m.estimator()));
  HEDDLE_RETURN_IF_ERROR(CheckSetting("zo.distribution", m.distribution()));
  HEDDLE_RETURN_IF_ERROR(CheckSetting("zo.optimizer", m.optimizer()));
  HEDDLE_RETURN_IF_ERROR(CheckReal("zo.zo_eps", m.zo_eps(), 0, 1e6));
  HEDDLE_RETURN_IF_ERROR(CheckReal("zo.clip_projected_grad", m.clip_projected_grad(), 0, 1e30));
  HEDDLE_RETURN_IF_ERROR(CheckReal("zo.max_loss_difference", m.max_loss_difference(), 0, 1e30));
  HEDDLE_RETURN_IF_ERROR(CheckReal("zo.sparse_fraction", m.sparse_fraction(), 0, 1));
  HEDDLE_RETURN_IF_ERROR(CheckReal("zo.projection_scale", m.projection_scale(), 0, 1e6));
  HEDDLE_RETURN_IF_ERROR(CheckRange("zo.num_perturbations", m.num_perturbations(), 0, kMaxPerturbations));
  HEDDLE_RETURN_IF_ERROR(CheckRange("zo.anchor_interval", m.anchor_interval(), 0, kMaxLocalSteps));
  HEDDLE_RETURN_IF_ERROR(CheckRange("zo.anchor_perturbations", m.anchor_perturbations(), 0, kMaxPerturbations));
  HEDDLE_RETURN_IF_ERROR(CheckRange("zo.layer_groups", m.layer_groups(), 0, kMaxPerturbations));
  const uint32_t last_group = m.layer_groups() == 0 ? 0 : m.layer_groups() - 1;
  HEDDLE_RETURN_IF_ERROR(CheckRange("zo.layer_group", m.layer_group(), 0, last_group));
  HEDDLE_RETURN_IF_ERROR(CheckRange("zo.intrinsic_dim", m.intrinsic_dim(), 0, kMaxPerturbations));
  HEDDLE_RETURN_IF_ERROR(CheckRange("zo.kept_front_mb", m.kept_front_mb(), 0, kMaxKeptFrontMb));
  return CheckRange("zo.population", m.population(), 0, kMaxPerturbations);
}

Status Validate(const v1::SharedSeeds& m) {
  HEDDLE_RETURN_IF_ERROR(CheckSetting("seeds.scalars", m.scalars()));
  HEDDLE_RETURN_IF_ERROR(CheckRange("seeds.pool_size", m.pool_size(), 0, kMaxSeedPool));
  HEDDLE_RETURN_IF_ERROR(CheckRange("seeds.candidates", m.candidates(), 0, kMaxPerturbations));
  HEDDLE_RETURN_IF_ERROR(CheckRange("seeds.span", m.span(), m.candidates() > 0 ? 1 : 0, uint64_t{1} << 32));
  HEDDLE_RETURN_IF_ERROR(CheckRange("seeds.first_ref", m.first_ref(), 0, kMaxSeedRef));
  return CheckRange("seeds.resolution_bits", m.resolution_bits(), 1, 60);
}

Status Validate(const v1::TrainPlan& m) {
  HEDDLE_RETURN_IF_ERROR(CheckRange("train.local_steps", m.local_steps(), 1, kMaxLocalSteps));
  HEDDLE_RETURN_IF_ERROR(CheckRange("train.batch_size", m.batch_size(), 1, kMaxBatchSize));
  HEDDLE_RETURN_IF_ERROR(CheckRange("train.sequence_length", m.sequence_length(), 1, kMaxSequenceLength));
  HEDDLE_RETURN_IF_ERROR(CheckReal("train.learning_rate", m.learning_rate(), 0, 1e6));
  HEDDLE_RETURN_IF_ERROR(CheckReal("train.weight_decay", m.weight_decay(), 0, 1e6));
  HEDDLE_RETURN_IF_ERROR(CheckReal("train.beta1", m.beta1(), 0, 1, /*closed=*/false));
  HEDDLE_RETURN_IF_ERROR(CheckReal("train.beta2", m.beta2(), 0, 1, /*closed=*/false));
  HEDDLE_RETURN_IF_ERROR(CheckReal("train.epsilon", m.epsilon(), 0, 1));
  HEDDLE_RETURN_IF_ERROR(CheckReal("train.max_grad_norm", m.max_grad_norm(), 0, 1e30));
  HEDDLE_RETURN_IF_ERROR(CheckRange("train.warmup_steps", m.warmup_steps(), 0, kMaxLocalSteps));
  HEDDLE_RETURN_IF_ERROR(CheckReal("train.momentum", m.momentum(), 0, 1, /*closed=*/false));
  // Which names there are is the business of those who know the methods; here they only must be names.
  HEDDLE_RETURN_IF_ERROR(CheckSetting("train.optimizer", m.optimizer()));
  HEDDLE_RETURN_IF_ERROR(CheckSetting("train.lr_scheduler_type", m.lr_scheduler_type()));
  HEDDLE_RETURN_IF_ERROR(CheckSetting("train.base_dtype", m.base_dtype()));
  HEDDLE_RETURN_IF_ERROR(CheckRange("train.gradient_accumulation_steps", m.gradient_accumulation_steps(), 0,
                                    kMaxBatchSize / m.batch_size()));
  HEDDLE_RETURN_IF_ERROR(Validate(m.rules()));
  HEDDLE_RETURN_IF_ERROR(Validate(m.zo()));
  if (m.has_seeds()) HEDDLE_RETURN_IF_ERROR(Validate(m.seeds()));
  for (int i = 0; i < m.layers_size(); ++i) {
    HEDDLE_RETURN_IF_ERROR(CheckRange("train.layers", m.layers(i), i == 0 ? 0 : m.layers(i - 1) + 1, kMaxLayers - 1));
  }
  if (m.has_pseudo_labels()) HEDDLE_RETURN_IF_ERROR(Validate(m.pseudo_labels()));
  if (m.has_prompt()) HEDDLE_RETURN_IF_ERROR(Validate(m.prompt()));
  return CheckRange("train.threads", m.threads(), 1, kMaxThreads);
}

Status Validate(const v1::TaskPlan& m) {
  HEDDLE_RETURN_IF_ERROR(CheckName("plan.local_task", m.local_task(), 1, kMaxNameBytes));
  HEDDLE_RETURN_IF_ERROR(ValidateFolder("plan.base_model", m.base_model()));
  HEDDLE_RETURN_IF_ERROR(ValidateFolder("plan.adapter", m.adapter()));
  if (!m.tensor_trees().empty()) HEDDLE_RETURN_IF_ERROR(ValidateFolder("plan.tensor_trees", m.tensor_trees()));
  if (!m.has_train()) return Bad("plan.train", "is missing");
  HEDDLE_RETURN_IF_ERROR(Validate(m.train()));
  HEDDLE_RETURN_IF_ERROR(CheckRange("plan.max_update_bytes", m.max_update_bytes(), 1, kMaxBlobBytes));
  return CheckRange("plan.max_num_examples", m.max_num_examples(), 1, kMaxNumExamples);
}

Status Validate(const v1::TaskAssignment& m) {
  if (!IsValidAssignmentId(m.assignment_id())) return Bad("assignment_id", "must be 32 lower-case hex digits");
  HEDDLE_RETURN_IF_ERROR(CheckName("run_id", m.run_id(), 1, kMaxNameBytes));
  HEDDLE_RETURN_IF_ERROR(CheckRange("round", m.round(), 1, kMaxRounds));
  HEDDLE_RETURN_IF_ERROR(CheckRange("attempt", m.attempt(), 1, kMaxRounds));
  if (m.deadline_unix_us() < 0) return Bad("deadline_unix_us", "must not be negative");
  if (!m.has_plan()) return Bad("plan", "is missing");
  return Validate(m.plan());
}

// num_examples has no lower bound here: zero is legal in the metrics of a failed task, and refused with its own reason
// where an update is judged.
Status Validate(const v1::TaskMetrics& m) {
  HEDDLE_RETURN_IF_ERROR(CheckRange("metrics.steps", m.steps(), 0, kMaxLocalSteps));
  constexpr uint64_t kMostPasses = uint64_t{1} << 48;  // two for each direction of each step, and anchors
  HEDDLE_RETURN_IF_ERROR(CheckRange("metrics.forward_passes", m.forward_passes(), 0, kMostPasses));
  HEDDLE_RETURN_IF_ERROR(CheckRange("metrics.skipped_directions", m.skipped_directions(), 0, kMostPasses));
  HEDDLE_RETURN_IF_ERROR(CheckRange("metrics.pseudo_labels", m.pseudo_labels(), 0, kMaxPseudoLabels));
  HEDDLE_RETURN_IF_ERROR(CheckReal("metrics.train_seconds", m.train_seconds(), 0, 1e9));
  // Losses are what training made of them: a diverged task may report NaN, and its update is judged on its own.
  return OkStatus();
}

}  // namespace heddle::protocol
