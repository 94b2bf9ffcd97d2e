// How the updates of a round are read: as safetensors, or in the encoded form when the recipe makes them smaller. Both
// doors use it, the look at a report and the fold of what was accepted.
//
// Life cycle: made with the sum of a round attempt, shared with who looks at reports, and may outlive the round.
// Immutable; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "common/state_dict.h"
#include "common/status.h"
#include "coordinator/recipe/recipe.h"

namespace heddle::coordinator {

class UpdateReader {
 public:
  // `model`: what devices start from in this round.
  UpdateReader(const Recipe& recipe, uint32_t round, StateDictSpec model);

  // The update of a device that was given `view` of the model, from its bytes, which `owner` keeps alive: views into
  // them, or tensors of their own when it was encoded. Where devices prune their rank (HetLoRA) it may be of fewer
  // rows of A and columns of B, as its header says. Errors: kInvalidArgument with what is wrong, also for an
  // update in the other of the two forms; kOutOfRange for a number or a scale of an encoded one that is not finite;
  // kResourceExhausted (memory).
  Result<StateDict> Read(std::span<const std::byte> bytes, std::shared_ptr<const void> owner, const DeviceId& device,
                         const DeviceView& view) const;

  // Bytes of memory that reading takes beside the update's own `size`.
  uint64_t ExtraBytes(int64_t rank) const;

 private:
  StateDictSpec Expected(int64_t rank) const;  // of a device that has the whole model
  // The rank that such an update is of, where the device may have given up a part of its own.
  int64_t SentRank(std::span<const std::byte> bytes, int64_t rank) const;

  compression::Pipeline upload_;
  uint64_t run_seed_ = 0;
  uint32_t round_;
  // With upload_ only:
  aggregation::DeviceRules rules_;
  StateDictSpec model_;
  std::function<aggregation::SubModel(const DeviceId&, uint32_t layers)> part_;  // of methods that give devices parts
  // Where devices prune their rank: the ranks that an update may have, by how its header says them.
  std::map<std::string, int64_t, std::less<>> pruned_;
};

}  // namespace heddle::coordinator
