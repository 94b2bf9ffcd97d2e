// A thousand rounds: what a coordinator keeps must not grow with what it has done.
#include <algorithm>

#include "bench.h"
#include "common/subprocess.h"
#include "light_devices.h"

namespace heddle::bench {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kSoakRounds = 1000, kSettled = 100, kEvery = 50;
constexpr int kDevices = 4;

struct Sample {
  double resident = 0, descriptors = 0, threads = 0;
};

double CountOf(const fs::path& folder) {
  std::error_code error;
  const auto all = fs::directory_iterator(folder, error);
  return error ? 0 : static_cast<double>(std::distance(begin(all), end(all)));
}

Result<Sample> Look(LightDevices& devices) {
  const pid_t pid = devices.fleet().coordinator_process().pid();
  const fs::path process = "/proc/" + std::to_string(pid);
  HEDDLE_ASSIGN_OR_RETURN(const ProcessMemory memory, ReadProcessMemory(pid));
  return Sample{.resident = static_cast<double>(memory.rss_bytes),
                .descriptors = CountOf(process / "fd"),
                .threads = CountOf(process / "task")};
}

Result<Findings> Soak(const Context& context) {
  LightDevices devices(context, context.work / "soak", kDevices);
  HEDDLE_RETURN_IF_ERROR(devices.StartCoordinator());
  HEDDLE_RETURN_IF_ERROR(devices.Submit(ShapeOf1KiB(), kSoakRounds));
  Sample settled, most;
  for (uint32_t round = 1; round <= kSoakRounds; ++round) {
    HEDDLE_RETURN_IF_ERROR(devices.Round().status());
    if (round < kSettled || round % kEvery != 0) continue;
    HEDDLE_ASSIGN_OR_RETURN(const Sample now, Look(devices));
    if (round == kSettled) settled = now;
    most.resident = std::max(most.resident, now.resident);
    most.descriptors = std::max(most.descriptors, now.descriptors);
    most.threads = std::max(most.threads, now.threads);
  }
  HEDDLE_RETURN_IF_ERROR(devices.Stop());
  char text[96];
  std::snprintf(text, sizeof text, "%.1f MB after round %u, at most %.1f MB up to round %u", settled.resident / 1e6,
                kSettled, most.resident / 1e6, kSoakRounds);
  Findings found;
  found.values["soak-memory"] = {100 * (most.resident / settled.resident - 1), text};
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
           Soak}};
}

}  // namespace heddle::bench
