#include "coordinator/store/migrations.h"

#include <array>

namespace heddle::coordinator {
namespace {

// Times are microseconds since the Unix epoch, digests 32 raw bytes (zero: none), states the numbers of engine/types.h.
constexpr std::array<Migration, 6> kMigrations = {{
    {"runs, rounds and assignments", R"sql(
CREATE TABLE meta (
  key TEXT PRIMARY KEY NOT NULL,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  state INTEGER NOT NULL,
  committed_rounds INTEGER NOT NULL,
  model BLOB NOT NULL CHECK (length(model) = 32),
  reason TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  ended_at INTEGER NOT NULL,
  spec TEXT NOT NULL,
  recipe TEXT NOT NULL,
  resolved_json TEXT NOT NULL,
  material_json TEXT NOT NULL
) STRICT;

CREATE TABLE rounds (
  run TEXT NOT NULL REFERENCES runs (id),
  round INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  phase INTEGER NOT NULL,
  started_at INTEGER NOT NULL,
  selected_at INTEGER NOT NULL,
  deadline INTEGER NOT NULL,
  ended_at INTEGER NOT NULL,
  parent BLOB NOT NULL CHECK (length(parent) = 32),
  model BLOB NOT NULL CHECK (length(model) = 32),
  reason TEXT NOT NULL,
  PRIMARY KEY (run, round, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE assignments (
  id TEXT PRIMARY KEY NOT NULL,
  run TEXT NOT NULL,
  round INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  device TEXT NOT NULL,
  state INTEGER NOT NULL,
  issued_at INTEGER NOT NULL,
  reported_at INTEGER NOT NULL,
  update_sha256 BLOB NOT NULL CHECK (length(update_sha256) = 32),
  update_bytes INTEGER NOT NULL,
  refusal_reason INTEGER NOT NULL,
  message TEXT NOT NULL,
  num_examples INTEGER NOT NULL,
  num_tokens INTEGER NOT NULL,
  steps INTEGER NOT NULL,
  train_loss REAL,
  first_loss REAL,
  last_loss REAL,
  train_seconds REAL,
  peak_memory_bytes INTEGER NOT NULL,
  FOREIGN KEY (run, round, attempt) REFERENCES rounds (run, round, attempt)
) STRICT, WITHOUT ROWID;

CREATE INDEX assignments_by_attempt ON assignments (run, round, attempt);
)sql"},
    {"devices and enrolment tokens", R"sql(
CREATE TABLE devices (
  name TEXT PRIMARY KEY NOT NULL,
  serial TEXT NOT NULL,
  not_after INTEGER NOT NULL,
  enrolled_at INTEGER NOT NULL,
  revoked_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
  hash BLOB PRIMARY KEY NOT NULL CHECK (length(hash) = 32),
  device TEXT NOT NULL,
  expires_at INTEGER NOT NULL,
  used_at INTEGER
) STRICT, WITHOUT ROWID;
)sql"},
    {"at most one run is running", R"sql(
CREATE UNIQUE INDEX one_running_run ON runs (state) WHERE state = 0;
)sql"},
    {"who uploaded what, and updates that came inside their reports", R"sql(
CREATE TABLE uploads (
  assignment TEXT PRIMARY KEY NOT NULL REFERENCES assignments (id),
  sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
  bytes INTEGER NOT NULL,
  finished_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX uploads_by_blob ON uploads (sha256);

CREATE TABLE small_updates (
  assignment TEXT PRIMARY KEY NOT NULL REFERENCES assignments (id),
  content BLOB NOT NULL
) STRICT;

-- So that updates accepted by an older program still say where they came from.
INSERT INTO uploads (assignment, sha256, bytes, finished_at)
  SELECT id, update_sha256, update_bytes, reported_at FROM assignments WHERE state = 1;

CREATE INDEX assignments_by_update ON assignments (update_sha256);
)sql"},
    {"uploads by device that no committed round keeps", R"sql(
CREATE TABLE loose_uploads (
  device TEXT NOT NULL,
  assignment TEXT NOT NULL REFERENCES assignments (id),
  PRIMARY KEY (device, assignment)
) STRICT, WITHOUT ROWID;

INSERT INTO loose_uploads (device, assignment)
  SELECT a.device, a.id FROM uploads u JOIN assignments a ON a.id = u.assignment
  JOIN rounds r USING (run, round, attempt)
  WHERE a.state != 1 OR r.phase != 3 OR u.sha256 != a.update_sha256;
)sql"},
    {"how many layers of the model a task is of", R"sql(
ALTER TABLE assignments ADD COLUMN layers INTEGER NOT NULL DEFAULT 0;
)sql"},
}};

}  // namespace

std::span<const Migration> Migrations() { return kMigrations; }

}  // namespace heddle::coordinator
