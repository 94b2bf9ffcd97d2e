// A committed model as what a checkpoint folder holds: a PEFT adapter and nothing else.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::coordinator {

struct Checkpoint {
  std::string adapter_config_json;
  StateDict tensors;
};

// The adapter of a model without what the method keeps beside it (aggregation::kOwnPrefix); of a model with trials side
// by side the first group's. What has been folded into the base becomes part of the factors; the configuration then
// tells each module's rank and alpha, with the scaling it had, and a start from the base's own weights (PiSSA) is no
// longer in it. Otherwise the configuration's text is the same. Pure. Errors: kInvalidArgument for a configuration that
// is none, and those of low_rank::ExportAdapter. May throw std::bad_alloc.
Result<Checkpoint> MakeCheckpoint(const StateDict& model, std::string_view adapter_config_json);

// What a device of that group gets of a model with trials side by side (aggregation/growing/trials.h): its adapter, and
// the configuration of its size. Pure. Errors: kInvalidArgument for a configuration that is none, or a model without
// bottleneck adapters.
Result<Checkpoint> GroupAdapter(const StateDict& model, std::string_view adapter_config_json, uint32_t group);

}  // namespace heddle::coordinator
