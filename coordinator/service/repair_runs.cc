// UntoldRuns and RepairEndedRun of run_core.h.
#include <boost/json.hpp>

#include "common/file.h"
#include "common/logging.h"
#include "coordinator/service/run_core.h"
#include "coordinator/service/run_json.h"
#include "coordinator/service/run_material_json.h"

namespace heddle::coordinator {

namespace json = boost::json;

namespace {

bool TellsTheEnd(const std::filesystem::path& run_json, const RunRecord& run) {
  const auto text = ReadFile(run_json);
  if (!text.ok()) return false;
  json::error_code error;
  const json::value value = json::parse(*text, error);
  const json::object* object = error ? nullptr : value.if_object();
  const json::value* state = object == nullptr ? nullptr : object->if_contains("state");
  return state != nullptr && state->is_string() && state->get_string() == StateName(run.state) &&
         (run.committed_rounds == 0 || object->contains("adapter_sha256"));
}

// Its folder was there once: an operator made room. Not so when nothing of any run can be seen.
bool IsThrownAway(const RunCoreOptions& options, const RunId& id) {
  std::error_code error;
  if (!std::filesystem::is_directory(options.runs_folder, error)) return false;
  const auto status = std::filesystem::status(options.runs_folder / id.value(), error);
  return status.type() == std::filesystem::file_type::not_found;
}

}  // namespace

Result<std::set<RunId>> UntoldRuns(const RunCoreOptions& options) {
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<RunRecord> runs, options.store->ListRuns());
  std::set<RunId> untold;
  for (const RunRecord& run : runs) {
    if (run.state == RunState::kRunning || IsThrownAway(options, run.id)) continue;
    if (!TellsTheEnd(options.runs_folder / run.id.value() / "run.json", run)) untold.insert(run.id);
  }
  return untold;
}

Status RepairEndedRun(const RunCoreOptions& options, const RunId& id) {
  if (IsThrownAway(options, id)) return OkStatus();
  HEDDLE_ASSIGN_OR_RETURN(const StoredRun stored, options.store->GetRun(id));
  Submission submission;
  RunMaterial material;
  HEDDLE_RETURN_IF_ERROR(ReadMaterialJson(stored.origin.material_json, &submission, &material));
  RunFiles files(options.runs_folder / id.value(), BaseModelJsonOf(material));
  HEDDLE_RETURN_IF_ERROR(files.Repair(id, *options.store, *options.blobs, material.adapter_config_json).status());
  HEDDLE_RETURN_IF_ERROR(files.WriteRun(stored.run, stored.origin, {}));
  Log(Severity::kInfo, "the folder of an ended run was written anew", {{"run_id", id.value()}});
  return OkStatus();
}

}  // namespace heddle::coordinator
