#include "coordinator/admin/commands.h"

#include <unistd.h>

#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <ctime>
#include <fstream>
#include <functional>
#include <iomanip>
#include <thread>

#include "common/file.h"
#include "coordinator/admin/admin_client.h"
#include "coordinator/audit/audit_log.h"
#include "coordinator/engine/engine.h"
#include "coordinator/recipe/recipe.h"
#include "coordinator/service/run_files.h"
#include "coordinator/service/run_json.h"
#include "coordinator/service/secret.h"
#include "coordinator/service/service.h"
#include "coordinator/store/state_lock.h"
#include "coordinator/store/store.h"
#include "protocol/transport/tls.h"

namespace heddle::coordinator {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

std::string Text(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr) return "-";
  if (value->is_string()) return json::value_to<std::string>(*value);
  return json::serialize(*value);
}

std::string TimeText(double unix_seconds) {
  const auto seconds = static_cast<std::time_t>(unix_seconds);
  std::tm parts{};
  if (::gmtime_r(&seconds, &parts) == nullptr) return "-";
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string TimeText(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_number() ? TimeText(value->to_number<double>()) : "-";
}

void PrintJson(const CommandContext& context, const json::value& value) {
  *context.out << json::serialize(value) << "\n";
}

void PrintRun(const CommandContext& context, const json::object& run) {
  if (context.json) return PrintJson(context, run);
  for (const auto& item : run) {
    std::string key(item.key());
    const bool time = key.ends_with("_at");
    *context.out << std::left << std::setw(18) << key << " "
                 << (time ? TimeText(run, key.c_str()) : Text(run, key.c_str())) << "\n";
  }
}

Status CheckMade(const CommandContext& context) {
  std::error_code error;
  if (fs::exists(context.config.database(), error)) return OkStatus();
  return FailedPrecondition("there is no coordinator in " + context.config.state_dir +
                            "; make one with: heddle coordinator init");
}

Result<std::unique_ptr<Store>> OpenStore(const CommandContext& context) {
  HEDDLE_RETURN_IF_ERROR(CheckMade(context));
  return Store::Open(context.config.database());
}

// An act on the database itself, by whoever runs this program.
Status Act(const CommandContext& context, AuditKind kind, const std::string& device, const std::string& detail,
           const std::function<Status(AuditEvent&)>& act) {
  AuditOptions options;
  options.folder = context.config.audit();
  HEDDLE_ASSIGN_OR_RETURN(const auto log, AuditLog::Open(std::move(options)));
  AuditEvent event;
  event.kind = kind;
  event.actor = ProcessActor();
  event.object = device;
  event.detail = detail;
  return Audited(*log, std::move(event), act);
}

}  // namespace

Status CoordinatorInit(const CommandContext& context) {
  HEDDLE_RETURN_IF_ERROR(InitCoordinator(context.config));
  HEDDLE_ASSIGN_OR_RETURN(const auto authority, protocol::CertificateAuthority::Load(context.config.pki()));
  if (context.json) {
    PrintJson(context, json::object{{"state_dir", context.config.state_dir},
                                    {"ca_certificate", (context.config.pki() / "ca.crt").string()},
                                    {"ca_fingerprint", authority.fingerprint()}});
    return OkStatus();
  }
  *context.out << "Made an authority and a server certificate in " << context.config.pki().string() << "\n"
               << "CA fingerprint  " << authority.fingerprint() << "\n"
               << "Start it with   heddle-coordinator, enrol devices with   heddle device token NAME\n";
  return OkStatus();
}

// ---- devices ----

Status DeviceToken(const CommandContext& context, const std::string& device, std::optional<double> hours) {
  if (!IsValidDeviceName(device)) {
    return InvalidArgument("'" + device + "' is not a device's name: it must match [a-z0-9][a-z0-9._-]{0,62}");
  }
  const double valid = hours.value_or(context.config.token_hours);
  if (!(valid > 0) || valid > 8760) return InvalidArgument("--hours must be above 0 and at most 8760");
  HEDDLE_ASSIGN_OR_RETURN(const auto store, OpenStore(context));
  HEDDLE_ASSIGN_OR_RETURN(const auto authority, protocol::CertificateAuthority::Load(context.config.pki()));
  HEDDLE_ASSIGN_OR_RETURN(const std::string random, RandomText(24));
  const Time expires = SystemClock().Now() + Seconds(valid * 3600);
  HEDDLE_RETURN_IF_ERROR(
      Act(context, AuditKind::kTokenMade, device, "valid until " + AuditTimeText(expires),
          [&](AuditEvent&) { return store->CreateToken(Sha256(random), DeviceId(device), expires); }));
  const std::string token = random + "." + authority.fingerprint();
  if (context.json) {
    PrintJson(context, json::object{{"device", device}, {"token", token}, {"expires_at", UnixSeconds(expires)}});
  } else {
    *context.out << token << "\n";
  }
  return OkStatus();
}

Status DeviceList(const CommandContext& context) {
  HEDDLE_ASSIGN_OR_RETURN(const auto store, OpenStore(context));
  HEDDLE_ASSIGN_OR_RETURN(const auto devices, store->ListDevices());
  json::array list;
  for (const DeviceRecord& device : devices) {
    json::object item = {{"device", device.device.value()},
                         {"serial", device.serial},
                         {"enrolled_at", UnixSeconds(device.enrolled_at)},
                         {"not_after", UnixSeconds(device.not_after)}};
    if (device.revoked_at) item["revoked_at"] = UnixSeconds(*device.revoked_at);
    list.push_back(std::move(item));
  }
  if (context.json) {
    PrintJson(context, json::object{{"clients", std::move(list)}});
    return OkStatus();
  }
  *context.out << std::left << std::setw(24) << "DEVICE" << std::setw(22) << "ENROLLED" << std::setw(22)
               << "CERTIFICATE UNTIL"
               << "REVOKED\n";
  for (const json::value& value : list) {
    const json::object& item = value.get_object();
    *context.out << std::left << std::setw(24) << Text(item, "device") << std::setw(22) << TimeText(item, "enrolled_at")
                 << std::setw(22) << TimeText(item, "not_after") << TimeText(item, "revoked_at") << "\n";
  }
  return OkStatus();
}

// At once: through the coordinator where one runs. Whether one does is told by its lock, not by what answers on a port.
Status DeviceRevoke(const CommandContext& context, const std::string& device) {
  HEDDLE_RETURN_IF_ERROR(CheckMade(context));
  const Result<UniqueFd> alone = LockState(context.config.state_dir);
  const bool running = !alone.ok();
  if (running) {
    auto client = AdminClient::Make(context.config);
    Status status = client.ok() ? (*client)->Post("/v1/clients/" + device + ":revoke", "").status() : client.status();
    HEDDLE_RETURN_IF_ERROR(status.Annotate(device + " is not revoked"));
  } else {
    HEDDLE_ASSIGN_OR_RETURN(const auto store, OpenStore(context));
    HEDDLE_RETURN_IF_ERROR(
        Act(context, AuditKind::kDeviceRevoked, device, "no coordinator was running",
            [&](AuditEvent&) { return store->RevokeDevice(DeviceId(device), SystemClock().Now()); }));
  }
  if (context.json) {
    PrintJson(context, json::object{{"device", device}, {"coordinator_running", running}});
  } else {
    *context.out << device << " is revoked"
                 << (running ? "" : " (no coordinator runs now; it will know when it starts)") << "\n";
  }
  return OkStatus();
}

// ---- runs ----

Status RunSubmit(const CommandContext& context, const fs::path& recipe,
                 const std::map<std::string, std::string>& overrides, bool wait) {
  HEDDLE_RETURN_IF_ERROR(Recipe::Load(recipe, overrides).status());  // mistakes are told here, with the file's name
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(recipe, size_t{1} << 20));
  std::error_code error;
  const fs::path folder = fs::absolute(recipe, error).parent_path();
  if (error) return ErrnoStatus(error.value(), "cannot find the folder of " + recipe.string());
  json::object settings;
  for (const auto& [key, value] : overrides) settings[key] = value;
  const json::object body = {{"recipe", text}, {"folder", folder.string()}, {"overrides", std::move(settings)}};
  HEDDLE_ASSIGN_OR_RETURN(const auto client, AdminClient::Make(context.config));
  HEDDLE_ASSIGN_OR_RETURN(const json::object answer, client->Post("/v1/runs", json::serialize(body)));
  if (wait) return RunWait(context, Text(answer, "run_id"), 0);
  if (context.json) {
    PrintJson(context, answer);
  } else {
    *context.out << Text(answer, "run_id") << "\n";
  }
  return OkStatus();
}

Status RunList(const CommandContext& context) {
  HEDDLE_ASSIGN_OR_RETURN(const auto client, AdminClient::Make(context.config));
  HEDDLE_ASSIGN_OR_RETURN(const json::object answer, client->Get("/v1/runs"));
  if (context.json) {
    PrintJson(context, answer);
    return OkStatus();
  }
  *context.out << std::left << std::setw(52) << "RUN" << std::setw(10) << "STATE" << std::setw(8) << "ROUNDS"
               << "STARTED\n";
  const json::value* runs = answer.if_contains("runs");
  if (runs == nullptr || !runs->is_array()) return Internal("the coordinator's answer has no list of runs");
  for (const json::value& value : runs->get_array()) {
    const json::object* run = value.if_object();
    if (run == nullptr) continue;
    *context.out << std::left << std::setw(52) << Text(*run, "run_id") << std::setw(10) << Text(*run, "state")
                 << std::setw(8) << Text(*run, "committed_rounds") << TimeText(*run, "started_at") << "\n";
  }
  return OkStatus();
}

Status RunShow(const CommandContext& context, const std::string& run) {
  HEDDLE_ASSIGN_OR_RETURN(const auto client, AdminClient::Make(context.config));
  HEDDLE_ASSIGN_OR_RETURN(const json::object answer, client->Get("/v1/runs/" + run));
  PrintRun(context, answer);
  return OkStatus();
}

Status RunStop(const CommandContext& context, const std::string& run) {
  HEDDLE_ASSIGN_OR_RETURN(const auto client, AdminClient::Make(context.config));
  HEDDLE_ASSIGN_OR_RETURN(const json::object answer, client->Post("/v1/runs/" + run + ":stop", ""));
  PrintRun(context, answer);
  return OkStatus();
}

Status RunWait(const CommandContext& context, const std::string& run, double timeout_s) {
  using SteadyClock = std::chrono::steady_clock;
  HEDDLE_ASSIGN_OR_RETURN(const auto client, AdminClient::Make(context.config));
  const auto start = SteadyClock::now();
  std::string version = "0";
  for (;;) {
    HEDDLE_ASSIGN_OR_RETURN(const json::object answer, client->Get("/v1/runs/" + run + ":watch?version=" + version));
    const std::string state = Text(answer, "state");
    if (state != "running") {
      PrintRun(context, answer);
      if (state == "complete") return OkStatus();
      return Aborted("run " + run + " " + state + ": " + Text(answer, "reason"));
    }
    version = Text(answer, "version");
    if (version == "-") version = "0";
    if (timeout_s > 0 && std::chrono::duration<double>(SteadyClock::now() - start).count() > timeout_s) {
      return DeadlineExceeded("run " + run + " is at round " + Text(answer, "round") + " of " + Text(answer, "rounds") +
                              " and has not ended in time");
    }
  }
}

Status RunExport(const CommandContext& context, const std::string& run, std::optional<uint32_t> round,
                 const fs::path& out) {
  HEDDLE_ASSIGN_OR_RETURN(const auto store, OpenStore(context));
  HEDDLE_ASSIGN_OR_RETURN(const StoredRun stored, store->GetRun(RunId(run)));
  const uint32_t wanted = round.value_or(stored.run.committed_rounds);
  if (wanted == 0) return NotFound("run " + run + " has no committed round yet");
  const fs::path from = RunFiles::CheckpointFolder(context.config.runs() / run, wanted);
  std::error_code error;
  if (!fs::exists(from, error)) {
    return NotFound("run " + run + " has no checkpoint of round " + std::to_string(wanted) + "; it has " +
                    std::to_string(stored.run.committed_rounds));
  }
  if (fs::exists(out, error)) return AlreadyExists(out.string() + " exists; name a new folder");
  // Whole or not at all: the disk may be full.
  const fs::path target = out.has_filename() ? out : out.parent_path();
  const fs::path partial = target.string() + ".partial-" + std::to_string(::getpid());
  const Status placed = [&]() -> Status {
    fs::copy(from, partial, fs::copy_options::recursive, error);
    if (error) return ErrnoStatus(error.value(), "cannot copy to " + target.string());
    for (const fs::directory_entry& file : fs::directory_iterator(partial, error)) {
      HEDDLE_RETURN_IF_ERROR(SyncFile(file.path()));
    }
    return RenameDurably(partial, target);
  }();
  if (!placed.ok()) fs::remove_all(partial, error);
  HEDDLE_RETURN_IF_ERROR(placed);
  if (context.json) {
    PrintJson(context, json::object{{"run_id", run}, {"round", wanted}, {"folder", out.string()}});
  } else {
    *context.out << "round " << wanted << " of " << run << " is in " << out.string() << "\n";
  }
  return OkStatus();
}

// ---- configuration and recipes ----

Status ConfigShow(const CommandContext& context) {
  *context.out << context.config.resolved;
  return OkStatus();
}

// "20 x 5", or "15 x 5, then 10 x 20".
static std::string CohortsOf(const RunSpec& spec) {
  const auto stage = [&](uint32_t rounds, uint32_t round) {
    return std::to_string(rounds) + " x " + std::to_string(SizesOf(spec, round).cohort_size);
  };
  const uint32_t first = spec.first_stage_rounds;
  if (first == 0 || first >= spec.rounds) return stage(spec.rounds, 1);
  return stage(first, 1) + ", then " + stage(spec.rounds - first, first + 1);
}

Status RecipeCheck(const CommandContext& context, const fs::path& recipe,
                   const std::map<std::string, std::string>& overrides) {
  HEDDLE_ASSIGN_OR_RETURN(const Recipe loaded, Recipe::Load(recipe, overrides));
  HEDDLE_ASSIGN_OR_RETURN(const RunMaterial material, PrepareRun(loaded));
  if (context.json) {
    *context.out << loaded.resolved_json << "\n";
    return OkStatus();
  }
  *context.out << "run id            " << material.spec.id.value() << "\n"
               << "method            " << loaded.local_task << " + " << loaded.strategy << "\n"
               << "rounds x devices  " << CohortsOf(loaded.spec) << "\n"
               << "adapter           " << material.initial_adapter_bytes.size() << " bytes, "
               << material.initial_adapter.size() << " tensors\n";
  if (const auto& needs = material.spec.layer_memory; !needs.empty()) {
    *context.out << "memory for layers ";
    for (size_t i = 0; i < needs.size(); ++i) {
      if (needs[i] == ~uint64_t{0}) continue;  // none of them is tuned
      *context.out << i + 1 << ": " << ((needs[i] - 1) >> 20) + 1 << " MiB" << (i + 1 < needs.size() ? ", " : "\n");
    }
  }
  if (const auto warning = loaded.Warning()) *context.out << "warning           " << *warning << "\n";
  if (const auto guarantee = loaded.Guarantee()) *context.out << "privacy           " << guarantee->ToText() << "\n";
  return OkStatus();
}

}  // namespace heddle::coordinator
