// Split learning beside the same work without a cut: time of a step, many devices at once, memory of a device, bytes.
#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>

#include "bench.h"
#include "programs.h"

namespace heddle::bench {
namespace {

std::vector<RowSpec> Rows() {
  return {
      {"split-step", "split step over TLS on loopback, to an unsplit step with as many threads", "ratio", 1.15, false},
      {"split-bytes", "bytes of frames at the cut, to the tensors' sizes in their encoding", "ratio", 1.01, false},
      {"split-together", "server on 2 cores, 8 devices at once: samples a second, to one after another", "ratio", 1.5,
       true},
      {"split-together-one", "the same by one thread's processor time", "ratio", {}, true},
      {"split-wait", "longest wait for an answer with 8 at once, to the fair share", "ratio", 1.0, false},
      {"split-memory", "device with 2 of 12 blocks, U-shaped: memory, to LoRA of the whole", "ratio", 0.35, false},
      {"split-memory-kept", "the same without gradient checkpointing on the device", "ratio", {}, false}};
}

using Arguments = std::vector<std::string>;

Arguments operator+(Arguments first, const Arguments& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

std::string RateNote(const std::string& how, double rate) {
  char text[64];
  std::snprintf(text, sizeof text, "; %.1f samples a second at once", rate);
  return "median of 5, in turns, " + how + ", 10 blocks on the server, 1 x 16 tokens a device" + text;
}

Result<Findings> Split(const Context& context) {
  const std::filesystem::path program = context.bin / "heddle_bench_split";
  Findings found;
  if (!std::filesystem::exists(program)) {
    for (const RowSpec& row : Rows()) found.skipped[row.id] = "this build has no LibTorch";
    return found;
  }
  const auto run = [&](const Arguments& arguments) {
    return RunForJson(Arguments{program.string(), "--work", context.work.string()} + arguments,
                      context.work / "split.log");
  };
  // Processor time, so that the figure does not depend on who else computes here.
  const Arguments one_thread = {"--threads", "1", "--processor-time"}, two_threads = {"--threads", "2"};
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value step,
                          run(Arguments{"--what", "step", "--rounds", "5"} + one_thread));
  HEDDLE_ASSIGN_OR_RETURN(const double ratio, ValueOf(step, "step"));
  HEDDLE_ASSIGN_OR_RETURN(const double bytes, ValueOf(step, "bytes"));
  found.values["split-step"] = {ratio, "median of 5, in turns, processor time, 12 blocks of width 768, 4 x 128 tokens"};
  found.values["split-bytes"] = {bytes, "frames both ways, bfloat16"};
  const Arguments together = {"--what", "together", "--batch", "1", "--length", "16", "--rounds", "5"};
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value two, run(together + two_threads));
  HEDDLE_ASSIGN_OR_RETURN(const double of_two, ValueOf(two, "together"));
  HEDDLE_ASSIGN_OR_RETURN(const double rate_of_two, ValueOf(two, "rate"));
  HEDDLE_ASSIGN_OR_RETURN(const double wait, ValueOf(two, "wait"));
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value one, run(together + one_thread));
  HEDDLE_ASSIGN_OR_RETURN(const double of_one, ValueOf(one, "together"));
  HEDDLE_ASSIGN_OR_RETURN(const double rate_of_one, ValueOf(one, "rate"));
  found.values["split-together"] = {of_two, RateNote("two threads, the wall's clock", rate_of_two)};
  found.values["split-together-one"] = {of_one, RateNote("one thread's processor time", rate_of_one)};
  found.values["split-wait"] = {wait, "the longest of all answers; the median of 5, two threads, the wall's clock"};
  const auto peak = [&](const Arguments& more) -> Result<double> {
    HEDDLE_ASSIGN_OR_RETURN(const boost::json::value rows,
                            run(Arguments{"--batch", "8", "--threads", "1", "--what"} + more));
    return ValueOf(rows, "peak_mb");
  };
  HEDDLE_ASSIGN_OR_RETURN(const double of_whole, peak({"whole"}));
  HEDDLE_ASSIGN_OR_RETURN(const double of_device, peak({"device"}));
  HEDDLE_ASSIGN_OR_RETURN(const double of_keeper, peak({"device", "--keep-activations"}));
  const std::string how = "peak of a process each, LoRA, float32 base, 8 x 128 tokens";
  found.values["split-memory"] = {of_device / of_whole, how};
  found.values["split-memory-kept"] = {of_keeper / of_whole, how};
  return found;
}

}  // namespace

std::vector<Measurement> SplitMeasurements() { return {{"split", Rows(), Split}}; }

}  // namespace heddle::bench
