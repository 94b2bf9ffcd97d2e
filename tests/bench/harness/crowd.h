// One round of a crowd in which not everybody is well-behaved: some devices vanish after they got their task, some
// attack (bytes that are no safetensors, NaN, wrong shapes, somebody else's assignment), some report after the
// deadline. Over real TLS, with the real coordinator. What must come out is computed from the recipe, the aggregator
// and the updates whose devices heard "accepted", and from nothing of the coordinator's.
#pragma once

#include <filesystem>

#include "bench.h"
#include "common/status.h"

namespace heddle::bench {

struct CrowdOptions {
  int devices = 1000;
  double vanish = 0.30, attack = 0.05, late = 0.10;  // shares
  double deadline_s = 20;
};

struct CrowdRound {
  int accepted = 0, refused = 0, late = 0, vanished = 0;
  double seconds = 0;  // from the selection to the commit, by the coordinator's clock
};

// Errors: an answer that is not what that device deserves; a round that did not commit, or not the right hash; those of
// processes and files.
Result<CrowdRound> RunCrowdRound(const Context& context, const std::filesystem::path& folder,
                                 const CrowdOptions& options);

std::vector<Measurement> CrowdMeasurements();

}  // namespace heddle::bench
