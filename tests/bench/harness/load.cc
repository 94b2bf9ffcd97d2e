// Many small things at once.
#include "bench.h"
#include "light_devices.h"

namespace heddle::bench {
namespace {

// Updates of 4 KiB, as zeroth-order methods send, each inside its report and on the disk before it is answered.
Result<Findings> SmallUpdates(const Context& context) {
  constexpr int kDevices = 256;
  constexpr uint32_t kRounds = 41;
  LightDevices devices(context, context.work / "small", kDevices);
  HEDDLE_RETURN_IF_ERROR(devices.StartCoordinator());
  HEDDLE_RETURN_IF_ERROR(devices.Submit(ShapeOf4KiB(), kRounds));
  HEDDLE_ASSIGN_OR_RETURN(const double seconds, devices.SmallRounds(kRounds));
  const int updates = kDevices * static_cast<int>(kRounds - 1);
  Findings found;
  found.values["small-updates"] = {updates / seconds, std::to_string(updates) + " updates in " +
                                                          std::to_string(kRounds - 1) + " rounds of 256 devices"};
  HEDDLE_RETURN_IF_ERROR(devices.Stop());
  return found;
}

}  // namespace

std::vector<Measurement> LoadMeasurements() {
  return {{"hostile",
           {{"small-updates", "updates of 4 KiB accepted durably, check-ins included", "1/s", 2000, true}},
           SmallUpdates}};
}

}  // namespace heddle::bench
