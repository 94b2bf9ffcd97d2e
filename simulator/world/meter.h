// What a simulated round costs the devices: seconds of computing and of transfer, energy, and the two figures by which
// fine-tuning on small machines is judged (Woisetschläger et al., 2310.03150):
//   granularity        G = T_comp / T_comm: seconds of computing for each second of transfer
//   tokens_per_joule   = tokens per second per watt, of the computing alone
// Both are of the virtual machines that the recipe's profiles describe; only numbers of tokens and bytes are measured.
//
// Thread-safety: none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "coordinator/recipe/device_profile.h"

namespace heddle::simulator {

struct DeviceCost {
  uint64_t tasks = 0, tokens = 0, bytes_down = 0, bytes_up = 0;
  double compute_seconds = 0, transfer_seconds = 0;
  double compute_joules = 0, radio_joules = 0;
  uint64_t memory_bytes = 0;  // that the largest task was estimated to need; 0: not known

  // Sums; of memory the larger.
  void Add(const DeviceCost& other);
  // NaN where nothing was transferred (computed without watts): the figure means nothing then.
  double Granularity() const;
  double TokensPerJoule() const;
};

// One finished task of a device of that profile. `seconds` of computing.
DeviceCost CostOf(const coordinator::DeviceProfile& profile, double seconds, uint64_t tokens, uint64_t bytes_down,
                  uint64_t bytes_up);

// Seconds that so many bytes take; none at a rate of 0.
double TransferSeconds(uint64_t bytes, double bytes_per_s);

// As members of a JSON object, without its braces and without what means nothing: "compute_seconds":1.5,…
std::string CostJson(const DeviceCost& cost);

// Adds JSON members to the last line of history.jsonl, which must be an object. Errors: those of files;
// kFailedPrecondition when there is no such line.
Status AddToLastLine(const std::string& history_path, const std::string& members);

}  // namespace heddle::simulator
