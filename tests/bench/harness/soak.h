// Many rounds one after the other: what a coordinator keeps must not grow with what it has done. The real coordinator
// over real TLS, and devices that only move bytes.
#pragma once

#include <cstdint>
#include <filesystem>

#include "bench.h"
#include "common/status.h"

namespace heddle::bench {

struct SoakOptions {
  int devices = 4;
  uint32_t rounds = 1000;
  uint32_t settled = 100;  // the round after which it is looked at for the first time
  uint32_t every = 50;     // and then after each so many
};

// Of the coordinator's process.
struct Footprint {
  double resident_bytes = 0, descriptors = 0, threads = 0;
};

struct SoakFindings {
  Footprint settled, most;  // the first look, and the largest of each of all looks
};

// Errors: a round that is not as it must be; those of processes and files.
Result<SoakFindings> RunSoak(const Context& context, const std::filesystem::path& folder, const SoakOptions& options);

}  // namespace heddle::bench
