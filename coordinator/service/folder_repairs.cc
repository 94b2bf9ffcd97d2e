#include "coordinator/service/folder_repairs.h"

#include <algorithm>
#include <boost/json.hpp>
#include <iterator>
#include <set>
#include <utility>

#include "common/file.h"
#include "common/logging.h"
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

Result<std::set<RunId>> UntoldRuns(const RunCoreOptions& options) {
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<RunRecord> runs, options.store->ListRuns());
  std::set<RunId> untold;
  for (const RunRecord& run : runs) {
    if (run.state == RunState::kRunning || IsThrownAway(options, run.id)) continue;
    if (!TellsTheEnd(options.runs_folder / run.id.value() / "run.json", run)) untold.insert(run.id);
  }
  return untold;
}

// A row that nothing can be read from stays so: such a run ended as failed, and its folder tells as much as it can.
bool IsPermanent(Code code) { return code == Code::kDataLoss || code == Code::kNotFound; }

Status RepairFolder(const RunCoreOptions& options, const RunId& id) {
  if (IsThrownAway(options, id)) return OkStatus();
  const Result<StoredRun> found = options.store->GetRun(id);
  Submission submission;
  RunMaterial material;
  const Status read =
      found.ok() ? ReadMaterialJson(found->origin.material_json, &submission, &material) : found.status();
  if (IsPermanent(read.code())) {
    Log(Severity::kError, "the folder of an ended run cannot be written: what is stored of the run is damaged",
        {{"run_id", id.value()}, {"error", read.message()}});
    return OkStatus();
  }
  HEDDLE_RETURN_IF_ERROR(read);
  const StoredRun& stored = *found;
  RunFiles files(options.runs_folder / id.value(), BaseModelJsonOf(material));
  HEDDLE_RETURN_IF_ERROR(files.Repair(id, *options.store, *options.blobs, material.adapter_config_json).status());
  HEDDLE_RETURN_IF_ERROR(files.WriteRun(stored.run, stored.origin, {}));
  Log(Severity::kInfo, "the folder of an ended run was written anew", {{"run_id", id.value()}});
  return OkStatus();
}

}  // namespace

void FolderRepairs::Add(const RunId& run, std::string why) {
  untold_[run] = std::move(why);
  pause_ = kMinPause;
  next_ = options_.clock->Now();
}

void FolderRepairs::Tick() {
  const Time now = options_.clock->Now();
  // Later than it can be: the clock was set back.
  if (!next_ || (*next_ > now && *next_ <= now + pause_)) return;
  if (!listed_) {
    const auto untold = UntoldRuns(options_);
    listed_ = untold.ok();
    if (listed_) {
      for (const RunId& run : *untold) untold_.try_emplace(run, "not tried yet");
    }
  }
  for (auto run = untold_.begin(); run != untold_.end();) {
    const Status repaired = RepairFolder(options_, run->first);
    if (!repaired.ok()) {
      run->second = repaired.message();
      Log(Severity::kWarning, "the folder of an ended run could not be written; it is tried again",
          {{"run_id", run->first.value()}, {"error", repaired.message()}});
    }
    run = repaired.ok() ? untold_.erase(run) : std::next(run);
  }
  next_.reset();
  if (listed_ && untold_.empty()) return;
  next_ = options_.clock->Now() + pause_;
  pause_ = std::min<Duration>(2 * pause_, kMaxPause);
}

}  // namespace heddle::coordinator
