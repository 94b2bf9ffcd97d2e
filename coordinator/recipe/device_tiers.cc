#include "coordinator/recipe/device_tiers.h"

#include <charconv>

#include "common/random.h"

namespace heddle::coordinator {

int64_t DeviceTiers::Of(const DeviceId& device, uint64_t seed, const std::string& purpose) const {
  for (const auto& [pattern, size] : devices) {
    const bool fits = pattern.ends_with('*') ? device.value().starts_with(pattern.substr(0, pattern.size() - 1))
                                             : device.value() == pattern;
    if (fits) return size;
  }
  return tiers.empty() ? 0 : tiers[DeriveSeed(seed, purpose, device.value()) % tiers.size()];
}

std::string ReadDeviceTiers(const std::vector<std::string>& devices, const std::vector<int64_t>& tiers,
                            const std::string& devices_key, const std::string& tiers_key, const std::string& what,
                            int64_t most, const std::string& most_name, DeviceTiers* out) {
  std::string mistakes;
  const std::string range = what + " from 1 to " + most_name + ", " + std::to_string(most);
  for (const std::string& text : devices) {
    const size_t colon = text.rfind(':');
    int64_t size = 0;
    const char* end = text.data() + text.size();
    const bool number = colon != std::string::npos && colon > 0 &&
                        std::from_chars(text.data() + colon + 1, end, size) == std::from_chars_result{end, {}};
    if (!number || size < 1 || size > most) {
      mistakes += "\n  " + devices_key + ": '" + text + "' is not <device or beginning*>:<" + range + ">";
      continue;
    }
    out->devices.emplace_back(text.substr(0, colon), size);
  }
  for (const int64_t size : tiers) {
    if (size >= 1 && size <= most) continue;
    mistakes += "\n  " + tiers_key + ": " + std::to_string(size) + " is not a " + range;
  }
  out->tiers = tiers;
  return mistakes;
}

}  // namespace heddle::coordinator
