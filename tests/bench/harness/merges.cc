// Low-rank merges of 64 updates, each in a process of its own, so that its peak of memory is its own.
#include <boost/json.hpp>

#include "bench.h"
#include "programs.h"

namespace heddle::bench {
namespace {

struct Merge {
  std::string method, seconds, peak;  // ids of the rows
};
const std::vector<Merge> kMerges = {{"FLoRA", "merge-flora", "merge-flora-peak"},
                                    {"FlexLoRA", "merge-flex", "merge-flex-peak"},
                                    {"FedEx-LoRA", "merge-fedex", "merge-fedex-peak"}};

Result<Findings> Merges(const Context& context) {
  Findings found;
  for (const Merge& merge : kMerges) {
    HEDDLE_ASSIGN_OR_RETURN(const boost::json::value rows,
                            RunForJson({(context.bin / "heddle_bench_low_rank").string(), "--method", merge.method,
                                        "--layers", "22", "--scratch", context.work.string(), "--json"},
                                       context.work / "low_rank.log"));
    HEDDLE_ASSIGN_OR_RETURN(const double seconds, ValueOf(rows, "merge.seconds"));
    HEDDLE_ASSIGN_OR_RETURN(const double peak, ValueOf(rows, "merge.peak"));
    found.values[merge.seconds] = {seconds, "all 22 layers, by the wall's clock, once"};
    found.values[merge.peak] = {peak, "the whole process"};
  }
  return found;
}

}  // namespace

std::vector<Measurement> MergeMeasurements() {
  std::vector<RowSpec> rows;
  for (const Merge& merge : kMerges) {
    rows.push_back({merge.seconds, merge.method + " of 64 updates of rank 16 for a model of 1.1 B", "s", std::nullopt});
    rows.push_back({merge.peak, "its peak of memory", "MB", std::nullopt});
  }
  return {{"peft", rows, Merges}};
}

}  // namespace heddle::bench
