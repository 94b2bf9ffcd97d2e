// The rows of `./run bench` and what measures them. A Measurement makes one row or several in one go; rows that compare
// take their two sides in turns inside it, and every figure is a median unless its note says otherwise.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"

namespace heddle::bench {

inline constexpr double kMb = 1e6;  // bytes

struct Context {
  std::filesystem::path bin;     // folder of the programs
  std::filesystem::path work;    // scratch, on the disk that is measured; emptied after each measurement
  std::filesystem::path source;  // the source tree
  std::filesystem::path demo;    // where ./run demo leaves its summary.json
};

struct RowSpec {
  std::string id, what, unit;
  std::optional<double> target;
  bool higher_is_better = false;
};

struct Value {
  double value = 0;
  std::string note;  // how it was taken: "median of 9 rounds"
};

// What a measurement found. A row that is in neither map was forgotten: an error of the harness.
struct Findings {
  std::map<std::string, Value> values;
  std::map<std::string, std::string> skipped;  // id -> what to do to get it
};

struct Measurement {
  std::string group;
  std::vector<RowSpec> rows;
  std::function<Result<Findings>(const Context&)> run;
};

// Of a non-empty list.
double Median(std::vector<double> values);

// Processor time that the threads of a process have used so far, in seconds. Errors: kNotFound.
Result<double> ProcessorSeconds(int pid);

// Raises the limit of descriptors, for this process and those it starts. Errors: kResourceExhausted below `wanted`.
Status AllowDescriptors(unsigned wanted);

std::vector<Measurement> RoundMeasurements();        // rounds.cc: real coordinator, light devices
std::vector<Measurement> LoadMeasurements();         // load.cc: many small things at once
std::vector<Measurement> IdleMeasurements();         // idle.cc: memory and processor time of those who wait
std::vector<Measurement> SoakMeasurements();         // soak.cc: a thousand rounds
std::vector<Measurement> ModelMeasurements();        // models.cc: models of real sizes
std::vector<Measurement> ProgramMeasurements();      // programs.cc: figures of other programs
std::vector<Measurement> TokenizerMeasurements();    // tokenizers.cc: text to ids
std::vector<Measurement> CompressionMeasurements();  // compression.cc: smaller updates
std::vector<Measurement> MergeMeasurements();        // merges.cc: low-rank merges of many updates
std::vector<Measurement> PartMeasurements();         // parts.cc: training on a part of a model
std::vector<Measurement> ZerothOrderMeasurements();  // zeroth_order.cc: training with forward passes only
std::vector<Measurement> SplitMeasurements();        // split_learning.cc: a model in two halves

}  // namespace heddle::bench
