// Seeds of what the coordinator reads: updates, recipes, coordinator.toml, its database, the run folder.
#include <SQLiteCpp/SQLiteCpp.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>

#include "aggregation/aggregator.h"
#include "common/file.h"
#include "common/safetensors.h"
#include "coordinator/store/run_spec_json.h"
#include "coordinator/store/store.h"
#include "tests/fuzz/seeds.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::fuzz {
namespace {

using namespace coordinator;
namespace fs = std::filesystem;

// Of the model in aggregation/update.cc.
void Updates() {
  const auto update = [](float first, int64_t rows = 2) {
    const float a[] = {first, -2, 0.25F, 0, 1, -1}, b[] = {-1, 0.5F, 1e-6F, 2};
    return SerializeSafetensors({{"a", Tensor::FromFloats({rows, 6 / rows}, a)}, {"b", Tensor::FromFloats({4}, b)}},
                                {});
  };
  Write("fuzz_update", "good", Number(40, 2) + update(0.5F));
  Write("fuzz_update", "heavy", Number(1000, 2) + update(-16));
  Write("fuzz_update", "nan", Number(40, 2) + update(std::nanf("")));
  Write("fuzz_update", "infinite", Number(40, 2) + update(-std::numeric_limits<float>::infinity()));
  Write("fuzz_update", "large", Number(40, 2) + update(16.5F));
  Write("fuzz_update", "tiny", Number(1, 2) + update(1e-45F));
  Write("fuzz_update", "turned", Number(40, 2) + update(1, 3));
  Write("fuzz_update", "no-examples", Number(0, 2) + update(1));
  Write("fuzz_update", "too-many-examples", Number(1001, 2) + update(1));
  const float b[] = {1, 2, 3, 4};
  Write("fuzz_update", "one-missing", Number(5, 2) + SerializeSafetensors({{"b", Tensor::FromFloats({4}, b)}}, {}));
  Write("fuzz_update", "half-precision", Number(5, 2) + Replace(update(1), "F32", "F16"));
}

// Rounds of every method (fuzz_round): method, clipping, a byte a setting (0: its default), no state, then updates.
void Rounds() {
  const auto update = [](char odd, char first) {
    std::string bytes = Number(40, 2) + Number(10, 2) + std::string(1, '\0') + std::string(1, odd) + std::string(1, 42);
    for (int i = 0; i < 32; ++i) bytes += static_cast<char>(first + i * 5);
    return bytes;
  };
  const auto names = aggregation::AggregatorNames();
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string head = std::string(1, static_cast<char>(i)) + std::string(1, '\1') +
                             std::string(aggregation::SettingsOf(names[i]).size(), '\0') + Number(0, 2);
    const std::string round =
        std::string(1, '\5') + update(0, 3) + update(0, -40) + update(0, 90) + update(0, 7) + update(0, 1);
    Write("fuzz_round", names[i], head + round + round);
    Write("fuzz_round", names[i] + "-odd",
          head + std::string(1, '\6') + update(1, 3) + update(2, 4) + update(3, 5) + update(4, 6) + update(5, 7) +
              update(0, 8));
  }
}

void Recipes() {
  const std::string recipe =
      "name = \"demo\"\nseed = 1\n[model]\nbase = \"base\"\n[lora]\nr = 4\nlora_alpha = 8\ntarget_modules = "
      "[\"q_proj\"]\n[strategy]\nname = \"FedAvg\"\nnum_server_rounds = 3\ncohort_size = 2\nover_selection = 1.5\n"
      "report_deadline_s = 600\nmax_abs = 4.0\n[train]\noptimizer = \"AdamW\"\nlearning_rate = 1e-2\n"
      "learning_rate_schedule = \"cosine\"\nlocal_steps = 6\nbatch_size = 8\nsequence_length = 128\n"
      "[simulation]\ndevices = [\"a\", \"b\"]\ndata = [\"a.txt\", \"b.txt\"]\n";
  Write("fuzz_recipe", "whole", recipe);
  Write("fuzz_recipe", "bare", "name = \"demo\"\n[model]\nbase = \"base\"\n");
  Write("fuzz_recipe", "huge",
        Replace(Replace(recipe, "num_server_rounds = 3", "num_server_rounds = 1000000"), "over_selection = 1.5",
                "over_selection = 100"));
  Write("fuzz_recipe", "bounds", Replace(Replace(recipe, "max_abs = 4.0", "max_abs = 5e-324"), "600", "1e300"));
  Write("fuzz_recipe", "infinite", Replace(Replace(recipe, "1e-2", "inf"), "1.5", "nan"));
  Write("fuzz_recipe", "twins", Replace(recipe, "[\"a\", \"b\"]", "[\"a\", \"a\"]"));
  Write("fuzz_recipe", "smaller",
        Replace(recipe, "FedAvg", "HetLoRA") +
            "[compression]\nupload = [\"top_k:0.1\", \"int8\", \"error_feedback\"]\ndownload = \"bf16\"\n");
  Write("fuzz_recipe", "private", recipe + "[privacy]\nupdate_clip = 0.2\nnoise_multiplier = 1.5\ndelta = 1e-6\n");
  Write("fuzz_recipe", "stages",
        Replace(Replace(recipe, "cohort_size = 2", "cohort_size = 2\nfirst_stage_rounds = 1\nlater_cohort_size = 3"),
                "local_steps = 6", "local_steps = 6\nlater_local_steps = 1"));
  Write("fuzz_recipe", "by-memory",
        Replace(recipe, "FedAvg\"",
                "HeteroLayers\"\nnum_layers = 3\nlayers_by_memory = true\nworker_memory_mb = 1048576"));
  Write("fuzz_recipe", "unknown", Replace(recipe, "FedAvg", "FedAverage"));

  const std::string settings =
      "threads = 2\n[listen]\nport = 0\nserver_names = [\"localhost\", \"::1\"]\n[storage]\nstate_dir = \"state\"\n"
      "[limits]\nmax_connections = 10\ntoken_hours = 0.5\nshutdown_grace_s = 0\n[log]\nformat = \"json\"\n";
  const std::string nul(1, '\0');
  Write("fuzz_settings", "coordinator", nul + settings);
  Write("fuzz_settings", "coordinator-wrong", nul + Replace(settings, "port = 0", "port = 70000"));
  Write("fuzz_settings", "coordinator-zero", nul + Replace(settings, "max_connections = 10", "max_connections = 0"));
}

// A database of three tables' worth of rows, in small pages so that mutations meet something.
std::string Database(const std::function<void(SQLite::Database&)>& change) {
  const fs::path file = fs::temp_directory_path() / "heddle-fuzz-seed.db";
  const auto remove = [&] {
    for (const char* suffix : {"", "-wal", "-shm", "-journal"}) fs::remove(file.string() + suffix);
  };
  remove();
  {
    auto store = Store::Open(file);
    if (!store.ok()) {
      Fail(store.status().ToString());
      return {};
    }
    const Time now = FromUnixMicros(1'700'000'000'000'000);
    const Sha256Digest model = Sha256(std::string_view("model"));
    RunOrigin origin;
    origin.spec.id = RunId("demo-01234567");
    origin.spec.local_task = "lora_sft";
    const RunRecord run{.id = origin.spec.id, .model = model, .started_at = now};
    const RoundRecord round{.run = run.id, .phase = RoundPhase::kCollecting, .started_at = now, .parent = model};
    const AssignmentRecord assignment{.id = AssignmentId("0123456789abcdef0123456789abcdef"),
                                      .run = run.id,
                                      .device = DeviceId("phone-1"),
                                      .state = AssignmentState::kAccepted,
                                      .update = Sha256(std::string_view("update"))};
    const std::vector<Record> writes = {run, round, assignment};
    const DeviceRecord device{
        .device = DeviceId("phone-1"), .serial = "01ab", .not_after = now + Seconds(1), .enrolled_at = now};
    const Sha256Digest token = Sha256(std::string_view("token"));
    Status status = (*store)->CreateRun(origin, writes);
    if (status.ok()) status = (*store)->CreateToken(token, device.device, now + Seconds(10));
    if (status.ok()) status = (*store)->RedeemToken(token, now, device);
    if (!status.ok()) Fail(status.ToString());
  }
  {
    SQLite::Database raw(file.string(), SQLite::OPEN_READWRITE);
    raw.exec("PRAGMA journal_mode = DELETE");
    raw.exec("PRAGMA page_size = 512");
    raw.exec("VACUUM");
    change(raw);
  }
  auto bytes = ReadFile(file);
  remove();
  if (!bytes.ok()) Fail(bytes.status().ToString());
  return bytes.ok() ? *std::move(bytes) : std::string();
}

void Databases() {
  Write("fuzz_database", "whole", Database([](SQLite::Database&) {}));
  Write("fuzz_database", "newer",
        Database([](SQLite::Database& raw) { raw.exec("INSERT INTO schema_versions VALUES (9999, 'the future')"); }));
  Write("fuzz_database", "no-runs", Database([](SQLite::Database& raw) { raw.exec("DROP TABLE runs"); }));
  Write("fuzz_database", "foreign", Database([](SQLite::Database& raw) { raw.exec("PRAGMA application_id = 7"); }));
  Write("fuzz_database", "short-digest", Database([](SQLite::Database& raw) {
          raw.exec("PRAGMA ignore_check_constraints = ON; UPDATE runs SET model = x'00'");
        }));
  Write("fuzz_database", "empty", "");
  Write("fuzz_database", "text", "this is not a database, nor was it ever one; it only has some length to it");

  RunSpec spec;
  spec.id = RunId("demo-01234567");
  spec.local_task = "lora_sft";
  spec.rounds = 3;
  spec.cohort_size = 2;
  spec.min_available_devices = 2;
  const std::string json = RunSpecToJson(spec);
  // The numbers of kFields in coordinator/stored_rows.cc.
  const auto set = [](int field, const std::string& value) {
    return std::string(1, static_cast<char>(field)) + value + "\n";
  };
  Write("fuzz_stored_rows", "as-it-was", "");
  Write("fuzz_stored_rows", "complete", set(0, "1") + set(1, "3"));
  Write("fuzz_stored_rows", "states", set(0, "99") + set(11, "-1") + set(20, "7"));
  Write("fuzz_stored_rows", "far-times",
        set(3, "-9223372036854775808") + set(4, "9223372036854775807") + set(12, "9223372036854775807") +
            set(14, "-9223372036854775808"));
  Write("fuzz_stored_rows", "far-reports", set(21, "-9223372036854775808") + set(22, "9223372036854775807"));
  Write("fuzz_stored_rows", "committing", set(11, "2"));
  Write("fuzz_stored_rows", "selecting", set(11, "0"));
  Write("fuzz_stored_rows", "all-accepted", set(20, "1") + set(26, "18446744073709551615"));
  Write("fuzz_stored_rows", "negative-examples", set(26, "-1") + set(27, "-1") + set(28, "-1"));
  Write("fuzz_stored_rows", "same-device", set(19, "a"));
  Write("fuzz_stored_rows", "settings", set(5, json));
  spec.first_stage_rounds = 1;
  spec.later_cohort_size = spec.later_min_reports = spec.later_min_available_devices = 1;
  Write("fuzz_stored_rows", "stages", set(5, RunSpecToJson(spec)));
  Write("fuzz_stored_rows", "layers-unasked", set(32, "1"));
  spec.layer_memory = {100, 200};
  Write("fuzz_run_spec", "layer-memory", RunSpecToJson(spec));
  Write("fuzz_stored_rows", "layers", set(5, RunSpecToJson(spec)) + set(32, "2"));
  Write("fuzz_stored_rows", "too-many-layers", set(5, RunSpecToJson(spec)) + set(32, "3"));
  Write("fuzz_stored_rows", "other-settings", set(5, Replace(json, "lora_sft", "zo_sgd")) + set(6, "name = 1"));
  Write("fuzz_stored_rows", "material",
        set(8, R"({"folder":"/","overrides":{"seed":"2"},"base_model":[],"adapter_config":"{}"})") + set(7, "[[["));
  Write("fuzz_stored_rows", "material-sizes",
        set(8, R"({"folder":"/","overrides":{},"base_model":[{"name":"../x","sha256":"00","size_bytes":-1}],)"
               R"("adapter_config":"{}"})"));

  const std::string line = R"({"round":1,"attempt":1,"phase":"committed"})";
  Write("fuzz_run_folder", "whole", line + "\n" + Replace(line, "1", "2") + "\n" + Replace(line, "1", "3") + "\n");
  Write("fuzz_run_folder", "torn", line + "\n" + line.substr(0, 10));
  Write("fuzz_run_folder", "odd", "[]\n{\"round\":-1,\"attempt\":1e9}\n\n{\"round\":4294967297,\"attempt\":1}\n");
}

// Requests of fuzz_device_api. `body`: 0 the part alone, 1 the update, 2 a check-in, 3 a report, 4 an enrolment, 5 a
// changed update, 6 a report with the update in it, 7 a check-in in the short form, or with an r or an s before it a
// report. `happens`: 1 the connection breaks, 2 a minute passes before, 6 eleven do.
std::string Ask(int device, int body, const std::string& head, const std::string& part = "", int happens = 0) {
  return Number(static_cast<uint64_t>(device + 4 * body), 1) + Number(static_cast<uint64_t>(happens), 1) +
         Number(head.size(), 2) + head + Number(part.size(), 2) + part;
}

const std::string kDeviceHead = " HTTP/1.1\r\nHost: c";
const std::string kCheckin = "POST /v1/checkin" + kDeviceHead, kReport = "POST /v1/reports" + kDeviceHead;
const std::string kUpload =
    "POST /v1/uploads" + kDeviceHead + "\r\nHeddle-Assignment: $A\r\nHeddle-Digest: $D\r\nUpload-Length: $L";

std::string Task(int device, int happens = 0) { return Ask(device, 2, kCheckin, "", happens); }
std::string Work(int device) { return Ask(device, 1, kUpload) + Ask(device, 3, kReport); }

enum Method { kFedAvg, kLedger, kEncoded };  // as in fuzz/coordinator/service_world.h

void WriteDevice(Method method, const std::string& name, const std::string& requests) {
  Write("fuzz_device_api", name, Number(method, 1) + requests);
}

void DeviceRequests() {
  const std::string one = kDeviceHead, checkin = kCheckin, report = kReport, upload = kUpload;
  const std::string offset = "PATCH $U" + one + "\r\nUpload-Offset: ";
  WriteDevice(kFedAvg, "round", Task(1) + Work(1) + Task(2) + Work(2));
  WriteDevice(kFedAvg, "rounds", Task(1) + Work(1) + Ask(1, 2, checkin, "", 6) + Work(1) + Ask(1, 3, report));
  WriteDevice(
      kFedAvg, "inline",
      Task(1) + Ask(1, 6, report) + Ask(1, 6, report) + Task(2) + Ask(2, 6, report, "\x32\x01x") + Ask(2, 6, report));
  WriteDevice(kFedAvg, "short-forms",
              Ask(1, 2, checkin, "\x28\x01") + Ask(1, 7, report, "r") + Ask(1, 7, checkin, "", 6) +
                  Ask(1, 7, report, "r") + Ask(1, 7, checkin, "\x3a\x20" + std::string(32, 'x'), 6) +
                  Ask(1, 7, report, "r\x42\x04HDZS"));
  WriteDevice(kFedAvg, "late", Task(1) + Ask(1, 1, upload) + Ask(1, 3, report, "", 6) + Task(2) + Ask(1, 3, report));
  WriteDevice(kFedAvg, "broken-upload",
              Task(1) + Ask(1, 1, upload, "", 1) + Ask(1, 0, "HEAD $U" + one) + Ask(1, 0, offset + "7", "rest") +
                  Ask(1, 0, upload) + Ask(1, 3, report));
  WriteDevice(kFedAvg, "bad-update", Task(1) + Ask(1, 5, upload, std::string(4, '\xff')) + Ask(1, 3, report));
  const std::string nan = std::string("\x00\x00\xc0\x7f", 4);
  WriteDevice(kFedAvg, "other-digest",
              Task(1) + Ask(1, 5, Replace(upload, "$D", std::string(64, 'a')), nan) + Ask(1, 3, report, "\x10\x02"));
  WriteDevice(kFedAvg, "strangers",
              Ask(0, 2, checkin) + Ask(3, 2, checkin) + Ask(0, 4, "POST /v1/enroll" + one) +
                  Ask(0, 4, "POST /v1/enroll" + one, "\x0a\x03xyz") + Ask(1, 4, "POST /v1/enroll" + one));
  WriteDevice(kFedAvg, "another's",
              Task(1) + Task(2) + Ask(1, 1, upload) + Ask(2, 3, report) + Ask(2, 0, "GET /v1/uploads/0123" + one) +
                  Ask(2, 0, Replace(Replace(upload, "$A", std::string(32, 'b')), "$L", "5"), "hello"));
  WriteDevice(kFedAvg, "blobs",
              Task(1) + Ask(1, 0, "GET /v1/blobs/$M" + one) + Ask(1, 0, "HEAD /v1/blobs/$M" + one) +
                  Ask(1, 0, "GET /v1/blobs/$M" + one + "\r\nRange: bytes=5-9\r\nIf-Range: \"$M\"") +
                  Ask(1, 0, "GET /v1/blobs/$M" + one + "\r\nRange: bytes=999999-") +
                  Ask(1, 0, "GET /v1/blobs/$M" + one + "\r\nIf-None-Match: \"$M\"") +
                  Ask(1, 0, "GET /v1/blobs/$M/weights" + one) + Ask(1, 0, "HEAD /v1/blobs/$M/weights" + one) +
                  Ask(1, 0, "GET /v1/blobs/../../coordinator.db" + one));
  WriteDevice(kFedAvg, "polls",
              Task(1) + Task(1) + Ask(1, 2, checkin, "\x08\x02") + Ask(1, 2, checkin, "", 2) +
                  Ask(2, 2, checkin, "", 1) + Ask(2, 2, checkin, "\x1a\x06zo_sgd"));
  WriteDevice(kFedAvg, "lengths",
              Ask(1, 2, checkin + "\r\nContent-Length: 99999999") + Ask(1, 0, "DELETE /v1/uploads/x" + one) +
                  Ask(1, 0, "POST /v1/uploads" + one + "\r\nUpload-Length: 18446744073709551615") +
                  Ask(1, 0, checkin, "\xff"));
}

// Rounds of ledgers, whose scalars come whole, uploaded, and in the short form, and of updates as int8.
void MethodRequests() {
  const std::string get = "GET /v1/blobs/", one = kDeviceHead;
  const auto scalars = [](const std::string& part = "") { return Ask(1, 7, kReport, "s" + part); };
  // When the round before is over.
  const auto next_short = [](const std::string& part = "") { return Ask(1, 7, kCheckin, part, 6); };
  WriteDevice(kLedger, "ledger-patch",
              Task(1) + Ask(1, 6, kReport) + Task(1, 6) + Work(1) + Task(1, 6) + Ask(1, 0, get + "$M/from/$P" + one) +
                  Ask(1, 0, get + "$P/from/$M" + one) + Ask(1, 0, "HEAD /v1/blobs/$M/from/$P" + one) +
                  Ask(1, 0, get + "$M/from/" + std::string(64, 'a') + one) + Ask(1, 0, get + "$M/from/../$P" + one) +
                  Ask(1, 0, get + "$M/weights" + one) + Ask(1, 0, get + "$P/weights" + one) +
                  Ask(1, 0, get + "$M" + one) + Ask(1, 6, kReport));
  WriteDevice(kLedger, "ledger-short-forms",
              Ask(1, 2, kCheckin, "\x28\x01") + scalars() + next_short() + scalars() + next_short() + scalars() +
                  scalars() + next_short());
  WriteDevice(kLedger, "ledger-other-patch",
              Ask(1, 2, kCheckin, "\x28\x01") + scalars() + next_short() + scalars() +
                  next_short("\x3a\x20" + std::string(32, 'x')) + scalars());
  WriteDevice(kLedger, "ledger-two-devices", Task(1) + Task(2) + Work(1) + Work(2) + Task(1) + Task(2) + scalars());
  const std::string other =
      zo::EncodeScalars({.steps = {{3, 0.5F}}, .weights = Sha256("other"), .skipped = 0}, zo::ScalarFormat::kFloat32);
  WriteDevice(kLedger, "ledger-bad", Task(1) + scalars("\x42\x04HDZS") + Task(2) + Ask(2, 0, kReport, "\x42\x01x"));
  WriteDevice(kLedger, "ledger-other-weights", Task(1) + scalars("\x42" + Number(other.size(), 1) + other));
  WriteDevice(
      kEncoded, "encoded",
      Task(1) + Work(1) + Task(1, 6) + Ask(1, 6, kReport) + Ask(1, 6, kReport) + Task(1, 6) + Ask(1, 7, kReport, "r"));
  WriteDevice(kEncoded, "encoded-bad", Task(1) + Ask(1, 1, kUpload, "", 1) + Ask(1, 7, kReport, "r\x32\x04HDCU"));
}

void AdminRequests() {
  const auto ask = [](const std::string& head, const std::string& body = "", int happens = 0) {
    return Number(static_cast<uint64_t>(happens), 1) + Number(head.size(), 2) + head + Number(body.size(), 2) + body;
  };
  const std::string one = " HTTP/1.1\r\nHost: localhost:7480", token = "\r\nAuthorization: Bearer $T";
  const auto get = [&](const std::string& path) { return ask("GET " + path + one); };
  const auto post = [&](const std::string& path, const std::string& body = "") {
    return ask("POST " + path + one + token, body);
  };
  const std::string submission = R"({"recipe":$R,"folder":"$F","overrides":{"seed":"2"}})";
  Write("fuzz_admin_api", "reads",
        get("/healthz") + get("/readyz") + get("/metrics") + get("/v1/config") + get("/v1/clients") + get("/v1/runs") +
            get("/v1/runs/$I") + get("/v1/runs/$I/rounds") + get("/v1/runs/$I:watch?version=3") + get("/v1/runs/x"));
  Write("fuzz_admin_api", "stop-and-submit",
        post("/v1/runs", submission) + post("/v1/runs/$I:stop") + post("/v1/runs", submission) + get("/v1/runs"));
  Write("fuzz_admin_api", "revoke",
        post("/v1/clients/phone-1:revoke") + post("/v1/clients/phone-1:revoke") + post("/v1/clients/nobody:revoke") +
            get("/v1/clients"));
  Write("fuzz_admin_api", "no-token",
        ask("POST /v1/runs/$I:stop" + one) + ask("POST /v1/runs/$I:stop" + one + "\r\nAuthorization: Bearer x") +
            ask("DELETE /v1/runs/$I" + one + token));
  Write("fuzz_admin_api", "not-utf8", post("/v1/clients/phon\xff-1:revoke"));  // was repeated in the JSON of the answer
  Write("fuzz_admin_api", "rebound",
        ask("GET /v1/clients HTTP/1.1\r\nHost: evil.example") +
            ask("GET /v1/clients" + one + "\r\nOrigin: http://evil.example"));
  Write("fuzz_admin_api", "bodies",
        post("/v1/runs", "[]") + post("/v1/runs", R"({"recipe":5,"folder":"/"})") +
            post("/v1/runs", R"({"recipe":"name = 1","folder":"relative"})") +
            post("/v1/runs", R"({"recipe":"name = 1","folder":"/","overrides":[]})") +
            ask("POST /v1/runs" + one + token, "{", 1));
}

}  // namespace

void CoordinatorSeeds() {
  DeviceRequests();
  MethodRequests();
  AdminRequests();
  Updates();
  Rounds();
  Recipes();
  Databases();
}

}  // namespace heddle::fuzz
