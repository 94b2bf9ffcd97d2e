// Training on a part of a model: figures of heddle_bench_parts.
#include <boost/json.hpp>

#include "bench.h"
#include "programs.h"

namespace heddle::bench {

namespace json = boost::json;

std::vector<Measurement> PartMeasurements() {
  std::vector<RowSpec> rows = {
      {"submodel-step", "step on 3 of 12 layers (FedBFPT), to the whole model's", "ratio", 0.4, false}};
  const auto run = [](const Context& context) -> Result<Findings> {
    Findings found;
    const std::filesystem::path program = context.bin / "heddle_bench_parts";
    if (!std::filesystem::exists(program)) {
      found.skipped["submodel-step"] = "this build has no LibTorch";
      return found;
    }
    HEDDLE_ASSIGN_OR_RETURN(const json::value printed, RunForJson({program.string()}, context.work / "parts.log"));
    for (const json::value& row : printed.as_array()) {
      const json::object& object = row.as_object();
      found.values[std::string(object.at("id").as_string())] = {object.at("value").to_number<double>(),
                                                                std::string(object.at("note").as_string())};
    }
    return found;
  };
  return {{"split", std::move(rows), run}};
}

}  // namespace heddle::bench
