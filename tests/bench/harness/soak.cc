#include "soak.h"

#include <algorithm>

#include "common/subprocess.h"
#include "light_devices.h"

namespace heddle::bench {
namespace {

namespace fs = std::filesystem;

double CountOf(const fs::path& folder) {
  std::error_code error;
  const auto all = fs::directory_iterator(folder, error);
  return error ? 0 : static_cast<double>(std::distance(begin(all), end(all)));
}

Result<Footprint> Look(LightDevices& devices) {
  const pid_t pid = devices.fleet().coordinator_process().pid();
  const fs::path process = "/proc/" + std::to_string(pid);
  HEDDLE_ASSIGN_OR_RETURN(const ProcessMemory memory, ReadProcessMemory(pid));
  return Footprint{.resident_bytes = static_cast<double>(memory.rss_bytes),
                   .descriptors = CountOf(process / "fd"),
                   .threads = CountOf(process / "task")};
}

}  // namespace

Result<SoakFindings> RunSoak(const Context& context, const fs::path& folder, const SoakOptions& options) {
  LightDevices devices(context, folder, options.devices);
  HEDDLE_RETURN_IF_ERROR(devices.StartCoordinator());
  HEDDLE_RETURN_IF_ERROR(devices.Submit(ShapeOf1KiB(), options.rounds));
  SoakFindings found;
  for (uint32_t round = 1; round <= options.rounds; ++round) {
    HEDDLE_RETURN_IF_ERROR(devices.Round().status());
    if (round < options.settled || (round - options.settled) % options.every != 0) continue;
    HEDDLE_ASSIGN_OR_RETURN(const Footprint now, Look(devices));
    if (round == options.settled) found.settled = now;
    found.most.resident_bytes = std::max(found.most.resident_bytes, now.resident_bytes);
    found.most.descriptors = std::max(found.most.descriptors, now.descriptors);
    found.most.threads = std::max(found.most.threads, now.threads);
  }
  HEDDLE_RETURN_IF_ERROR(devices.Stop());
  return found;
}

namespace {

Result<Findings> MeasureSoak(const Context& context) {
  const SoakOptions options;
  HEDDLE_ASSIGN_OR_RETURN(const SoakFindings soak, RunSoak(context, context.work / "soak", options));
  const auto& [settled, most] = soak;
  char text[96];
  std::snprintf(text, sizeof text, "%.1f MB after round %u, at most %.1f MB up to round %u",
                settled.resident_bytes / 1e6, options.settled, most.resident_bytes / 1e6, options.rounds);
  Findings found;
  found.values["soak-memory"] = {100 * (most.resident_bytes / settled.resident_bytes - 1), text};
  found.values["soak-descriptors"] = {most.descriptors - settled.descriptors,
                                      std::to_string(static_cast<int>(settled.descriptors)) + " after round 100"};
  found.values["soak-threads"] = {most.threads - settled.threads,
                                  std::to_string(static_cast<int>(settled.threads)) + " after round 100"};
  return found;
}

}  // namespace

std::vector<Measurement> SoakMeasurements() {
  return {{"hostile",
           {{"soak-memory", "coordinator's memory, growth over rounds 100 to 1 000", "%", 5, false},
            {"soak-descriptors", "its file descriptors, the same", "more", 0, false},
            {"soak-threads", "its threads, the same", "more", 0, false}},
           MeasureSoak}};
}

}  // namespace heddle::bench
