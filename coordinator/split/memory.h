// What the split server has to hold, worked out from the plan before a device comes: what split.memory_limit_mb is held
// against. All devices follow one plan, so one session needs what another does. Free of LibTorch's headers.
//
// In bytes of float32, with t the parameters that are trained on the server and m the optimizer's moments (AdamW 2,
// SGD 0):
//
//   fixed    the part's weights; both adapters as they are sent, thrice (in use, merged, written); with one part
//            for all also t (1 parameters + 1 gradient + m, and 1 + m while they are written)
//   pass     what a pass takes above what is kept: a layer's activations once more and, with the head here, three times
//            the logits
//   session  t (1 + 1), or with a copy of its own t (1 + 1 + m, and 1 + m while they are written); for each micro-batch
//            that waits for its tail's gradient what its layers keep: what model/config/memory_estimate.h says of them
//            with all their linear layers trained, and twice the input of each where LoRA's has dropout;
//            the requests that may wait and the answers of two steps as they travel
//   update   what a counted device has changed, of either side, until the round ends
//
// Thread-safety: a pure function.
#pragma once

#include <cstdint>

#include "model/config/model_spec.h"
#include "protocol/split/plan.h"

namespace heddle::coordinator {

struct SplitMemory {
  uint64_t fixed = 0, pass = 0, session = 0, update = 0;  // bytes

  uint64_t With(uint64_t sessions, uint64_t updates) const {
    return fixed + pass + sessions * session + updates * update;
  }
};

// `part`: of the server (its ModelSpec::part is set). `device_adapter`, `server_adapter`: bytes of what is trained on
// either side. `checkpoint_layers`: layers are computed again on the way back.
SplitMemory EstimateSplitMemory(const protocol::SplitPlan& plan, const model::ModelSpec& part, uint64_t device_adapter,
                                uint64_t server_adapter, bool checkpoint_layers);

}  // namespace heddle::coordinator
