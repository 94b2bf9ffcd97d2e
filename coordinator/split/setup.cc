#include "coordinator/split/setup.h"

#include "model/config/cut.h"
#include "model/config/registry.h"
#include "model/parts/part_folder.h"

namespace heddle::coordinator {

Result<SplitServerOptions> PrepareSplitServer(const protocol::SplitPlan& plan, const std::filesystem::path& folder,
                                              const std::string& compute) {
  HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::ReadModelConfig(plan.base_model));
  HEDDLE_ASSIGN_OR_RETURN(const model::SplitTopology topology, model::SplitTopologyFromName(plan.topology));
  const model::Cut cut{plan.cut, topology};
  model::WeightOptions here, there;
  const auto computes_on = model::DeviceFromName(compute);
  if (!computes_on.ok()) return computes_on.status().Annotate("--compute-device");
  here.device = *computes_on;
  HEDDLE_ASSIGN_OR_RETURN(here.part, model::ServerPart(spec, cut));
  HEDDLE_ASSIGN_OR_RETURN(there.part, model::DevicePart(spec, cut));
  HEDDLE_ASSIGN_OR_RETURN(const std::string digest, model::BaseModelDigest(plan.base_model));
  SplitServerOptions options;
  options.plan = plan;
  options.plan_digest = plan.Digest(digest);
  options.folder = folder;
  HEDDLE_ASSIGN_OR_RETURN(options.part, model::BaseWeights::Load(plan.base_model, here));
  // Mapped, and let go of at the end of this function.
  HEDDLE_ASSIGN_OR_RETURN(const auto device, model::BaseWeights::Load(plan.base_model, there));
  HEDDLE_ASSIGN_OR_RETURN(options.device_start, peft::InitialSide(*device, plan.device, plan.seed));
  return options;
}

}  // namespace heddle::coordinator
