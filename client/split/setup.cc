#include "client/split/setup.h"

#include "client/device_secret.h"
#include "model/config/cut.h"
#include "model/config/registry.h"
#include "model/parts/part_folder.h"

namespace heddle::client {

Result<SplitDeviceOptions> PrepareSplitDevice(const protocol::SplitPlan& plan, const std::filesystem::path& data,
                                              TaskResources& resources, const std::filesystem::path& state_file,
                                              const std::string& compute) {
  HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::ReadModelConfig(plan.base_model));
  HEDDLE_ASSIGN_OR_RETURN(const model::SplitTopology topology, model::SplitTopologyFromName(plan.topology));
  model::WeightOptions weights;
  if (plan.privacy.noise_multiplier > 0 && compute != "cpu") {
    return InvalidArgument(
        "privacy.noise_multiplier needs a device that makes the same bits of a step that it computes "
        "again, or it would send the same activations with other noise; a GPU does not promise that: "
        "--compute-device cpu");
  }
  const auto computes_on = model::DeviceFromName(compute);
  if (!computes_on.ok()) return computes_on.status().Annotate("--compute-device");
  weights.device = *computes_on;
  HEDDLE_ASSIGN_OR_RETURN(weights.part, model::DevicePart(spec, {plan.cut, topology}));
  HEDDLE_ASSIGN_OR_RETURN(const std::string digest, model::BaseModelDigest(plan.base_model));
  HEDDLE_ASSIGN_OR_RETURN(const TaskResources::Base base, resources.GetBase(plan.base_model, weights));
  SplitDeviceOptions options;
  options.plan = plan;
  options.plan_digest = plan.Digest(digest);
  options.part = base.weights;
  options.state_file = state_file;
  if (!state_file.empty() && (plan.privacy.noise_multiplier > 0 || plan.privacy.label_epsilon > 0)) {
    HEDDLE_ASSIGN_OR_RETURN(options.secret, DeviceSecret(state_file.parent_path() / "split.secret"));
  }
  TaskInput input;
  input.train.batch_size = plan.batch_size;
  input.train.sequence_length = plan.sequence_length;
  input.base_model_dir = plan.base_model;
  input.data_path = data;
  options.batches = [input, base, &resources](uint64_t seed) {
    TaskInput seeded = input;
    seeded.seed = seed;
    return TrainingBatches(seeded, base, resources);
  };
  return options;
}

}  // namespace heddle::client
