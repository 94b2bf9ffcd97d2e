// Rounds without training: what moving the bytes, checking, folding and committing costs.
#include <signal.h>
#include <unistd.h>

#include <algorithm>

#include "bench.h"
#include "common/digest.h"
#include "common/subprocess.h"
#include "light_devices.h"
#include "tests/bench/transport/bench_transport.h"

namespace heddle::bench {
namespace {

std::string MedianNote(size_t count, const std::string& of) { return "median of " + std::to_string(count) + " " + of; }

Result<double> PeakMb(LightDevices& devices) {
  HEDDLE_ASSIGN_OR_RETURN(const ProcessMemory memory, ReadProcessMemory(devices.fleet().coordinator_process().pid()));
  return static_cast<double>(memory.peak_rss_bytes) / kMb;
}

// 10 devices and 16 MiB both ways, in turns with bare streams that move the same bytes.
Result<Findings> RoundTrip(const Context& context) {
  constexpr int kDevices = 10, kRuns = 11;
  LightDevices devices(context, context.work / "trip", kDevices);
  HEDDLE_RETURN_IF_ERROR(devices.StartCoordinator());
  HEDDLE_RETURN_IF_ERROR(devices.Submit(ShapeOf16MiB(), kRuns + 1));
  HEDDLE_RETURN_IF_ERROR(devices.Round().status());  // connections, caches: not counted
  RoundTripOptions bare;
  bare.devices = kDevices;
  bare.directory = context.work / "trip";
  bare.pki = devices.pki();
  bare.blob = context.work / "trip" / "update-0";
  bare.bytes = std::filesystem::file_size(bare.blob);
  std::vector<double> bare_seconds, trip, whole, cpu;
  for (int i = 0; i < kRuns; ++i) {
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, Sha256File(bare.blob));
    bare.blob_hex = digest.ToHex();
    bare.tag = std::to_string(i) + "-";  // new files, like the coordinator's
    ::sync();                            // each side begins with a disk that has nothing else to write
    const RoundTripTime streams = RunBareTls(bare);
    bare_seconds.push_back(streams.wall);
    HEDDLE_ASSIGN_OR_RETURN(const RoundTime time, devices.Round());
    trip.push_back(time.trip);
    whole.push_back(time.whole);
    cpu.push_back(time.cpu / streams.cpu);
  }
  Findings found;
  const std::string note = MedianNote(kRuns, "rounds");
  found.values["round-trip-rate"] = {Median(bare_seconds) / Median(trip), note + ", in turns with bare streams"};
  found.values["round-trip"] = {Median(trip), note};
  found.values["round-trip-bare"] = {Median(bare_seconds), note};
  found.values["round-trip-cpu"] = {Median(cpu), note};
  found.values["round-committed"] = {Median(whole), note};
  HEDDLE_RETURN_IF_ERROR(devices.Stop());
  return found;
}

Result<Findings> EmptyRound(const Context& context) {
  constexpr int kRounds = 101;
  LightDevices devices(context, context.work / "empty", 2);
  HEDDLE_RETURN_IF_ERROR(devices.StartCoordinator());
  HEDDLE_RETURN_IF_ERROR(devices.Submit(ShapeOf1KiB(), kRounds));
  std::vector<double> seconds;
  for (int i = 0; i < kRounds; ++i) {
    HEDDLE_ASSIGN_OR_RETURN(const RoundTime time, devices.Round());
    if (i > 0) seconds.push_back(time.whole);
  }
  Findings found;
  found.values["empty-round"] = {1e3 * Median(seconds), MedianNote(seconds.size(), "rounds")};
  HEDDLE_RETURN_IF_ERROR(devices.Stop());
  return found;
}

Result<double> PeakOf(const Context& context, const std::string& name, int devices, const SyntheticShape& shape) {
  constexpr uint32_t kRounds = 2;
  LightDevices light(context, context.work / name, devices);
  HEDDLE_RETURN_IF_ERROR(light.StartCoordinator());
  HEDDLE_RETURN_IF_ERROR(light.Submit(shape, kRounds));
  for (uint32_t i = 0; i < kRounds; ++i) HEDDLE_RETURN_IF_ERROR(light.Round().status());
  HEDDLE_ASSIGN_OR_RETURN(const double peak, PeakMb(light));
  HEDDLE_RETURN_IF_ERROR(light.Stop());
  std::error_code ignored;
  std::filesystem::remove_all(context.work / name, ignored);
  return peak;
}

// Peaks of a whole life: start, submission and two rounds. A peak has no median; the largest of two lives counts.
Result<Findings> PeakMemory(const Context& context) {
  double ten = 0, large = 0, fifty = 0;
  for (int life = 0; life < 2; ++life) {
    HEDDLE_ASSIGN_OR_RETURN(const double a, PeakOf(context, "peak-10x16", 10, ShapeOf16MiB()));
    HEDDLE_ASSIGN_OR_RETURN(const double b, PeakOf(context, "peak-50x16", 50, ShapeOf16MiB()));
    HEDDLE_ASSIGN_OR_RETURN(const double c, PeakOf(context, "peak-10x64", 10, ShapeOf64MiB()));
    ten = std::max(ten, a);
    fifty = std::max(fifty, b);
    large = std::max(large, c);
  }
  Findings found;
  const std::string note = "VmHWM, the larger of 2 runs of 2 rounds";
  found.values["memory-10x16"] = {ten, note};
  found.values["memory-50x16"] = {fifty, note};
  found.values["memory-10x64"] = {large, note};
  found.values["memory-50-to-10"] = {fifty / ten, note};
  return found;
}

}  // namespace

std::vector<Measurement> RoundMeasurements() {
  return {
      {"spine",
       {{"round-trip-rate", "round trip, 10 x 16 MiB: rate kept of bare TLS", "ratio", 0.8, true},
        {"round-trip", "the same in seconds, to the last upload's receipt", "s", 0.7, false},
        {"round-trip-bare", "bare TLS streams, the same bytes", "s", std::nullopt, false},
        {"round-committed", "the same round, to its commit", "s", std::nullopt, false},
        {"round-trip-cpu", "its processor time, commit included, to that of bare TLS", "ratio", std::nullopt, false}},
       RoundTrip},
      {"spine", {{"empty-round", "round with nothing to do, 2 x 1 KiB", "ms", 20, false}}, EmptyRound},
      {"spine",
       {{"memory-10x16", "coordinator's peak memory, 10 x 16 MiB", "MB", 150, false},
        {"memory-50x16", "coordinator's peak memory, 50 x 16 MiB", "MB", 150, false},
        {"memory-50-to-10", "the same with 50 devices as with 10", "ratio", 1.1, false},
        {"memory-10x64", "coordinator's peak memory, 10 x 64 MiB", "MB", 300, false}},
       PeakMemory},
  };
}

}  // namespace heddle::bench
