#include "coordinator/recipe/device_profile.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "common/config.h"

namespace heddle::coordinator {
namespace {

struct Field {
  const char* name;
  double DeviceProfile::*value;
};

constexpr Field kFields[] = {{"share", &DeviceProfile::share},
                             {"seconds_per_step", &DeviceProfile::seconds_per_step},
                             {"download_bytes_per_s", &DeviceProfile::download_bytes_per_s},
                             {"upload_bytes_per_s", &DeviceProfile::upload_bytes_per_s},
                             {"watts", &DeviceProfile::watts},
                             {"radio_watts", &DeviceProfile::radio_watts},
                             {"memory_limit_mb", &DeviceProfile::memory_limit_mb}};
constexpr double kMax = 1e15;

std::vector<std::string> FieldNames() {
  std::vector<std::string> names;
  for (const Field& field : kFields) names.emplace_back(field.name);
  return names;
}

Status SetField(DeviceProfile* profile, const std::string& key, const std::string& text) {
  const Field* field =
      std::find_if(std::begin(kFields), std::end(kFields), [&](const Field& f) { return key == f.name; });
  if (field == std::end(kFields)) {
    const auto nearest = NearestName(key, FieldNames());
    return InvalidArgument("there is no such key" + (nearest ? "; did you mean " + *nearest + "?" : ""));
  }
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value) || value < 0 || value > kMax) {
    return InvalidArgument("it must be a number from 0 to 1e15, not '" + text + "'");
  }
  profile->*field->value = value;
  return OkStatus();
}

}  // namespace

Result<std::vector<DeviceProfile>> ParseProfiles(const std::map<std::string, std::string>& table,
                                                 const DeviceProfile& base) {
  std::vector<DeviceProfile> profiles;
  std::string mistakes;
  for (const auto& [key, text] : table) {
    const size_t dot = key.rfind('.');
    const std::string where = "\n  simulation.profiles." + key + ": ";
    if (dot == std::string::npos) {
      mistakes += where + "write it as [simulation.profiles.<name>] with keys such as watts";
      continue;
    }
    const std::string name = key.substr(0, dot);
    auto it = std::find_if(profiles.begin(), profiles.end(), [&](const DeviceProfile& p) { return p.name == name; });
    if (it == profiles.end()) {
      it = profiles.insert(it, base);
      it->name = name;
    }
    if (Status status = SetField(&*it, key.substr(dot + 1), text); !status.ok()) mistakes += where + status.message();
  }
  double shares = 0;
  for (const DeviceProfile& profile : profiles) shares += profile.share;
  if (!profiles.empty() && !(shares > 0)) mistakes += "\n  simulation.profiles: no profile has a share of the devices";
  if (!mistakes.empty()) return InvalidArgument("the device profiles are wrong:" + mistakes);
  if (profiles.empty()) profiles.push_back(base);
  return profiles;
}

}  // namespace heddle::coordinator
