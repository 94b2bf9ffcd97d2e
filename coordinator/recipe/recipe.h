// A recipe: one TOML file that names a method (a client-side LocalTask and a server-side Aggregator) and its settings.
// The coordinator and the simulator read the same recipe. Immutable after Load; a value.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "aggregation/aggregator.h"
#include "aggregation/compression/pipeline.h"
#include "aggregation/parts/sub_models.h"
#include "aggregation/privacy/accountant.h"
#include "aggregation/privacy/update_privacy.h"
#include "common/status.h"
#include "coordinator/engine/types.h"
#include "coordinator/recipe/device_tiers.h"
#include "coordinator/recipe/simulated_devices.h"
#include "coordinator/recipe/tuning_bindings.h"
#include "peft/adapter/adapter.h"
#include "protocol/v1/task.pb.h"

namespace heddle::coordinator {

// What of a model a device gets, where that is not all of it.
struct DeviceView {
  int64_t rank = 0;                   // of its factors; 0: the model's
  std::optional<uint32_t> group;      // whose adapter, where the strategy tries several side by side
  std::vector<uint32_t> layers = {};  // of these the adapter's tensors; empty: of all
  bool bfloat16 = false;              // rounded (aggregation/rounded_model.h)
  uint32_t nnadq = 0;                 // in adaptive levels of this weight (aggregation/compression/coded_model.h)
  auto operator<=>(const DeviceView&) const = default;
};

struct Recipe {
  std::string name;  // [a-z0-9-]{1,40}
  uint64_t seed = 0;
  std::filesystem::path base_model;  // [model] base: folder in Hugging Face layout, relative to the recipe
  std::string local_task;            // [train] local_task; empty in the text: what the method needs
  peft::AdapterConfig lora;          // [lora], [tuning]; AdapterFor (base_folder.h) fits it to the base model
  NewHead head;                      // [model] num_labels, label_names
  NewGenerator generator;            // [tuning] generator_dim, generator_scale
  DeviceTiers ranks;                 // [lora] device_ranks, rank_tiers; 0: lora.r
  DeviceTiers depths;                // [strategy] device_layers, layer_tiers: how many layers a device can hold; 0: all
  bool layers_by_memory = false;     // [strategy] layers_by_memory: as many layers as a device's memory allows
  uint64_t worker_memory_bytes = 0;  // [strategy] worker_memory_mb: of a device's memory, not its task's
  std::string strategy = "FedAvg";   // [strategy] name
  RunSpec spec;  // [strategy] num_server_rounds, cohort_size, over_selection, min_available_devices, min_reports,
                 //  first_stage_rounds, later_cohort_size, selection_timeout_s, report_deadline_s,
                 //  max_abandoned_attempts; `id` is left empty
  compression::Pipeline upload;  // [compression] upload: how devices make their updates smaller; empty: not at all
  compression::Pipeline later_upload;  // [compression] later_upload: in rounds above upload_rounds
  uint32_t upload_rounds = 0;          // [compression] upload_rounds; 0: all rounds, and there is no other upload
  compression::Pipeline download;      // [compression] download: bf16 or nnadq, devices start from the model so rounded
  privacy::UpdatePrivacy
      update_privacy;  // [privacy] update_clip, noise_multiplier: what devices do to their updates first
  double privacy_delta = privacy::kDefaultDelta;  // [privacy] delta: only for what is said of the guarantee
  aggregation::AggregatorOptions aggregator;  // [strategy] max_abs, max_norm, max_num_examples, the method's own keys
  v1::TrainPlan train;                        // [train]
  uint32_t later_local_steps = 0;             // [train] later_local_steps; 0: as in the first stage
  std::string learning_rate_schedule = "constant";  // [train] "constant" or "cosine" over the rounds
  SimulatedDevices simulation;                      // [simulation]
  std::string resolved_json;                        // for run.json

  // Errors: kNotFound, kInvalidArgument with every mistake at once, each with key and what to do.
  static Result<Recipe> Load(const std::filesystem::path& path,
                             const std::map<std::string, std::string>& overrides = {});

  // kStored: of a run that has begun, perhaps with a version that let pass what has no effect; it still does.
  enum class Origin : uint8_t { kGiven, kStored };
  // The same from text; relative paths in it are relative to `folder`. `name` stands in messages.
  static Result<Recipe> LoadText(const std::string& text, const std::filesystem::path& folder, const std::string& name,
                                 const std::map<std::string, std::string>& overrides = {},
                                 Origin origin = Origin::kGiven);

  double LearningRateOf(uint32_t round) const;  // with the schedule applied
  uint32_t LocalStepsOf(uint32_t round) const;
  // In the whole run, of a device that takes part in every round; and of the devices of all cohorts together.
  uint64_t StepsOfADevice() const;
  uint64_t StepsOfAllCohorts() const;
  const compression::Pipeline& UploadOf(uint32_t round) const {
    return upload_rounds > 0 && round > upload_rounds ? later_upload : upload;
  }
  // What the noise guarantees a device that takes part in every round; none without noise.
  std::optional<privacy::RunGuarantee> Guarantee() const;
  // A sentence for people where the settings make a robust strategy the plain mean.
  std::optional<std::string> Warning() const;
  // The TrainPlan of a round, with the schedule and the method's rules applied. round in 1 .. num_server_rounds.
  v1::TrainPlan TrainPlanOf(uint32_t round) const;

  // The rank of a device's factors, where it is not the model's; else 0.
  int64_t RankOf(const DeviceId& device) const;
  // What of the base model the device computes with (aggregation/parts/sub_models.h). `layers`: that its memory allows
  // (AssignmentRecord); 0 where it is not asked for.
  aggregation::SubModel PartFor(const DeviceId& device, uint32_t round, uint32_t layers = 0) const;
  // What of the round's model the device gets.
  DeviceView ViewFor(const DeviceId& device, uint32_t round, uint32_t layers = 0) const;
  // What the strategy is told in that round. The strategy has been checked with it.
  aggregation::AggregatorOptions AggregatorOf(uint32_t round) const;
  aggregation::DeviceRules RulesOf(uint32_t round) const;
};

// Whether devices of the strategy send scalars of shared directions.
bool UsesSharedSeeds(const std::string& strategy);

// Seed of all randomness of a device's task in a run of that seed.
uint64_t TaskSeed(uint64_t run_seed, uint32_t round, const DeviceId& device);

// Everything a new run starts from, made from a recipe without LibTorch: the base folder is checked and hashed, the
// initial adapter (A drawn from the seed, B zero) is made for the base's shapes.
struct RunMaterial {
  RunSpec spec;  // with its id: name + "-" + 8 hex digits of the seed and material digests
  std::vector<std::pair<v1::BlobRef, std::filesystem::path>>
      base_model;  // config.json, tokenizer.json, model*.safetensors; no path: model_config_json
  // Of the base model's safetensors files, where devices fetch parts of them (model/parts/tensor_tree.h), with their
  // bytes; those are not kept when a run is taken up again.
  std::vector<std::pair<v1::BlobRef, std::string>> tensor_trees;
  std::string model_config_json;      // config.json with a new head; empty: that of the folder
  StateDict initial_adapter;          // PEFT key names, F32
  std::string initial_adapter_bytes;  // canonical safetensors of it
  std::string adapter_config_json;    // canonical text; a blob too
};
Result<RunMaterial> PrepareRun(const Recipe& recipe);

// An adapter for the shapes of a model's, drawn as the initial one but for `round`: what devices start from after their
// factors have gone into the base. Tensors that are no factors are left out.
StateDict FreshAdapter(const Recipe& recipe, const StateDictSpec& model, uint32_t round);

// What a device is given as its adapter's folder.
struct AdapterBlobs {
  v1::BlobRef config, model;
  std::optional<v1::BlobRef> ledger;  // of a run with shared seeds; `model` is then what the run began with
};
// The plan for one device, with its TaskSeed. `layers` as PartFor takes them.
v1::TaskPlan MakeTaskPlan(const Recipe& recipe, const RunMaterial& material, uint32_t round,
                          const AdapterBlobs& adapter, const DeviceId& device, uint32_t layers = 0);

}  // namespace heddle::coordinator
