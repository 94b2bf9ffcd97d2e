#include "simulator/world/spent_updates.h"

#include <algorithm>

namespace heddle::simulator {

Status SpentUpdates::EndRound(uint32_t round, coordinator::BlobStore& blobs) {
  while (!rounds_.empty() && rounds_.begin()->first < round) {
    const std::set<Sha256Digest> spent = std::move(rounds_.extract(rounds_.begin()).mapped());
    for (const Sha256Digest& update : spent) {
      const auto has = [&](const auto& later) { return later.second.contains(update); };
      if (std::none_of(rounds_.begin(), rounds_.end(), has)) HEDDLE_RETURN_IF_ERROR(blobs.Delete(update));
    }
  }
  return OkStatus();
}

}  // namespace heddle::simulator
