// How large a frame of the split server can be by the plan, so that a device's end of the connection takes no larger
// one. Free of LibTorch. Pure, but for reading files.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "protocol/split/plan.h"

namespace heddle::client {

// In bytes: of the largest hidden states or gradient of a micro-batch and of a welcome with the device's adapter, whose
// head is taken for some more than it is; at most kMaxSplitFrameBytes. Reads config.json of plan.base_model, which may
// be the device's part alone. Errors: those of ReadModelConfig, of the plan's names and of AdapterSpec.
Result<uint64_t> LargestSplitAnswer(const protocol::SplitPlan& plan);

}  // namespace heddle::client
