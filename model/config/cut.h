// Where a model is cut between a device, which has the embeddings and the first blocks, and a server, which has the
// others (SplitFed: Thapa et al., 2004.12088; FedBERT: Tian et al., 2022, cuts after the embeddings).
//
// Plain values and pure functions. Free of LibTorch.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/status.h"
#include "model/config/model_spec.h"

namespace heddle::model {

enum class SplitTopology : uint8_t {
  kUShaped,      // the head is on the device too, and so the labels never leave it: two hops there, two back
  kLabelSharing  // the head is on the server, which gets the labels: one hop there, one back
};

struct Cut {
  int64_t blocks = 1;  // on the device; from 0 (the embeddings alone) to one fewer than the model has
  SplitTopology topology = SplitTopology::kUShaped;
  friend bool operator==(const Cut&, const Cut&) = default;
};

// "u_shaped" and "label_sharing". Errors: kInvalidArgument, with the nearest name.
Result<SplitTopology> SplitTopologyFromName(std::string_view name);
std::string_view SplitTopologyName(SplitTopology topology);

// What each side has of the model. A token embedding that is the head's output layer too is on both sides of a
// label-sharing cut, and cannot be trained there (peft/adapter/slots.h). Errors: kInvalidArgument for a cut outside the
// model.
Result<ModelPart> DevicePart(const ModelSpec& spec, const Cut& cut);
Result<ModelPart> ServerPart(const ModelSpec& spec, const Cut& cut);

}  // namespace heddle::model
