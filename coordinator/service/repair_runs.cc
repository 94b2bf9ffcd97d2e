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

}  // namespace

std::set<RunId> UntoldRuns(const RunCoreOptions& options) {
  std::set<RunId> untold;
  const auto runs = options.store->ListRuns();
  if (!runs.ok()) {
    Log(Severity::kWarning, "runs cannot be listed", {{"error", runs.status().message()}});
    return untold;
  }
  for (const RunRecord& run : *runs) {
    const std::filesystem::path folder = options.runs_folder / run.id.value();
    std::error_code error;
    const bool there = std::filesystem::is_directory(folder, error);
    if (there && run.state != RunState::kRunning && !TellsTheEnd(folder / "run.json", run)) untold.insert(run.id);
  }
  return untold;
}

Status RepairEndedRun(const RunCoreOptions& options, const RunId& id) {
  HEDDLE_ASSIGN_OR_RETURN(const StoredRun stored, options.store->GetRun(id));
  Submission submission;
  RunMaterial material;
  HEDDLE_RETURN_IF_ERROR(ReadMaterialJson(stored.origin.material_json, &submission, &material));
  RunFiles files(options.runs_folder / id.value(), BaseModelJsonOf(material));
  HEDDLE_RETURN_IF_ERROR(files.Repair(id, *options.store, *options.blobs, material.adapter_config_json).status());
  return files.WriteRun(stored.run, stored.origin, {});
}

}  // namespace heddle::coordinator
