// What kind of machine a simulated device is: how long its tasks and transfers take, and what they cost.
//
//   [simulation.profiles.phone]
//   share = 3                       # of the devices, as a weight against the other profiles
//   seconds_per_step = 0.8          # of training
//   download_bytes_per_s = 2e6      # 0: transfers take no time
//   upload_bytes_per_s = 5e5
//   watts = 4                       # while it computes
//   radio_watts = 1.2               # while it sends or receives
//   memory_limit_mb = 512           # a task that is estimated to need more fails; 0: no limit
//
// What a profile does not say is as in [simulation].
#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/status.h"

namespace heddle::coordinator {

struct DeviceProfile {
  std::string name;
  double share = 1;
  double seconds_per_step = 0.1;
  double download_bytes_per_s = 0, upload_bytes_per_s = 0;
  double watts = 0, radio_watts = 0;
  double memory_limit_mb = 0;
};

// Profiles from the text of a free table ("phone.share" -> "3"), sorted by name; `base` gives what they do not say.
// Errors: kInvalidArgument with every mistake: a key that no profile has (with the nearest), a value that is no number
// or out of range, no profile with a share.
Result<std::vector<DeviceProfile>> ParseProfiles(const std::map<std::string, std::string>& table,
                                                 const DeviceProfile& base);

}  // namespace heddle::coordinator
