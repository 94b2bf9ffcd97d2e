// Many small updates at once, each inside its report and on the disk before it is answered: the real coordinator over
// real TLS, and devices that only move bytes.
#pragma once

#include <cstdint>
#include <filesystem>

#include "bench.h"
#include "common/status.h"

namespace heddle::bench {

struct SmallUpdateOptions {
  int devices = 256;     // all of them in each round
  uint32_t rounds = 41;  // at least 2: the first is not measured
};

struct SmallUpdates {
  int measured = 0;    // updates of the rounds after the first
  double seconds = 0;  // that these took, check-ins included
  // By the coordinator's record of the run.
  int committed_rounds = 0;
  int64_t accepted = 0;  // updates of the committed rounds
};

// Errors: an update that was not accepted, or that the coordinator does not count; a run that did not complete; those
// of processes and files.
Result<SmallUpdates> SendSmallUpdates(const Context& context, const std::filesystem::path& folder,
                                      const SmallUpdateOptions& options);

}  // namespace heddle::bench
