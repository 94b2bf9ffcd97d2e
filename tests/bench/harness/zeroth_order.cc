// Zeroth-order steps: what they cost beyond the forward passes that they are made of.
#include <boost/json.hpp>
#include <filesystem>

#include "bench.h"
#include "programs.h"

namespace heddle::bench {
namespace {

Result<Findings> Directions(const Context& context) {
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value rows,
                          RunForJson({(context.bin / "heddle_bench_directions").string()}, context.work / "zo.log"));
  Findings found;
  for (const char* id : {"rademacher", "normal", "rademacher_grid", "normal_grid"}) {
    HEDDLE_ASSIGN_OR_RETURN(const double value, ValueOf(rows, id));
    std::string row = "zo-direction-" + std::string(id);
    if (const size_t at = row.find('_'); at != std::string::npos) row[at] = '-';
    found.values[row] = {value, "median of 7, one thread, 64 M weights"};
  }
  for (const char* distribution : {"rademacher", "normal"}) {
    HEDDLE_ASSIGN_OR_RETURN(const double value, ValueOf(rows, std::string(distribution) + "_rebuild"));
    found.values["zo-rebuild-" + std::string(distribution)] = {
        value, "4 096 seeds (normal: 256) in one pass over 100 M weights, one thread; of seed by seed 64, median of 3"};
  }
  return found;
}

Result<Findings> Steps(const Context& context) {
  const std::filesystem::path program = context.bin / "heddle_bench_zo";
  Findings found;
  if (!std::filesystem::exists(program)) {
    for (const char* id : {"zo-step-memory", "zo-step-time-rademacher", "zo-step-time-normal", "zo-front"}) {
      found.skipped[id] = "this build has no LibTorch";
    }
    return found;
  }
  const auto run = [&](const std::string& what) {
    return RunForJson({program.string(), "--what", what}, context.work / "zo.log");
  };
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value forward, run("forward"));
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value step, run("step"));
  HEDDLE_ASSIGN_OR_RETURN(const double of_forward, ValueOf(forward, "peak_mb"));
  HEDDLE_ASSIGN_OR_RETURN(const double of_step, ValueOf(step, "peak_mb"));
  found.values["zo-step-memory"] = {of_step / of_forward, "peak of a process each, 110 M parameters, 16 x 128 tokens"};
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value times, run("time"));
  for (const char* id : {"rademacher", "normal"}) {
    HEDDLE_ASSIGN_OR_RETURN(const double value, ValueOf(times, id));
    found.values["zo-step-time-" + std::string(id)] = {value, "median of 3, all weights trained, 16 x 128 tokens"};
  }
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value front, run("front"));
  HEDDLE_ASSIGN_OR_RETURN(const double faster, ValueOf(front, "classifier"));
  found.values["zo-front"] = {faster, "median of 3; 6 layers of 384, 8 x 32 tokens, the last layer trained"};
  return found;
}

Result<Findings> Bytes(const Context& context) {
  Findings found;
  const auto run = [&](const std::string& method, int devices, int rounds) {
    const std::filesystem::path folder = context.work / ("bytes-" + method);
    std::filesystem::create_directories(folder);
    return RunForJson({(context.bin / "heddle_bench_ledger_bytes").string(), "--folder", folder.string(), "--base",
                       (context.source / "model/pretrained/heddle-tiny").string(), "--method", method, "--devices",
                       std::to_string(devices), "--rounds", std::to_string(rounds)},
                      context.work / "zo.log");
  };
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value pool, run("FedKSeed", 20, 5));
  HEDDLE_ASSIGN_OR_RETURN(const double round, ValueOf(pool, "round"));
  found.values["zo-fedkseed-bytes"] = {round, "the fifth round, check-in and TLS included"};
  HEDDLE_ASSIGN_OR_RETURN(const boost::json::value log, run("DeComFL", 2, 1000));
  HEDDLE_ASSIGN_OR_RETURN(const double all, ValueOf(log, "run"));
  HEDDLE_ASSIGN_OR_RETURN(const double last, ValueOf(log, "round"));
  found.values["zo-decomfl-bytes"] = {
      all, "ten directions a round; the last round " + std::to_string(static_cast<int>(last)) + " bytes"};
  return found;
}

}  // namespace

std::vector<Measurement> ZerothOrderMeasurements() {
  return {
      {"zo",
       {{"zo-direction-rademacher", "making and adding a Rademacher direction: rate kept of memcpy", "ratio", 0.5,
         true},
        {"zo-direction-normal", "the same, normal", "ratio", 0.15, true},
        {"zo-direction-rademacher-grid", "flipping a Rademacher direction on the grid: rate kept of memcpy", "ratio",
         std::nullopt, true},
        {"zo-direction-normal-grid", "the same, normal", "ratio", std::nullopt, true},
        {"zo-rebuild-rademacher", "weights rebuilt from many seeds in one pass: times faster than seed by seed",
         "ratio", 3.0, true},
        {"zo-rebuild-normal", "the same, normal: making the directions is the work", "ratio", std::nullopt, true}},
       Directions},
      {"zo",
       {{"zo-fedkseed-bytes", "all on a device's socket in a round of FedKSeed, K = 4 096, 200 directions, 20 devices",
         "B", 6000, false},
        {"zo-decomfl-bytes", "all on a device's socket in 1 000 rounds of DeComFL, the first adapter included", "B",
         1e6, false}},
       Bytes},
      {"zo",
       {{"zo-step-memory", "memory of a two-sided step, to inference of the same batch", "ratio", 1.05, false},
        {"zo-step-time-rademacher", "time of a two-sided step, to two forward passes", "ratio", 1.10, false},
        {"zo-step-time-normal", "the same with normal directions", "ratio", 1.20, false},
        {"zo-front", "a forward pass behind frozen layers: times faster than a whole one", "ratio", std::nullopt,
         true}},
       Steps}};
}

}  // namespace heddle::bench
