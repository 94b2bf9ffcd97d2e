#include "history.h"

#include <boost/json.hpp>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>

#include "common/file.h"

namespace heddle::bench {
namespace {

namespace json = boost::json;

Result<std::vector<json::object>> ReadHistory(const std::filesystem::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(folder / "history.jsonl"));
  std::vector<json::object> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    json::error_code error;
    json::value line = json::parse(std::string_view(text).substr(begin, end - begin), error);
    if (error || !line.is_object()) return DataLoss("history.jsonl has a line that is no object");
    lines.push_back(std::move(line.get_object()));
    begin = end + 1;
  }
  return lines;
}

}  // namespace

Result<std::vector<json::object>> HistoryOfTheRun(LightDevices& devices) {
  for (int i = 0; i < 600; ++i) {
    HEDDLE_RETURN_IF_ERROR(devices.fleet().CheckAlive());
    HEDDLE_ASSIGN_OR_RETURN(const json::object run, devices.fleet().admin().Get("/v1/runs/" + devices.run_id()));
    if (run.at("state") == "complete") return ReadHistory(json::value_to<std::string>(run.at("folder")));
    if (run.at("state") != "running") return Internal("the run ended so: " + json::serialize(run));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return DeadlineExceeded("the run did not end");
}

}  // namespace heddle::bench
