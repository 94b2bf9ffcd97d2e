// Rows as no coordinator wrote them: a run in the middle of a round, some of whose fields are set to what the input
// says. A restart takes the run up or refuses with a sentence; when it goes on, so it does through check-ins, a late
// report, deadlines and a stop.
//
// The input is lines: a byte that picks the field, then the value, decimal or text as the field asks.
#include <SQLiteCpp/SQLiteCpp.h>

#include <array>
#include <charconv>

#include "common/file.h"
#include "common/safetensors.h"
#include "coordinator/service/run_core.h"
#include "coordinator/store/run_spec_json.h"
#include "tests/fuzz/scratch.h"

using heddle::fuzz::Require;
using namespace heddle;
using namespace heddle::coordinator;

namespace {

const RunId kRun("demo-01234567");
const Time kNow = FromUnixMicros(1'700'000'000'000'000);

struct Field {
  const char* table;
  const char* column;
  bool text;
};
// New fields at the end: the seeds name them by their place.
constexpr std::array kFields = {
    Field{"runs", "state", false},
    Field{"runs", "committed_rounds", false},
    Field{"runs", "reason", true},
    Field{"runs", "started_at", false},
    Field{"runs", "ended_at", false},
    Field{"runs", "spec", true},
    Field{"runs", "recipe", true},
    Field{"runs", "resolved_json", true},
    Field{"runs", "material_json", true},
    Field{"rounds", "round", false},
    Field{"rounds", "attempt", false},
    Field{"rounds", "phase", false},
    Field{"rounds", "started_at", false},
    Field{"rounds", "selected_at", false},
    Field{"rounds", "deadline", false},
    Field{"rounds", "ended_at", false},
    Field{"rounds", "reason", true},
    Field{"assignments", "round", false},
    Field{"assignments", "attempt", false},
    Field{"assignments", "device", true},
    Field{"assignments", "state", false},
    Field{"assignments", "issued_at", false},
    Field{"assignments", "reported_at", false},
    Field{"assignments", "update_bytes", false},
    Field{"assignments", "refusal_reason", false},
    Field{"assignments", "message", true},
    Field{"assignments", "num_examples", false},
    Field{"assignments", "num_tokens", false},
    Field{"assignments", "steps", false},
    Field{"assignments", "peak_memory_bytes", false},
    Field{"devices", "not_after", false},
    Field{"devices", "revoked_at", false},
    Field{"assignments", "layers", false},
};

constexpr char kRecipe[] =
    "name = 'demo'\nseed = 1\n[model]\nbase = 'base'\n[strategy]\nnum_server_rounds = 3\ncohort_size = 2\n";

class FixedClock final : public Clock {
 public:
  Time Now() const override { return now; }
  Time now = kNow;
};

StateDict Model(float value) {
  return {{"base_model.model.q_proj.lora_A.weight", Tensor::FromFloats({1}, std::span(&value, 1))}};
}

class World {
 public:
  World() {
    auto blobs = BlobStore::Open({.root = scratch_.path() / "state"});
    Require(blobs.ok(), "the test's blobs can be opened", blobs.status().message());
    blobs_ = *std::move(blobs);
    model_ = blobs_->Put(SerializeSafetensors(Model(1))).value();
    update_ = blobs_->Put(SerializeSafetensors(Model(0.5F))).value();
    auto store = Store::Open(scratch_ / "coordinator.db");
    Require(store.ok(), "the test's store can be opened", store.status().message());
    store_ = *std::move(store);
    raw_ = std::make_unique<SQLite::Database>((scratch_ / "coordinator.db").string(), SQLite::OPEN_READWRITE);
    raw_->exec("PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF");
  }

  // The run as its coordinator left it: round 2 of 3 collects, one update is in, one device is at work.
  void Reset() {
    raw_->exec("DELETE FROM assignments; DELETE FROM rounds; DELETE FROM runs; DELETE FROM devices");
    std::error_code ignored;
    std::filesystem::remove_all(scratch_ / "runs", ignored);
    RunOrigin origin;
    origin.spec.id = kRun;
    origin.spec.local_task = "lora_sft";
    origin.spec.rounds = 3;
    origin.spec.cohort_size = 2;
    origin.spec.min_available_devices = 2;
    origin.spec.max_update_bytes = 4096;
    origin.recipe = kRecipe;
    origin.resolved_json = "{}";
    origin.material_json = R"({"folder":"/nowhere","overrides":{},"base_model":[{"name":"config.json","sha256":")" +
                           model_.ToHex() + R"(","size_bytes":7}],"initial_adapter_sha256":")" + model_.ToHex() +
                           R"(","adapter_config":"{}"})";
    RunRecord run{.id = kRun, .committed_rounds = 1, .model = model_, .started_at = kNow - Seconds(100)};
    RoundRecord first{.run = kRun, .phase = RoundPhase::kCommitted, .parent = model_, .model = model_};
    RoundRecord second{.run = kRun, .round = 2, .phase = RoundPhase::kCollecting, .parent = model_};
    first.started_at = second.started_at = kNow - Seconds(50);
    second.selected_at = kNow - Seconds(40);
    second.deadline = kNow + Seconds(600);
    AssignmentRecord open{.id = AssignmentId(std::string(32, 'a')), .run = kRun, .round = 2, .device = DeviceId("a")};
    open.issued_at = kNow - Seconds(40);
    AssignmentRecord accepted = open;
    accepted.id = AssignmentId(std::string(32, 'b'));
    accepted.device = DeviceId("b");
    accepted.state = AssignmentState::kAccepted;
    accepted.reported_at = kNow - Seconds(10);
    accepted.update = update_;
    accepted.update_bytes = 100;
    accepted.metrics.num_examples = 10;
    AssignmentRecord old = accepted;
    old.id = AssignmentId(std::string(32, 'c'));
    old.round = 1;
    const std::vector<Record> writes = {run, first, second, open, accepted, old};
    const Status created = store_->CreateRun(origin, writes);
    Require(created.ok(), "the test's run can be stored", created.message());
    raw_->exec("INSERT INTO devices VALUES ('a', '01', 1, 1, NULL)");
  }

  void Set(const Field& field, std::string_view value) {
    const std::string where = std::string_view(field.table) == "assignments" ? " WHERE round = 2"
                              : std::string_view(field.table) == "rounds"    ? " WHERE round != 1"
                                                                             : "";
    try {
      SQLite::Statement set(*raw_, std::string("UPDATE ") + field.table + " SET " + field.column + " = ?" + where);
      int64_t number = 0;
      std::from_chars(value.data(), value.data() + value.size(), number);
      if (field.text) {
        set.bind(1, std::string(value));
      } else {
        set.bind(1, number);
      }
      set.exec();
    } catch (const SQLite::Exception&) {
      // A constraint of the schema: such a row cannot be.
    }
  }

  void Run() {
    clock_.now = kNow;
    (void)store_->ListRuns();
    (void)store_->ListDevices();
    (void)store_->ListRounds(kRun);
    (void)store_->ReferencedBlobs();
    RunCoreOptions options;
    options.store = store_.get();
    options.blobs = blobs_.get();
    options.clock = &clock_;
    options.runs_folder = scratch_ / "runs";
    auto core = RunCore::Resume(options, kRun);
    if (!core.ok()) {
      const Code code = core.status().code();
      Require(code == Code::kDataLoss || code == Code::kInvalidArgument || code == Code::kNotFound ||
                  code == Code::kFailedPrecondition,
              "a run that cannot be taken up is refused with its kind of error", core.status().ToString());
      Require(!core.status().message().empty(), "and a sentence");
      return;
    }
    (void)(*core)->Progress();
    GoOn(**core);
  }

 private:
  void GoOn(RunCore& core) {
    ReportEvent late;
    late.assignment = AssignmentId(std::string(32, 'c'));
    late.device = DeviceId("b");
    late.completed = true;
    late.update = update_;
    if (auto stored = store_->FindAssignment(late.assignment); stored.ok()) late.stored = *stored;
    ReportEvent good = late;
    good.assignment = AssignmentId(std::string(32, 'a'));
    good.device = DeviceId("a");
    good.metrics.num_examples = 5;
    good.stored.reset();
    const std::vector<Event> events = {CheckinEvent{1, DeviceId("a"), {"lora_sft"}, 150},
                                       late,
                                       CheckinEvent{2, DeviceId("d"), {"lora_sft"}, 50},
                                       good,
                                       TickEvent{},
                                       TickEvent{},
                                       StopRunEvent{"the test is over"}};
    for (const Event& event : events) {
      const auto answers = core.Handle(event);
      if (answers.ok()) continue;
      const Code code = answers.status().code();
      Require(code != Code::kInternal && code != Code::kUnknown, "an error has its kind", answers.status().ToString());
      clock_.now += Seconds(400);
    }
    (void)core.NextDeadline();
    (void)core.Progress();
  }

  const fuzz::Scratch scratch_;
  FixedClock clock_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<SQLite::Database> raw_;
  Sha256Digest model_, update_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 4096) return 0;
  static World world;
  world.Reset();
  fuzz::Input input(data, size);
  while (!input.rest().empty()) {
    const Field& field = kFields[input.TakeByte() % kFields.size()];
    world.Set(field, input.TakeLine());
  }
  world.Run();
  return 0;
}
