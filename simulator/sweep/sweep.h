// Many runs of one recipe: every combination of some settings, each with every seed, as a table of means and spreads.
// What a run is, is the caller's business; this is the arithmetic and the table.
//
// Thread-safety: functions of their arguments.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"

namespace heddle::simulator {

// One combination of settings.
struct SweepCell {
  std::string name;                              // "strategy.name=FedAvg lora.r=4"; "" when nothing is varied
  std::map<std::string, std::string> overrides;  // key -> value
};

// Every combination of `vary`, each "key=value,value,…"; a comma inside [ ], { } or " " belongs to the value. The last
// key changes fastest. Errors: kInvalidArgument: no key or value, a key that stands twice, more than 10 000
// combinations.
Result<std::vector<SweepCell>> MakeCells(const std::vector<std::string>& vary);

// "1,2,3" or "1-5", mixed. Errors: kInvalidArgument: something else, one twice, more than 1000.
Result<std::vector<uint64_t>> ParseSeeds(const std::string& text);

// Where a sweep into `out` puts a run.
std::filesystem::path FolderOf(const std::filesystem::path& out, size_t cell, uint64_t seed);

// That `out` holds no run of an earlier sweep beside those that a sweep of so many cells replaces: it would be taken
// for one of them. Errors: kInvalidArgument, with its folder.
Status CheckOldRuns(const std::filesystem::path& out, size_t cells, const std::vector<uint64_t>& seeds);

// What one run gave, by name, in the order of the columns; or why it gave nothing.
struct SweepRun {
  size_t cell = 0;
  uint64_t seed = 0;
  std::vector<std::pair<std::string, double>> figures;
  std::string error;
};

// Of the runs of a cell that have the figure. The deviation is that of a sample (n - 1); NaN for one run.
struct Spread {
  size_t runs = 0;
  double mean = 0, deviation = 0, least = 0, most = 0;
};
Spread SpreadOf(const std::vector<SweepRun>& runs, size_t cell, const std::string& figure);

// A line a cell and a column a figure, "mean ± deviation"; runs that failed are told below it.
std::string SweepTable(const std::vector<SweepCell>& cells, const std::vector<SweepRun>& runs);
// {"cells": [{"name", "settings", "figures": {name: {"mean", "deviation", "min", "max", "runs"}}}], "runs": [...]}.
std::string SweepJson(const std::vector<SweepCell>& cells, const std::vector<SweepRun>& runs);

}  // namespace heddle::simulator
