// Sizes that differ from device to device: ranks of factors, layers that one can hold. Plain values; pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/ids.h"

namespace heddle::coordinator {

struct DeviceTiers {
  // ["phone-7:4", "tablet-*:8"]: names, or beginnings of names, in order; the first that fits counts.
  std::vector<std::pair<std::string, int64_t>> devices;
  std::vector<int64_t> tiers;  // others get one of these, drawn by seed and name; empty: they get 0

  bool empty() const { return devices.empty() && tiers.empty(); }
  // `purpose` sets draws for different sizes apart. 0: the device is not among those that differ.
  int64_t Of(const DeviceId& device, uint64_t seed, const std::string& purpose) const;
};

// What a recipe's keys say, into `out`. `what` is a size's name for people ("rank"), `most` its largest, `most_name`
// what that is. The mistakes, each on a line of its own that begins with a line's end.
std::string ReadDeviceTiers(const std::vector<std::string>& devices, const std::vector<int64_t>& tiers,
                            const std::string& devices_key, const std::string& tiers_key, const std::string& what,
                            int64_t most, const std::string& most_name, DeviceTiers* out);

}  // namespace heddle::coordinator
