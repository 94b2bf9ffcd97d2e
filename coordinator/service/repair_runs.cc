// RepairEndedRuns of run_core.h.
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

Status RepairEndedRun(const RunCoreOptions& options, const RunId& id, const std::filesystem::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(const StoredRun stored, options.store->GetRun(id));
  Submission submission;
  RunMaterial material;
  HEDDLE_RETURN_IF_ERROR(ReadMaterialJson(stored.origin.material_json, &submission, &material));
  RunFiles files(folder, BaseModelJsonOf(material));
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder / "checkpoints"));
  HEDDLE_RETURN_IF_ERROR(files.Repair(stored, *options.store, *options.blobs, material.adapter_config_json));
  return files.WriteRun(stored.run, stored.origin, {});
}

}  // namespace

bool RepairEndedRuns(const RunCoreOptions& options) {
  const auto runs = options.store->ListRuns();
  if (!runs.ok()) {
    Log(Severity::kWarning, "runs cannot be listed", {{"error", runs.status().message()}});
    return false;
  }
  bool whole = true;
  for (const RunRecord& run : *runs) {
    const std::filesystem::path folder = options.runs_folder / run.id.value();
    if (run.state == RunState::kRunning || TellsTheEnd(folder / "run.json", run)) continue;
    const Status repaired = RepairEndedRun(options, run.id, folder);
    if (repaired.ok()) {
      Log(Severity::kInfo, "the folder of an ended run was written anew", {{"run_id", run.id.value()}});
    } else {
      Log(Severity::kWarning, "the folder of an ended run could not be written",
          {{"run_id", run.id.value()}, {"error", repaired.message()}});
      whole = false;
    }
  }
  return whole;
}

}  // namespace heddle::coordinator
