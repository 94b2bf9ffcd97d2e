#include "model/config/cut.h"

#include <string>

#include "common/config.h"

namespace heddle::model {
namespace {

Status CheckCut(const ModelSpec& spec, const Cut& cut) {
  if (cut.blocks >= 0 && cut.blocks < spec.num_hidden_layers) return OkStatus();
  return InvalidArgument("split.cut is " + std::to_string(cut.blocks) + ", but a model of " +
                         std::to_string(spec.num_hidden_layers) + " blocks can be cut after 0 to " +
                         std::to_string(spec.num_hidden_layers - 1) + " of them");
}

}  // namespace

Result<SplitTopology> SplitTopologyFromName(std::string_view name) {
  for (const SplitTopology one : {SplitTopology::kUShaped, SplitTopology::kLabelSharing}) {
    if (name == SplitTopologyName(one)) return one;
  }
  const auto nearest = NearestName(std::string(name), {"u_shaped", "label_sharing"});
  return InvalidArgument("split.topology is '" + std::string(name) + "', but must be u_shaped or label_sharing" +
                         (nearest ? "; did you mean '" + *nearest + "'?" : ""));
}

std::string_view SplitTopologyName(SplitTopology topology) {
  return topology == SplitTopology::kUShaped ? "u_shaped" : "label_sharing";
}

Result<ModelPart> DevicePart(const ModelSpec& spec, const Cut& cut) {
  HEDDLE_RETURN_IF_ERROR(CheckCut(spec, cut));
  return ModelPart{
      .embeddings = true, .first_layer = 0, .end_layer = cut.blocks, .head = cut.topology == SplitTopology::kUShaped};
}

Result<ModelPart> ServerPart(const ModelSpec& spec, const Cut& cut) {
  HEDDLE_RETURN_IF_ERROR(CheckCut(spec, cut));
  return ModelPart{.embeddings = false,
                   .first_layer = cut.blocks,
                   .end_layer = spec.num_hidden_layers,
                   .head = cut.topology == SplitTopology::kLabelSharing};
}

}  // namespace heddle::model
