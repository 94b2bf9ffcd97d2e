#include <algorithm>

#include "common/test_hooks.h"
#include "coordinator/store/run_spec_json.h"
#include "coordinator/store/sqlite_store.h"

namespace heddle::coordinator {
namespace {

#define HEDDLE_RUN_COLUMNS "id, state, committed_rounds, model, reason, started_at, ended_at"
#define HEDDLE_ROUND_COLUMNS \
  "run, round, attempt, phase, started_at, selected_at, deadline, ended_at, parent, model, reason"
#define HEDDLE_ASSIGNMENT_COLUMNS                                                                                   \
  "id, run, round, attempt, device, state, issued_at, reported_at, update_sha256, update_bytes, refusal_reason, "   \
  "message, num_examples, num_tokens, steps, train_loss, first_loss, last_loss, train_seconds, peak_memory_bytes, " \
  "layers"

constexpr const char* kUpdateRun =
    "UPDATE runs SET state = ?, committed_rounds = ?, model = ?, reason = ?, started_at = ?, ended_at = ? "
    "WHERE id = ?";
constexpr const char* kUpsertRound =
    "INSERT INTO rounds (" HEDDLE_ROUND_COLUMNS
    ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (run, round, attempt) DO UPDATE SET phase = excluded.phase, started_at = excluded.started_at, "
    "selected_at = excluded.selected_at, deadline = excluded.deadline, ended_at = excluded.ended_at, "
    "parent = excluded.parent, model = excluded.model, reason = excluded.reason";
// What an assignment was given out as never changes.
constexpr const char* kUpsertAssignment =
    "INSERT INTO assignments (" HEDDLE_ASSIGNMENT_COLUMNS
    ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET state = excluded.state, reported_at = excluded.reported_at, "
    "update_sha256 = excluded.update_sha256, update_bytes = excluded.update_bytes, "
    "refusal_reason = excluded.refusal_reason, message = excluded.message, num_examples = excluded.num_examples, "
    "num_tokens = excluded.num_tokens, steps = excluded.steps, train_loss = excluded.train_loss, "
    "first_loss = excluded.first_loss, last_loss = excluded.last_loss, train_seconds = excluded.train_seconds, "
    "peak_memory_bytes = excluded.peak_memory_bytes "
    "WHERE run = excluded.run AND round = excluded.round AND attempt = excluded.attempt AND device = excluded.device "
    "AND layers = excluded.layers";

RunRecord ReadRun(Query& query) {
  RunRecord run;
  run.id = RunId(query.Text(0));
  run.state = static_cast<RunState>(query.Int(1));
  run.committed_rounds = query.Number32(2);
  run.model = query.Digest(3);
  run.reason = query.Text(4);
  run.started_at = query.TimeAt(5);
  run.ended_at = query.TimeAt(6);
  return run;
}

RoundRecord ReadRound(Query& query) {
  RoundRecord round;
  round.run = RunId(query.Text(0));
  round.round = query.Number32(1);
  round.attempt = query.Number32(2);
  round.phase = static_cast<RoundPhase>(query.Int(3));
  round.started_at = query.TimeAt(4);
  round.selected_at = query.TimeAt(5);
  round.deadline = query.TimeAt(6);
  round.ended_at = query.TimeAt(7);
  round.parent = query.Digest(8);
  round.model = query.Digest(9);
  round.reason = query.Text(10);
  return round;
}

AssignmentRecord ReadAssignment(Query& query) {
  AssignmentRecord a;
  a.id = AssignmentId(query.Text(0));
  a.run = RunId(query.Text(1));
  a.round = query.Number32(2);
  a.attempt = query.Number32(3);
  a.device = DeviceId(query.Text(4));
  a.state = static_cast<AssignmentState>(query.Int(5));
  a.issued_at = query.TimeAt(6);
  a.reported_at = query.TimeAt(7);
  a.update = query.Digest(8);
  a.update_bytes = query.Number(9);
  a.refusal_reason = query.Int(10);
  a.message = query.Text(11);
  a.metrics.num_examples = query.Number(12);
  a.metrics.num_tokens = query.Number(13);
  a.metrics.steps = query.Number32(14);
  a.metrics.train_loss = query.Real(15);
  a.metrics.first_loss = query.Real(16);
  a.metrics.last_loss = query.Real(17);
  a.metrics.train_seconds = query.Real(18);
  a.metrics.peak_memory_bytes = query.Number(19);
  a.layers = query.Number32(20);
  return a;
}

}  // namespace

// ---- writing ----

Status SqliteStore::Write(const RunRecord& run) {
  int changed = Prepared(kUpdateRun)
                    .Bind(static_cast<int>(run.state))
                    .Bind(run.committed_rounds)
                    .Bind(run.model)
                    .Bind(run.reason)
                    .Bind(run.started_at)
                    .Bind(run.ended_at)
                    .Bind(run.id.value())
                    .Execute();
  return changed == 1 ? OkStatus() : FailedPrecondition("there is no run " + run.id.value() + " in " + path_);
}

Status SqliteStore::Write(const RoundRecord& round) {
  Prepared(kUpsertRound)
      .Bind(round.run.value())
      .Bind(round.round)
      .Bind(round.attempt)
      .Bind(static_cast<int>(round.phase))
      .Bind(round.started_at)
      .Bind(round.selected_at)
      .Bind(round.deadline)
      .Bind(round.ended_at)
      .Bind(round.parent)
      .Bind(round.model)
      .Bind(round.reason)
      .Execute();
  return OkStatus();
}

Status SqliteStore::Write(const AssignmentRecord& a) {
  int changed = Prepared(kUpsertAssignment)
                    .Bind(a.id.value())
                    .Bind(a.run.value())
                    .Bind(a.round)
                    .Bind(a.attempt)
                    .Bind(a.device.value())
                    .Bind(static_cast<int>(a.state))
                    .Bind(a.issued_at)
                    .Bind(a.reported_at)
                    .Bind(a.update)
                    .Bind(a.update_bytes)
                    .Bind(a.refusal_reason)
                    .Bind(a.message)
                    .Bind(a.metrics.num_examples)
                    .Bind(a.metrics.num_tokens)
                    .Bind(a.metrics.steps)
                    .Bind(a.metrics.train_loss)
                    .Bind(a.metrics.first_loss)
                    .Bind(a.metrics.last_loss)
                    .Bind(a.metrics.train_seconds)
                    .Bind(a.metrics.peak_memory_bytes)
                    .Bind(a.layers)
                    .Execute();
  return changed == 1 ? OkStatus()
                      : FailedPrecondition("assignment " + a.id.value() + " exists for another device or attempt");
}

Status SqliteStore::Write(const Record& record) {
  return std::visit([&](const auto& row) { return Write(row); }, record);
}

Status SqliteStore::Apply(std::span<const Record> writes, std::span<const SmallUpdate> updates) {
  if (writes.empty() && updates.empty()) return OkStatus();
  if (HEDDLE_PLANTED(kSplitTransaction) && updates.empty()) {
    for (const Record& record : writes) HEDDLE_RETURN_IF_ERROR(InTransaction([&] { return Write(record); }));
    return OkStatus();
  }
  HEDDLE_RETURN_IF_ERROR(InTransaction([&]() -> Status {
    for (const Record& record : writes) HEDDLE_RETURN_IF_ERROR(Write(record));
    for (const SmallUpdate& update : updates) {
      Prepared("INSERT INTO small_updates (assignment, content) VALUES (?, ?)")
          .Bind(update.assignment.value())
          .BindBlob(*update.content)
          .Execute();
    }
    HEDDLE_FAILPOINT(kStepWritten);
    return OkStatus();
  }));
  HEDDLE_FAILPOINT(kStepCommitted);
  return OkStatus();
}

Status SqliteStore::CreateRun(const RunOrigin& origin, std::span<const Record> writes) {
  return InTransaction([&]() -> Status {
    const std::string& id = origin.spec.id.value();
    {
      Query query = Prepared("SELECT id FROM runs WHERE id = ? OR state = 0");
      query.Bind(id);
      while (query.Next()) {
        if (query.Text(0) == id) return AlreadyExists("there is a run " + id + " already");
        return FailedPrecondition("run " + query.Text(0) + " is still running; stop it or wait for its end");
      }
    }
    // The row gets its content from the engine's own write; until then it is in no legal state.
    Prepared("INSERT INTO runs (" HEDDLE_RUN_COLUMNS
             ", spec, recipe, resolved_json, material_json) "
             "VALUES (?, -1, 0, zeroblob(32), '', 0, 0, ?, ?, ?, ?)")
        .Bind(id)
        .Bind(RunSpecToJson(origin.spec))
        .Bind(origin.recipe)
        .Bind(origin.resolved_json)
        .Bind(origin.material_json)
        .Execute();
    for (const Record& record : writes) HEDDLE_RETURN_IF_ERROR(Write(record));
    Query query = Prepared("SELECT state FROM runs WHERE id = ?");
    query.Bind(id);
    if (!query.Next() || query.Int(0) < 0) return InvalidArgument("the first step of run " + id + " has no row for it");
    return OkStatus();
  });
}

// ---- reading ----

Result<StoredRun> SqliteStore::GetRun(const RunId& id) {
  return Guarded([&]() -> Result<StoredRun> {
    Query query =
        Prepared("SELECT " HEDDLE_RUN_COLUMNS ", spec, recipe, resolved_json, material_json FROM runs WHERE id = ?");
    query.Bind(id.value());
    if (!query.Next()) return NotFound("there is no run " + id.value());
    StoredRun stored;
    stored.run = ReadRun(query);
    HEDDLE_ASSIGN_OR_RETURN(stored.origin.spec, RunSpecFromJson(query.Text(7)));
    stored.origin.recipe = query.Text(8);
    stored.origin.resolved_json = query.Text(9);
    stored.origin.material_json = query.Text(10);
    return stored;
  });
}

Result<std::vector<RunRecord>> SqliteStore::ListRuns() {
  return Guarded([&]() -> Result<std::vector<RunRecord>> {
    std::vector<RunRecord> runs;
    Query query = Prepared("SELECT " HEDDLE_RUN_COLUMNS " FROM runs ORDER BY sequence DESC");
    while (query.Next()) runs.push_back(ReadRun(query));
    return runs;
  });
}

Result<std::optional<RunId>> SqliteStore::ActiveRun() {
  return Guarded([&]() -> Result<std::optional<RunId>> {
    Query query = Prepared("SELECT id FROM runs WHERE state = 0");
    if (!query.Next()) return std::optional<RunId>();
    return std::optional<RunId>(RunId(query.Text(0)));
  });
}

std::vector<AssignmentRecord> SqliteStore::Assignments(const RunId& id, uint32_t round, uint32_t attempt) {
  std::vector<AssignmentRecord> assignments;
  Query query = Prepared("SELECT " HEDDLE_ASSIGNMENT_COLUMNS
                         " FROM assignments WHERE run = ? AND round = ? AND attempt = ? ORDER BY id");
  query.Bind(id.value()).Bind(round).Bind(attempt);
  while (query.Next()) assignments.push_back(ReadAssignment(query));
  return assignments;
}

Result<Snapshot> SqliteStore::LoadSnapshot(const RunId& id) {
  return InTransaction([&]() -> Result<Snapshot> {
    Snapshot snapshot;
    Query run = Prepared("SELECT " HEDDLE_RUN_COLUMNS " FROM runs WHERE id = ?");
    run.Bind(id.value());
    if (!run.Next()) return NotFound("there is no run " + id.value());
    snapshot.run = ReadRun(run);
    Query round =
        Prepared("SELECT " HEDDLE_ROUND_COLUMNS " FROM rounds WHERE run = ? ORDER BY round DESC, attempt DESC LIMIT 1");
    round.Bind(id.value());
    if (!round.Next()) return snapshot;
    snapshot.round = ReadRound(round);
    snapshot.assignments = Assignments(id, snapshot.round->round, snapshot.round->attempt);
    return snapshot;
  });
}

Result<std::optional<AssignmentRecord>> SqliteStore::FindAssignment(const AssignmentId& id) {
  return Guarded([&]() -> Result<std::optional<AssignmentRecord>> {
    Query query = Prepared("SELECT " HEDDLE_ASSIGNMENT_COLUMNS " FROM assignments WHERE id = ?");
    query.Bind(id.value());
    if (!query.Next()) return std::optional<AssignmentRecord>();
    return std::optional<AssignmentRecord>(ReadAssignment(query));
  });
}

Result<std::vector<RoundRecord>> SqliteStore::ListRounds(const RunId& id) {
  return Guarded([&]() -> Result<std::vector<RoundRecord>> {
    std::vector<RoundRecord> rounds;
    Query query = Prepared("SELECT " HEDDLE_ROUND_COLUMNS " FROM rounds WHERE run = ? ORDER BY round, attempt");
    query.Bind(id.value());
    while (query.Next()) rounds.push_back(ReadRound(query));
    return rounds;
  });
}

Result<std::vector<AssignmentRecord>> SqliteStore::ListAssignments(const RunId& id, uint32_t round, uint32_t attempt) {
  return Guarded([&]() -> Result<std::vector<AssignmentRecord>> { return Assignments(id, round, attempt); });
}

// ---- uploads ----

Result<std::string> SqliteStore::GetSmallUpdate(const AssignmentId& id) {
  return Guarded([&]() -> Result<std::string> {
    Query query = Prepared("SELECT content FROM small_updates WHERE assignment = ?");
    query.Bind(id.value());
    if (!query.Next()) return NotFound("assignment " + id.value() + " has no update that came inside its report");
    return query.Text(0);
  });
}

Result<size_t> SqliteStore::DeleteSmallUpdates(uint32_t keep_rounds) {
  return InTransaction([&]() -> Result<size_t> {
    Query query = Prepared(
        "DELETE FROM small_updates WHERE assignment IN (SELECT a.id FROM small_updates s JOIN assignments a ON "
        "a.id = s.assignment JOIN rounds r USING (run, round, attempt) JOIN runs ON runs.id = a.run "
        "WHERE r.phase = 4 OR r.round + ?1 <= runs.committed_rounds)");
    query.Bind(keep_rounds);
    return static_cast<size_t>(query.Execute());
  });
}

bool SqliteStore::IsNamed(const Sha256Digest& digest) {
  Query query = Prepared(
      "SELECT EXISTS (SELECT 1 FROM uploads WHERE sha256 = ?1) OR "
      "EXISTS (SELECT 1 FROM assignments WHERE update_sha256 = ?1 AND state = 1) OR "
      "EXISTS (SELECT 1 FROM runs WHERE model = ?1) OR EXISTS (SELECT 1 FROM rounds WHERE model = ?1 OR parent = ?1)");
  query.Bind(digest);
  return query.Next() && query.Int(0) != 0;
}

// Of the device's uploads those that no round will ask for again. What a committed round has counted is no longer
// loose.
std::vector<std::pair<std::string, Sha256Digest>> SqliteStore::ForgottenUploads(const std::string& device,
                                                                                const std::string& but) {
  Prepared(
      "DELETE FROM loose_uploads WHERE device = ? AND EXISTS (SELECT 1 FROM assignments a JOIN uploads u ON "
      "u.assignment = a.id JOIN rounds r USING (run, round, attempt) WHERE a.id = loose_uploads.assignment AND "
      "a.state = 1 AND r.phase = 3 AND u.sha256 = a.update_sha256)")
      .Bind(device)
      .Execute();
  std::vector<std::pair<std::string, Sha256Digest>> forgotten;
  Query query = Prepared(
      "SELECT u.assignment, u.sha256 FROM loose_uploads l JOIN assignments a ON a.id = l.assignment JOIN uploads u ON "
      "u.assignment = a.id JOIN rounds r USING (run, round, attempt) WHERE l.device = ? AND a.id != ? AND "
      "a.state != 0 AND (a.state != 1 OR r.phase = 4 OR u.sha256 != a.update_sha256)");
  query.Bind(device).Bind(but);
  while (query.Next()) forgotten.emplace_back(query.Text(0), query.Digest(1));
  return forgotten;
}

Result<RecordedUpload> SqliteStore::RecordUpload(const AssignmentId& assignment, const Sha256Digest& digest,
                                                 uint64_t bytes, Time now) {
  return InTransaction([&]() -> Result<RecordedUpload> {
    std::string device;
    RecordedUpload recorded;
    std::vector<Sha256Digest> left;
    {
      Query query = Prepared("SELECT device, state FROM assignments WHERE id = ?");
      query.Bind(assignment.value());
      if (!query.Next()) return FailedPrecondition("there is no assignment " + assignment.value() + " in " + path_);
      device = query.Text(0);
      recorded.open = query.Int(1) == 0;
    }
    if (!recorded.open) {
      left.push_back(digest);
    } else {
      {
        Query query = Prepared("SELECT sha256 FROM uploads WHERE assignment = ?");
        query.Bind(assignment.value());
        if (query.Next()) left.push_back(query.Digest(0));
      }
      Prepared(
          "INSERT INTO uploads (assignment, sha256, bytes, finished_at) VALUES (?, ?, ?, ?) ON CONFLICT (assignment) "
          "DO UPDATE SET sha256 = excluded.sha256, bytes = excluded.bytes, finished_at = excluded.finished_at")
          .Bind(assignment.value())
          .Bind(digest)
          .Bind(bytes)
          .Bind(now)
          .Execute();
      Prepared("INSERT OR IGNORE INTO loose_uploads (device, assignment) VALUES (?, ?)")
          .Bind(device)
          .Bind(assignment.value())
          .Execute();
      const auto forgotten = ForgottenUploads(device, assignment.value());
      for (const auto& [of, what] : forgotten) {
        Prepared("DELETE FROM loose_uploads WHERE device = ? AND assignment = ?").Bind(device).Bind(of).Execute();
        Prepared("DELETE FROM uploads WHERE assignment = ?").Bind(of).Execute();
        left.push_back(what);
      }
    }
    for (const Sha256Digest& one : left) {
      if (!IsNamed(one)) recorded.unneeded.push_back(one);
    }
    return recorded;
  });
}

Result<std::optional<Sha256Digest>> SqliteStore::FindUpload(const AssignmentId& assignment) {
  return Guarded([&]() -> Result<std::optional<Sha256Digest>> {
    Query query = Prepared("SELECT sha256 FROM uploads WHERE assignment = ?");
    query.Bind(assignment.value());
    if (!query.Next()) return std::optional<Sha256Digest>();
    return std::optional<Sha256Digest>(query.Digest(0));
  });
}

Result<bool> SqliteStore::IsReferenced(const Sha256Digest& digest) {
  return Guarded([&]() -> Result<bool> { return IsNamed(digest); });
}

Result<std::vector<Sha256Digest>> SqliteStore::ReferencedBlobs(uint32_t keep_rounds) {
  return Guarded([&]() -> Result<std::vector<Sha256Digest>> {
    std::vector<Sha256Digest> blobs;
    // States and phases by number: 0 open, 1 accepted, 4 abandoned. Updates of abandoned attempts are in no model.
    Query query = Prepared(
        "SELECT model FROM runs UNION SELECT parent FROM rounds UNION SELECT model FROM rounds UNION "
        "SELECT a.update_sha256 FROM assignments a JOIN rounds r USING (run, round, attempt) JOIN runs ON runs.id = "
        "a.run "
        "WHERE a.state = 1 AND r.phase != 4 AND (?1 = 0 OR r.round + ?1 > runs.committed_rounds) UNION "
        "SELECT u.sha256 FROM uploads u JOIN assignments a ON a.id = u.assignment WHERE a.state = 0");
    query.Bind(keep_rounds);
    while (query.Next() && !HEDDLE_PLANTED(kForgetReferences)) {
      Sha256Digest digest = query.Digest(0);
      if (!digest.IsZero()) blobs.push_back(digest);
    }
    std::sort(blobs.begin(), blobs.end());
    return blobs;
  });
}

}  // namespace heddle::coordinator
