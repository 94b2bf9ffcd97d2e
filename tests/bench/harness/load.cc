#include "load.h"

#include <boost/json.hpp>

#include "history.h"
#include "light_devices.h"

namespace heddle::bench {

Result<SmallUpdates> SendSmallUpdates(const Context& context, const std::filesystem::path& folder,
                                      const SmallUpdateOptions& options) {
  LightDevices devices(context, folder, options.devices);
  HEDDLE_RETURN_IF_ERROR(devices.StartCoordinator());
  HEDDLE_RETURN_IF_ERROR(devices.Submit(ShapeOf4KiB(), options.rounds));
  HEDDLE_ASSIGN_OR_RETURN(const double seconds, devices.SmallRounds(options.rounds));
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<boost::json::object> history, HistoryOfTheRun(devices));
  HEDDLE_RETURN_IF_ERROR(devices.Stop());

  SmallUpdates result;
  result.measured = options.devices * static_cast<int>(options.rounds - 1);
  result.seconds = seconds;
  for (const boost::json::object& line : history) {
    if (line.at("outcome") != "committed") continue;
    ++result.committed_rounds;
    result.accepted += line.at("num_accepted").to_number<int64_t>();
  }
  const int64_t sent = int64_t{options.devices} * options.rounds;
  if (result.accepted != sent) {
    return DataLoss("of " + std::to_string(sent) + " updates that were accepted the coordinator counts " +
                    std::to_string(result.accepted));
  }
  return result;
}

namespace {

// 4 KiB: as zeroth-order methods send.
Result<Findings> MeasureSmallUpdates(const Context& context) {
  const SmallUpdateOptions options;
  HEDDLE_ASSIGN_OR_RETURN(const SmallUpdates load, SendSmallUpdates(context, context.work / "small", options));
  Findings found;
  found.values["small-updates"] = {load.measured / load.seconds,
                                   std::to_string(load.measured) + " updates in " + std::to_string(options.rounds - 1) +
                                       " rounds of " + std::to_string(options.devices) + " devices"};
  return found;
}

}  // namespace

std::vector<Measurement> LoadMeasurements() {
  return {{"hostile",
           {{"small-updates", "updates of 4 KiB accepted durably, check-ins included", "1/s", 2000, true}},
           MeasureSmallUpdates}};
}

}  // namespace heddle::bench
