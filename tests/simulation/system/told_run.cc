#include "tests/simulation/system/told_run.h"

#include <boost/json.hpp>
#include <sstream>

#include "common/file.h"
#include "coordinator/service/run_files.h"
#include "coordinator/service/run_json.h"

namespace heddle::system_simulation {

namespace json = boost::json;
using coordinator::RoundPhase;
using coordinator::RoundRecord;

namespace {

// Whether a line of JSON has this at its top.
bool Tells(const json::value& line, const char* key, const json::value& what) {
  const json::object* object = line.if_object();
  const json::value* found = object == nullptr ? nullptr : object->if_contains(key);
  return found != nullptr && *found == what;
}

json::value Parsed(const std::string& text) {
  json::error_code error;
  json::value value = json::parse(text, error);
  return error ? json::value() : value;
}

}  // namespace

std::optional<std::string> MistakeInFolder(const std::filesystem::path& folder, const coordinator::RunRecord& run,
                                           std::span<const RoundRecord> rounds, bool model_is_adapter) {
  const auto text = ReadFile(folder / "history.jsonl");
  std::istringstream history(text.ok() ? *text : "");
  std::string line;
  for (const RoundRecord& round : rounds) {
    const std::string name = "round " + std::to_string(round.round) + ", attempt " + std::to_string(round.attempt);
    const bool committed = round.phase == RoundPhase::kCommitted;
    if (!std::getline(history, line)) return "the history ends before " + name;
    const json::value value = Parsed(line);
    if (!Tells(value, "round", round.round) || !Tells(value, "attempt", round.attempt) ||
        !Tells(value, "outcome", committed ? "committed" : "abandoned")) {
      return "the history does not tell of " + name + " in its place: " + line;
    }
    if (!committed) continue;
    const auto adapter = coordinator::RunFiles::AdapterDigest(folder, round.round);
    if (!adapter.ok()) return "there is no checkpoint of " + name + ": " + adapter.status().message();
    if (model_is_adapter && *adapter != round.model) return "the checkpoint is not the model of " + name;
  }
  if (std::getline(history, line)) return "the history tells more than there was: " + line;
  const auto told = ReadFile(folder / "run.json");
  if (!told.ok()) return "there is no run.json: " + told.status().message();
  if (!Tells(Parsed(*told), "state", json::value(coordinator::StateName(run.state))))
    return "run.json does not tell the end: " + *told;
  return std::nullopt;
}

}  // namespace heddle::system_simulation
