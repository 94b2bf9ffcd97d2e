// Devices that are connected to a real coordinator over TLS and check in anew at a steady rate, resuming their
// sessions.
#pragma once

#include <filesystem>

#include "bench.h"
#include "common/status.h"

namespace heddle::bench {

struct CheckinLoad {
  int connected = 0;                 // at the end
  int measured = 0;                  // check-ins
  double median_ms = 0, p99_ms = 0;  // from the connect to the answer
  double memory_mb = 0;              // of the coordinator, its peak
};

// `devices` devices, 500 check-ins a second in all. Errors: a check-in that failed or was answered otherwise than it
// should be, too few descriptors, those of processes and files.
Result<CheckinLoad> RunCheckinLoad(const Context& context, const std::filesystem::path& folder, int devices);

std::vector<Measurement> CheckinMeasurements();

}  // namespace heddle::bench
