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
  double per_s = 0;                  // of them, from the first one's beginning to the last one's answer
  double resumed = 0;                // share of their TLS handshakes that resumed a session
  double median_ms = 0, p99_ms = 0;  // from the connect to the answer
  double late_p99_ms = 0;            // of their beginnings, after their turns
  double memory_mb = 0;              // of the coordinator, its peak
};

// `devices` devices, 500 check-ins a second in all. Off for it, as all devices come from one address and none is to be
// refused: the limits of connections from an address and of requests of a device; and of connections there may be a
// tenth more than devices. All others are the defaults. Errors: a check-in that failed or was answered otherwise than
// it should be, too few descriptors, those of processes and files.
Result<CheckinLoad> RunCheckinLoad(const Context& context, const std::filesystem::path& folder, int devices);

std::vector<Measurement> CheckinMeasurements();

}  // namespace heddle::bench
