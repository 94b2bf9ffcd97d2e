// How the updates of a round are read: as safetensors, or in the encoded form when the recipe makes them smaller. Both
// doors use it, the look at a report and the fold of what was accepted.
//
// Life cycle: made with the sum of a round attempt, shared with who looks at reports, and may outlive the round.
// Immutable; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "common/state_dict.h"
#include "common/status.h"
#include "coordinator/recipe/recipe.h"

namespace heddle::coordinator {

class UpdateReader {
 public:
  // `model`: what devices start from in this round.
  UpdateReader(const Recipe& recipe, uint32_t round, StateDictSpec model);

  // The update of a device whose factors have `rank` (0: the model's) from its bytes, which `owner` keeps alive: views
  // into them, or tensors of their own when it was encoded. Errors: kInvalidArgument with what is wrong, also for an
  // update in the other of the two forms; kResourceExhausted (memory).
  Result<StateDict> Read(std::span<const std::byte> bytes, std::shared_ptr<const void> owner, const DeviceId& device,
                         int64_t rank) const;

  // Bytes of memory that reading takes beside the update's own `size`.
  uint64_t ExtraBytes(int64_t rank) const;

 private:
  StateDictSpec Expected(int64_t rank) const;  // of a device that has the whole model

  compression::Pipeline upload_;
  uint64_t run_seed_ = 0;
  uint32_t round_;
  // With upload_ only:
  aggregation::DeviceRules rules_;
  StateDictSpec model_;
  std::function<aggregation::SubModel(const DeviceId&)> part_;  // of methods that give devices parts
};

}  // namespace heddle::coordinator
