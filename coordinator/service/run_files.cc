#include "coordinator/service/run_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cmath>
#include <set>
#include <utility>

#include "aggregation/device_rules.h"
#include "aggregation/figures.h"
#include "aggregation/ledger/ledger_model.h"
#include "aggregation/privacy/accountant.h"
#include "common/build_info.h"
#include "common/file.h"
#include "common/safetensors.h"
#include "common/test_hooks.h"
#include "coordinator/recipe/checkpoint.h"
#include "coordinator/service/run_json.h"
#include "peft/adapter/base_model.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

// JSON has no NaN; a device may report one.
json::value Number(double value) { return std::isfinite(value) ? json::value(value) : json::value(nullptr); }

json::object DeviceJson(const AssignmentRecord& a) {
  json::object out = {{"device", a.device.value()}, {"state", StateName(a.state)}};
  if (a.layers > 0) out["layers"] = a.layers;
  if (a.state == AssignmentState::kAccepted) {
    out["num_examples"] = a.metrics.num_examples;
    out["num_tokens"] = a.metrics.num_tokens;
    out["steps"] = a.metrics.steps;
    if (a.metrics.steps > 0) {
      out["train_loss"] = Number(a.metrics.train_loss);
      out["first_loss"] = Number(a.metrics.first_loss);
      out["last_loss"] = Number(a.metrics.last_loss);
    }
    out["train_seconds"] = Number(a.metrics.train_seconds);
    out["peak_memory_bytes"] = a.metrics.peak_memory_bytes;
    out["update_sha256"] = a.update.ToHex();
    out["update_bytes"] = a.update_bytes;
    out["seconds"] = ToSeconds(a.reported_at - a.issued_at);
  }
  if (!a.message.empty()) out["message"] = a.message;
  return out;
}

json::value ParsedOrNull(const std::string& text) {
  json::error_code error;
  json::value value = json::parse(text, error);
  return error ? json::value(nullptr) : value;
}

json::object BudgetJson(const privacy::Budget& budget) {
  return {{"rho_of_a_report", budget.rho_report},
          {"epsilon_of_a_report", budget.epsilon_report},
          {"rho_of_the_run", budget.rho_run},
          {"epsilon_of_the_run", budget.epsilon_run}};
}

// What the noise of a resolved recipe guarantees; null where devices add none.
json::value GuaranteeJson(const json::value& recipe, uint32_t rounds) {
  const auto number = [&recipe](const char* pointer, double otherwise) {
    json::error_code error;
    const json::value* value = recipe.find_pointer(pointer, error);
    const auto read = value == nullptr ? otherwise : value->to_number<double>(error);
    return error ? otherwise : read;
  };
  const double noise = number("/privacy/noise_multiplier", 0);
  if (!(noise > 0)) return nullptr;
  const auto guarantee = privacy::GuaranteeOf(noise, rounds, number("/privacy/delta", privacy::kDefaultDelta));
  return json::object{{"reports_of_a_device", guarantee.reports},
                      {"delta", guarantee.delta},
                      {"any_data", BudgetJson(guarantee.any_data)},
                      {"zeros", BudgetJson(guarantee.zeros)}};
}

}  // namespace

RoundLosses LossesOf(std::span<const AssignmentRecord> assignments) {
  RoundLosses out;
  for (const AssignmentRecord& a : assignments) {
    if (a.state != AssignmentState::kAccepted) continue;
    ++out.num_accepted;
    if (a.metrics.steps == 0) continue;
    const auto weight = static_cast<double>(a.metrics.num_examples);
    out.num_examples += a.metrics.num_examples;
    out.train_loss += weight * a.metrics.train_loss;
    out.first_loss += weight * a.metrics.first_loss;
    out.last_loss += weight * a.metrics.last_loss;
  }
  if (out.trained()) {
    const auto total = static_cast<double>(out.num_examples);
    out.train_loss /= total;
    out.first_loss /= total;
    out.last_loss /= total;
  }
  return out;
}

std::string HistoryLine(const RoundRecord& round, std::span<const AssignmentRecord> assignments, const Traffic& traffic,
                        const RoundFigures& figures) {
  const RoundLosses losses = LossesOf(assignments);
  const bool committed = round.phase == RoundPhase::kCommitted;
  json::object out = {{"run_id", round.run.value()},
                      {"round", int64_t{round.round}},
                      {"attempt", int64_t{round.attempt}},
                      {"outcome", committed ? "committed" : "abandoned"}};
  if (!round.reason.empty()) out["reason"] = round.reason;
  out["started_at"] = UnixSeconds(round.started_at);
  out["seconds"] = ToSeconds(round.ended_at - round.started_at);
  if (round.selected_at != Time()) out["seconds_selecting"] = ToSeconds(round.selected_at - round.started_at);
  out["parent_sha256"] = round.parent.ToHex();
  if (committed) out["model_sha256"] = round.model.ToHex();
  out["num_assigned"] = assignments.size();
  out["num_accepted"] = losses.num_accepted;
  out["num_examples"] = losses.num_examples;
  if (losses.trained()) {
    out["train_loss"] = Number(losses.train_loss);
    out["first_loss"] = Number(losses.first_loss);
    out["last_loss"] = Number(losses.last_loss);
  }
  for (const auto& [name, value] : figures) out[name] = Number(value);
  out["bytes_down"] = traffic.down;
  out["bytes_up"] = traffic.up;
  json::array devices;
  for (const AssignmentRecord& a : assignments) devices.push_back(DeviceJson(a));
  out["devices"] = std::move(devices);
  return json::serialize(out);
}

RoundFigures FiguresOfModel(const Sha256Digest& model, const BlobStore& blobs) {
  const auto mapped = blobs.Map(model);
  if (!mapped.ok()) return {};
  const auto file = ParseSafetensors((*mapped)->bytes(), *mapped);
  return file.ok() ? aggregation::FiguresOf(file->tensors) : RoundFigures{};
}

std::string RunJson(const RunRecord& run, const RunOrigin& origin, const Traffic& traffic,
                    const std::optional<Sha256Digest>& adapter) {
  json::object out = {{"run_id", run.id.value()},
                      {"state", StateName(run.state)},
                      {"seed", origin.spec.seed},
                      {"rounds", origin.spec.rounds},
                      {"committed_rounds", run.committed_rounds},
                      {"model_sha256", run.model.ToHex()},
                      {"started_at", UnixSeconds(run.started_at)}};
  if (adapter) out["adapter_sha256"] = adapter->ToHex();
  if (run.ended_at != Time()) out["ended_at"] = UnixSeconds(run.ended_at);
  if (!run.reason.empty()) out["reason"] = run.reason;
  out["bytes_down"] = traffic.down;
  out["bytes_up"] = traffic.up;
  out["version"] = VersionString();
  out["material"] = ParsedOrNull(origin.material_json);
  out["recipe"] = ParsedOrNull(origin.resolved_json);
  json::value guarantee = GuaranteeJson(out["recipe"], origin.spec.rounds);
  if (!guarantee.is_null()) out["privacy"] = std::move(guarantee);
  return json::serialize(out) + "\n";
}

fs::path RunFiles::CheckpointFolder(const fs::path& run_folder, uint32_t round) {
  return run_folder / "checkpoints" / ("round-" + std::to_string(round));
}

Result<Sha256Digest> RunFiles::AdapterDigest(const fs::path& run_folder, uint32_t round) {
  return Sha256File(CheckpointFolder(run_folder, round) / kAdapterFile);
}

Status RunFiles::Make() {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder_ / "checkpoints"));
  HEDDLE_RETURN_IF_ERROR(SyncDirectory(folder_));
  return SyncDirectory(folder_.parent_path());
}

Status RunFiles::WriteRun(const RunRecord& run, const RunOrigin& origin, const Traffic& traffic) {
  const auto digest = AdapterDigest(folder_, run.committed_rounds);
  if (run.state != RunState::kRunning) {
    // A folder that tells the end is never looked at again.
    std::error_code error;
    if (fs::exists(HistoryPath(), error)) {
      const Status synced = SyncFile(HistoryPath());
      if (!synced.ok()) unsynced_ = true;
      HEDDLE_RETURN_IF_ERROR(synced);
    }
    HEDDLE_RETURN_IF_ERROR(SyncDirectory(folder_ / "checkpoints"));
    if (!digest.ok() && fs::exists(CheckpointFolder(folder_, run.committed_rounds), error)) return digest.status();
  }
  const std::optional<Sha256Digest> adapter = digest.ok() ? std::optional(*digest) : std::nullopt;
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(folder_ / "run.json", RunJson(run, origin, traffic, adapter)));
  HEDDLE_FAILPOINT(kRunFileWritten);
  return OkStatus();
}

Status RunFiles::AppendHistory(const RoundRecord& round, const std::string& line) {
  const fs::path path = HistoryPath();
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open " + path.string());
  HEDDLE_RETURN_IF_ERROR(WriteAll(fd.get(), line + "\n", "cannot write " + path.string()));
  if (told_) {
    told_->bytes += line.size() + 1;
    told_->last = {round.round, round.attempt};
  }
  HEDDLE_FAILPOINT(kHistoryWritten);
  return OkStatus();
}

namespace {

// The model itself, or what its ledger stands for.
Result<StateDict> AdapterOf(const StateDict& model, const BlobStore& blobs) {
  if (!aggregation::HoldsLedger(model)) return model;
  HEDDLE_ASSIGN_OR_RETURN(const zo::Ledger ledger, aggregation::LedgerOf(model));
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile start, ReadSafetensors(blobs.Path(ledger.head.start)));
  return aggregation::ReplayLedger(start.tensors, ledger, 1);
}

// The folder's two files. A model that is an adapter already is copied, not read.
Status WriteAdapter(const Sha256Digest& model, const std::string& adapter_config_json, const BlobStore& blobs,
                    const fs::path& folder) {
  const fs::path config = folder / "adapter_config.json", tensors = folder / kAdapterFile;
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile file, ReadSafetensors(blobs.Path(model)));
  const auto own = file.tensors.lower_bound(aggregation::kOwnPrefix);
  if (own != file.tensors.end() && own->first.starts_with(aggregation::kOwnPrefix)) {
    HEDDLE_ASSIGN_OR_RETURN(const StateDict whole, AdapterOf(file.tensors, blobs));
    HEDDLE_ASSIGN_OR_RETURN(const Checkpoint checkpoint, MakeCheckpoint(whole, adapter_config_json));
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(config, checkpoint.adapter_config_json));
    return WriteSafetensors(tensors, checkpoint.tensors);
  }
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(config, adapter_config_json));
  std::error_code error;
  fs::copy_file(blobs.Path(model), tensors, error);
  if (error) return ErrnoStatus(error.value(), "cannot write " + tensors.string());
  fs::permissions(tensors, fs::perms(0644), error);
  return SyncFile(tensors);
}

}  // namespace

Status RunFiles::WriteCheckpoint(uint32_t round, const std::string& adapter_config_json, const Sha256Digest& model,
                                 const BlobStore& blobs) {
  const fs::path final = CheckpointFolder(folder_, round);
  const fs::path temporary = final.string() + ".tmp";
  std::error_code error;
  fs::remove_all(temporary, error);
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(temporary));
  HEDDLE_RETURN_IF_ERROR(WriteAdapter(model, adapter_config_json, blobs, temporary));
  if (!base_model_json_.empty()) {
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(temporary / peft::kBaseModelFile, base_model_json_));
  }
  HEDDLE_FAILPOINT(kCheckpointHalf);
  fs::remove_all(final, error);
  HEDDLE_RETURN_IF_ERROR(RenameDurably(temporary, final));
  HEDDLE_FAILPOINT(kCheckpointWritten);
  return OkStatus();
}

}  // namespace heddle::coordinator
