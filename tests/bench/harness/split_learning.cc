// Split learning beside the same work without a cut: time of a step, many devices at once, memory of a device, bytes.
#include <boost/json.hpp>
#include <filesystem>

#include "bench.h"
#include "programs.h"

namespace heddle::bench {
namespace {

Result<Findings> Split(const Context& context) {
  const std::filesystem::path program = context.bin / "heddle_bench_split";
  Findings found;
  if (!std::filesystem::exists(program)) {
    for (const char* id : {"split-step", "split-bytes", "split-together", "split-wait", "split-memory"}) {
      found.skipped[id] = "this build has no LibTorch";
    }
    return found;
  }
  const auto run = [&](const std::vector<std::string>& arguments) {
    std::vector<std::string> argv = {program.string(), "--work", context.work.string(), "--threads", "1"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return RunForJson(argv, context.work / "split.log");
  };
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value step, run({"--what", "step", "--rounds", "5", "--processor-time"}));
  HEDDLE_ASSIGN_OR_RETURN(const double ratio, ValueOf(step, "step"));
  HEDDLE_ASSIGN_OR_RETURN(const double bytes, ValueOf(step, "bytes"));
  found.values["split-step"] = {ratio, "median of 5, in turns, processor time, 12 blocks of width 768, 4 x 128 tokens"};
  found.values["split-bytes"] = {bytes, "frames both ways, bfloat16"};
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value together, run({"--what", "together", "--batch", "1", "--length",
                                                                  "16", "--rounds", "5", "--processor-time"}));
  HEDDLE_ASSIGN_OR_RETURN(const double rate, ValueOf(together, "together"));
  HEDDLE_ASSIGN_OR_RETURN(const double wait, ValueOf(together, "wait"));
  found.values["split-together"] = {
      rate, "median of 5, in turns, processor time, 10 blocks on the server, 1 x 16 tokens a device"};
  found.values["split-wait"] = {wait, "the longest of all answers; the median of 5"};
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value device, run({"--what", "device", "--batch", "8"}));
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value whole, run({"--what", "whole", "--batch", "8"}));
  HEDDLE_ASSIGN_OR_RETURN(const double of_device, ValueOf(device, "peak_mb"));
  HEDDLE_ASSIGN_OR_RETURN(const double of_whole, ValueOf(whole, "peak_mb"));
  found.values["split-memory"] = {of_device / of_whole, "peak of a process each, LoRA, float32 base, 8 x 128 tokens"};
  return found;
}

}  // namespace

std::vector<Measurement> SplitMeasurements() {
  return {
      {"split",
       {{"split-step", "split step over TLS on loopback, to an unsplit step with as many threads", "ratio", 1.15,
         false},
        {"split-bytes", "bytes of frames at the cut, to the tensors' sizes in their encoding", "ratio", 1.01, false},
        {"split-together", "server, 8 devices at once: samples a second, to one after another", "ratio", 1.5, true},
        {"split-wait", "longest wait for an answer with 8 at once, to the fair share", "ratio", 1.0, false},
        {"split-memory", "device with 2 of 12 blocks, U-shaped: memory, to LoRA of the whole", "ratio", 0.35, false}},
       Split}};
}

}  // namespace heddle::bench
