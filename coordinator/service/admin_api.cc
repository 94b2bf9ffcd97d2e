#include "coordinator/service/admin_api.h"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <utility>

#include "common/logging.h"
#include "coordinator/service/run_json.h"
#include "protocol/transport/blocking.h"
#include "protocol/validate.h"

namespace heddle::coordinator {
namespace {

namespace json = boost::json;
using protocol::Awaitable;
using protocol::Exchange;

constexpr size_t kMaxAdminBody = size_t{1} << 20;
const Duration kMaxWatch = Seconds(20);

json::object RunObject(const RunRecord& run) {
  json::object out = {{"run_id", run.id.value()},
                      {"state", StateName(run.state)},
                      {"committed_rounds", run.committed_rounds},
                      {"model_sha256", run.model.ToHex()},
                      {"started_at", UnixSeconds(run.started_at)}};
  if (run.ended_at != Time()) out["ended_at"] = UnixSeconds(run.ended_at);
  if (!run.reason.empty()) out["reason"] = run.reason;
  return out;
}

json::object ProgressObject(const RunProgress& p) {
  json::object out = RunObject(p.run);
  out["rounds"] = p.rounds;
  out["round"] = p.round;
  out["attempt"] = p.attempt;
  out["phase"] = PhaseName(p.phase);
  out["cohort_size"] = p.cohort_size;
  out["devices_waiting"] = p.waiting;
  out["devices_at_work"] = p.open;
  out["reports_accepted"] = p.accepted;
  if (p.last_train_loss) out["train_loss"] = *p.last_train_loss;
  out["loss_stalled"] = p.loss_stalled;
  out["bytes_down"] = p.traffic.down;
  out["bytes_up"] = p.traffic.up;
  if (!p.storage_error.empty()) out["storage_error"] = p.storage_error;
  return out;
}

unsigned HttpStatusOfCode(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
      return 400;
    case Code::kUnauthenticated:
      return 401;
    case Code::kPermissionDenied:
      return 403;
    case Code::kNotFound:
      return 404;
    case Code::kAlreadyExists:
    case Code::kFailedPrecondition:
    case Code::kAborted:
      return 409;
    case Code::kUnimplemented:
      return 405;
    case Code::kResourceExhausted:
    case Code::kUnavailable:
      return 503;
    default:
      return 500;
  }
}

uint64_t NumberOr(const std::optional<std::string>& text, uint64_t otherwise) {
  uint64_t value = 0;
  if (!text) return otherwise;
  auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  return error == std::errc() && end == text->data() + text->size() ? value : otherwise;
}

// "127.0.0.1:7480", "localhost", "[::1]:7480".
bool IsLoopbackAuthority(std::string_view authority) {
  const size_t colon = authority.rfind(':');
  const bool has_port = colon != std::string_view::npos && !authority.ends_with(']');
  if (has_port) {
    const std::string_view port = authority.substr(colon + 1);
    const bool digits = std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (port.empty() || port.size() > 5 || !digits) return false;
    authority = authority.substr(0, colon);
  }
  return authority == "127.0.0.1" || authority == "localhost" || authority == "[::1]";
}

// What a browser would say of a request that a page of another site made it send, and of a name that was rebound.
Status CheckOrigin(const Exchange& exchange) {
  if (const auto host = exchange.Header("Host"); host && !IsLoopbackAuthority(*host)) {
    return PermissionDenied("the Host header must name 127.0.0.1, localhost or [::1]");
  }
  if (const auto origin = exchange.Header("Origin")) {
    constexpr std::string_view kScheme = "http://";
    if (!origin->starts_with(kScheme) || !IsLoopbackAuthority(origin->substr(kScheme.size()))) {
      return PermissionDenied("pages of other origins may not use this API");
    }
  }
  const std::string_view site = exchange.Header("Sec-Fetch-Site").value_or("none");
  if (site != "none" && site != "same-origin") return PermissionDenied("pages of other sites may not use this API");
  return OkStatus();
}

bool SameText(std::string_view a, std::string_view b) {  // in a time that says nothing about where they differ
  if (a.size() != b.size()) return false;
  unsigned different = 0;
  for (size_t i = 0; i < a.size(); ++i) different |= static_cast<unsigned char>(a[i] ^ b[i]);
  return different == 0;
}

}  // namespace

AdminApi::Reply AdminApi::Problem(const Status& status) { return Problem(HttpStatusOfCode(status.code()), status); }

AdminApi::Reply AdminApi::Problem(unsigned http_status, const Status& status) {
  json::object body = {{"type", "about:blank"},
                       {"title", CodeName(status.code())},
                       {"status", http_status},
                       {"code", CodeName(status.code())},
                       // It may repeat what was asked for, and JSON is UTF-8.
                       {"detail", protocol::CleanText(status.message(), protocol::kMaxRefusalMessageBytes)}};
  return {http_status, "application/problem+json", json::serialize(body) + "\n", status};
}

Awaitable<void> AdminApi::Handle(Exchange& exchange) {
  std::string method(exchange.method());
  if (method == "HEAD") method = "GET";
  const std::string path = exchange.path();
  Reply reply;
  Caller caller{.address = exchange.peer().address};
  Status status = CheckOrigin(exchange);
  std::string body;
  bool too_large = false;
  if (status.ok() && exchange.Header("Content-Encoding").value_or("identity") != "identity") {
    status = InvalidArgument("bodies are taken as they are, without a Content-Encoding");
  }
  if (status.ok() && method == "POST") {
    const std::string given(exchange.Header("Authorization").value_or(""));
    if (!SameText(given, "Bearer " + context_.token)) {
      status = Unauthenticated("this needs the header 'Authorization: Bearer TOKEN' with the token of " +
                               context_.config->admin_token().string());
    } else {
      Result<std::string> read = co_await exchange.ReadAll(kMaxAdminBody);
      status = read.status();
      too_large = status.code() == Code::kResourceExhausted;
      if (read.ok()) body = *std::move(read);
    }
  }
  const bool let_in = status.ok();
  if (!let_in) {
    reply = too_large ? Problem(413, status) : Problem(status);
  } else {
    const bool watch = path.ends_with(":watch");
    const uint64_t seen = NumberOr(exchange.Query("version"), 0);
    const Duration timeout = std::min(
        kMaxWatch, Seconds(static_cast<double>(std::min<uint64_t>(NumberOr(exchange.Query("timeout_s"), 20), 3600))));
    auto work = [&]() -> Status {
      reply = Route(method, path, body, caller, seen, timeout);
      return OkStatus();
    };
    // Whether this process lives must not wait behind uploads on their way to the disk.
    if (path == "/healthz" || path == "/metrics") {
      status = work();
    } else {
      status = co_await protocol::RunBlocking(watch ? context_.watch : context_.disk, work);
    }
    if (!status.ok()) reply = Problem(status);
  }
  NoteRefusal(reply, caller, let_in && method == "GET");
  auto ignored = co_await exchange.Respond(reply.status, std::move(reply.type), std::move(reply.body));
}

void AdminApi::NoteRefusal(const Reply& reply, const Caller& caller, bool reading) {
  const Status& refusal = reply.refusal;
  if (refusal.ok()) return;
  context_.metrics->CountAdminRefusal(CodeName(refusal.code()));
  if (context_.audit == nullptr || reading || caller.acted) return;
  context_.audit->Refused(CodeName(refusal.code()), "", caller.address, "admin API", refusal.message());
}

AdminApi::Reply AdminApi::Route(const std::string& method, const std::string& path, const std::string& body,
                                Caller& caller, uint64_t seen, Duration timeout) {
  const bool get = method == "GET", post = method == "POST";
  if (get && path == "/healthz") return {200, "text/plain", "ok\n"};
  if (get && path == "/readyz") {
    const bool ready = context_.ready->load() && context_.store->ActiveRun().ok();
    return {ready ? 200U : 503U, "text/plain", ready ? "ready\n" : "not ready\n"};
  }
  if (get && path == "/metrics") return MetricsText();
  if (get && path == "/v1/config") return Config();
  if (get && path == "/v1/clients") return ListDevices();
  if (get && path == "/v1/runs") return ListRuns();
  if (post && path == "/v1/runs") return Submit(body, caller);
  constexpr std::string_view kRuns = "/v1/runs/", kClients = "/v1/clients/";
  const auto between = [&](std::string_view prefix, std::string_view suffix) -> std::optional<std::string> {
    if (path.size() <= prefix.size() + suffix.size() || !path.starts_with(prefix) || !path.ends_with(suffix)) {
      return std::nullopt;
    }
    return path.substr(prefix.size(), path.size() - prefix.size() - suffix.size());
  };
  if (post) {
    if (auto id = between(kRuns, ":stop")) return StopRun(RunId(*id), caller);
    if (auto id = between(kClients, ":revoke")) return Revoke(DeviceId(*id), caller);
  }
  if (get) {
    if (auto id = between(kRuns, ":watch")) return Watch(RunId(*id), seen, timeout);
    if (auto id = between(kRuns, "/rounds")) return ListRounds(RunId(*id));
    if (auto id = between(kRuns, "")) return ShowRun(RunId(*id));
  }
  return Problem(NotFound(method + " " + path + " does not exist; see docs/openapi.yaml"));
}

Status AdminApi::Act(AuditKind kind, const std::string& object, Caller& caller,
                     const std::function<Status(AuditEvent& event)>& act) {
  AuditEvent event;
  event.kind = kind;
  event.actor = "admin";
  event.from = caller.address;
  event.object = object;
  if (context_.audit == nullptr) return act(event);
  return Audited(context_.audit->log(), std::move(event), [&](AuditEvent& begun) {
    caller.acted = true;
    return act(begun);
  });
}

// ---- runs ----

AdminApi::Reply AdminApi::ListRuns() {
  auto runs = context_.store->ListRuns();
  if (!runs.ok()) return Problem(runs.status());
  json::array out;
  for (const RunRecord& run : *runs) out.push_back(RunObject(run));
  return {200, "application/json", json::serialize(json::object{{"runs", std::move(out)}}) + "\n"};
}

void AdminApi::AddFolder(const RunId& id, json::object* run) {
  (*run)["folder"] = (context_.config->runs() / id.value()).string();
  const auto errors = context_.driver->FolderErrors();
  if (const auto error = errors.find(id); error != errors.end()) (*run)["folder_error"] = error->second;
}

AdminApi::Reply AdminApi::ShowRun(const RunId& id) {
  if (auto progress = context_.driver->Progress(); progress && progress->run.id == id) {
    json::object out = ProgressObject(*progress);
    AddFolder(id, &out);
    return {200, "application/json", json::serialize(out) + "\n"};
  }
  auto run = context_.store->GetRun(id);
  if (!run.ok()) return Problem(run.status());
  json::object out = RunObject(run->run);
  const RunSpec& spec = run->origin.spec;
  out["rounds"] = spec.rounds;
  out["cohort_size"] = SizesOf(spec, std::min(run->run.committed_rounds + 1, spec.rounds)).cohort_size;
  AddFolder(id, &out);
  return {200, "application/json", json::serialize(out) + "\n"};
}

AdminApi::Reply AdminApi::ListRounds(const RunId& id) {
  if (auto run = context_.store->GetRun(id); !run.ok()) return Problem(run.status());
  auto rounds = context_.store->ListRounds(id);
  if (!rounds.ok()) return Problem(rounds.status());
  json::array out;
  for (const RoundRecord& round : *rounds) {
    json::object item = {{"round", round.round},
                         {"attempt", round.attempt},
                         {"phase", PhaseName(round.phase)},
                         {"started_at", UnixSeconds(round.started_at)},
                         {"parent_sha256", round.parent.ToHex()}};
    if (round.ended_at != Time()) item["ended_at"] = UnixSeconds(round.ended_at);
    if (!round.model.IsZero()) item["model_sha256"] = round.model.ToHex();
    if (!round.reason.empty()) item["reason"] = round.reason;
    out.push_back(std::move(item));
  }
  return {200, "application/json", json::serialize(json::object{{"rounds", std::move(out)}}) + "\n"};
}

AdminApi::Reply AdminApi::Watch(const RunId& id, uint64_t seen, Duration timeout) {
  // Only the active run changes; of any other there is nothing to wait for.
  if (auto now = context_.driver->Progress(); !now || now->run.id != id || now->run.state != RunState::kRunning) {
    return ShowRun(id);
  }
  RunDriver::Watch watch = context_.driver->WaitForChange(seen, timeout);
  if (!watch.progress || watch.progress->run.id != id) return ShowRun(id);
  json::object out = ProgressObject(*watch.progress);
  out["version"] = watch.version;
  AddFolder(id, &out);
  return {200, "application/json", json::serialize(out) + "\n"};
}

AdminApi::Reply AdminApi::Submit(const std::string& body, Caller& caller) {
  Submission submission;
  try {
    const json::value value = json::parse(body);
    const json::object& object = value.as_object();
    submission.recipe_text = json::value_to<std::string>(object.at("recipe"));
    submission.folder = json::value_to<std::string>(object.at("folder"));
    if (const json::value* overrides = object.if_contains("overrides")) {
      for (const auto& item : overrides->as_object()) {
        submission.overrides[std::string(item.key())] = json::value_to<std::string>(item.value());
      }
    }
  } catch (const std::exception& error) {
    return Problem(InvalidArgument(
        std::string("the body must be an object with the texts recipe and folder, and overrides if any: ") +
        error.what()));
  }
  if (!submission.folder.is_absolute()) return Problem(InvalidArgument("folder must be an absolute path"));
  std::string id;
  const std::string recipe = "recipe " + Sha256(submission.recipe_text).ToHex();
  const Status status = Act(AuditKind::kRunSubmitted, recipe, caller, [&](AuditEvent& event) -> Status {
    event.detail = recipe;
    HEDDLE_ASSIGN_OR_RETURN(const RunId made, context_.driver->Submit(submission));
    event.object = id = made.value();
    return OkStatus();
  });
  if (!status.ok()) return Problem(status);
  return {201, "application/json",
          json::serialize(json::object{{"run_id", id}, {"folder", (context_.config->runs() / id).string()}}) + "\n"};
}

AdminApi::Reply AdminApi::StopRun(const RunId& id, Caller& caller) {
  const Status status = Act(AuditKind::kRunStopped, id.value(), caller,
                            [&](AuditEvent&) { return context_.driver->StopRun(id, "stopped by the administrator"); });
  return status.ok() ? ShowRun(id) : Problem(status);
}

// ---- devices, configuration, metrics ----

AdminApi::Reply AdminApi::ListDevices() {
  auto devices = context_.store->ListDevices();
  if (!devices.ok()) return Problem(devices.status());
  json::array out;
  for (const DeviceRecord& device : *devices) {
    json::object item = {{"device", device.device.value()},
                         {"serial", device.serial},
                         {"enrolled_at", UnixSeconds(device.enrolled_at)},
                         {"not_after", UnixSeconds(device.not_after)}};
    if (device.revoked_at) item["revoked_at"] = UnixSeconds(*device.revoked_at);
    out.push_back(std::move(item));
  }
  return {200, "application/json", json::serialize(json::object{{"clients", std::move(out)}}) + "\n"};
}

// In the database first, then in memory, then the connections: whoever hears ok can rely on all three.
AdminApi::Reply AdminApi::Revoke(const DeviceId& device, Caller& caller) {
  const Time now = context_.clock->Now();
  std::string serial;
  bool revoked = false;
  const Status status = Act(AuditKind::kDeviceRevoked, device.value(), caller, [&](AuditEvent&) -> Status {
    std::lock_guard writing(context_.directory->writing());
    HEDDLE_RETURN_IF_ERROR(context_.store->RevokeDevice(device, now));
    serial = context_.directory->Revoke(device, now);
    revoked = true;
    return OkStatus();
  });
  if (!revoked) return Problem(status);
  context_.driver->DeviceRevoked(device);
  if (!serial.empty() && context_.close_connections) context_.close_connections(serial);
  Log(Severity::kWarning, "device revoked", {{"device", device.value()}});
  if (!status.ok()) return Problem(status);  // revoked all the same, but the log does not say so
  return {200, "application/json",
          json::serialize(json::object{{"device", device.value()}, {"revoked_at", UnixSeconds(now)}}) + "\n"};
}

AdminApi::Reply AdminApi::Config() { return {200, "text/plain", context_.config->resolved}; }

AdminApi::Reply AdminApi::MetricsText() {
  Metrics::Gauges gauges;
  gauges.server = context_.server_stats();
  gauges.devices_enrolled = context_.directory->enrolled();
  gauges.polls_waiting = context_.driver->waiting();
  gauges.blob_bytes = context_.blobs->total_bytes();
  gauges.uploads_unfinished = context_.blobs->num_uploads();
  gauges.folders_incomplete = context_.driver->FolderErrors().size();
  gauges.run_active = context_.driver->busy();
  if (context_.audit != nullptr) {
    const AuditLog::Stats audit = context_.audit->log().stats();
    gauges.audit_lines = audit.lines;
    gauges.audit_failures = audit.failures;
    gauges.audit_last_sequence = audit.last_sequence;
  }
  if (auto progress = context_.driver->Progress()) {
    gauges.round = progress->round;
    gauges.storage_failing = !progress->storage_error.empty();
    gauges.loss_stalled = progress->loss_stalled;
  }
  return {200, "text/plain; version=0.0.4", context_.metrics->Text(gauges)};
}

}  // namespace heddle::coordinator
