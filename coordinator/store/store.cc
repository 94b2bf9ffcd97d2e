#include "coordinator/store/store.h"

#include <sqlite3.h>

#include <cerrno>
#include <cmath>
#include <limits>

#include "common/file.h"
#include "common/test_hooks.h"
#include "coordinator/store/migrations.h"
#include "coordinator/store/sqlite_store.h"

namespace heddle::coordinator {
namespace {

// Chosen so that the WAL file shrinks again after a burst.
constexpr int kWalBytesKept = 16 << 20;
// Memory grows up to this with the database and then stays. The system keeps the file's pages anyway.
constexpr int kCacheKib = 1024;

}  // namespace

Status StatusOf(const SQLite::Exception& error, const std::string& path) {
  std::string what = std::string("the database ") + path + ": " + error.what();
  int extended = error.getExtendedErrorCode();
  switch (error.getErrorCode()) {
    case SQLITE_FULL:
      return ResourceExhausted(what + "; make room on the disk");
    case SQLITE_NOMEM:
    case SQLITE_TOOBIG:
      return ResourceExhausted(what);
    case SQLITE_ERROR:  // our statements are fixed: the tables are not those they were written for
    case SQLITE_SCHEMA:
    case SQLITE_MISMATCH:
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return DataLoss(what + "; restore it from a backup");
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Unavailable(what + "; another process holds its lock");
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
      return PermissionDenied(what);
    case SQLITE_CANTOPEN:
    case SQLITE_IOERR:  // the disk of the moment
      return Unavailable(what);
    case SQLITE_CONSTRAINT:
      return extended == SQLITE_CONSTRAINT_UNIQUE || extended == SQLITE_CONSTRAINT_PRIMARYKEY
                 ? AlreadyExists(what)
                 : FailedPrecondition(what);
    default:
      return Internal(what);
  }
}

// ---- Query ----

Query& Query::Bind(const std::string& text) {
  statement_->bind(++bound_, text);
  return *this;
}
Query& Query::Bind(const Sha256Digest& digest) {
  statement_->bind(++bound_, digest.bytes().data(), static_cast<int>(Sha256Digest::kSize));
  return *this;
}
Query& Query::Bind(Time time) {
  statement_->bind(++bound_, ToUnixMicros(time));
  return *this;
}
Query& Query::Bind(uint64_t number) {
  statement_->bind(++bound_, static_cast<int64_t>(number));
  return *this;
}
Query& Query::Bind(int number) {
  statement_->bind(++bound_, number);
  return *this;
}
Query& Query::Bind(double number) {
  statement_->bind(++bound_, number);  // SQLite itself turns NaN into NULL
  return *this;
}
Query& Query::BindBlob(std::string_view bytes) {
  statement_->bindNoCopy(++bound_, bytes.data(), static_cast<int>(bytes.size()));
  return *this;
}
Query& Query::BindNull() {
  statement_->bind(++bound_);
  return *this;
}

int Query::Execute() { return statement_->exec(); }

// Strict tables take any 64-bit integer; a file that somebody else has written may hold what our types do not.
int64_t Query::Within(int column, int64_t low, int64_t high) {
  const int64_t value = statement_->getColumn(column).getInt64();
  if (value < low || value > high) {
    throw SQLite::Exception("the number " + std::to_string(value) + " where it must be from " + std::to_string(low) +
                                " to " + std::to_string(high),
                            SQLITE_CORRUPT);
  }
  return value;
}
uint32_t Query::Number32(int column) {
  return static_cast<uint32_t>(Within(column, 0, std::numeric_limits<uint32_t>::max()));
}
int Query::Int(int column) {
  return static_cast<int>(Within(column, std::numeric_limits<int>::min(), std::numeric_limits<int>::max()));
}
Time Query::TimeAt(int column) {
  constexpr int64_t kFarthest = int64_t{1} << 60;
  return FromUnixMicros(Within(column, -kFarthest, kFarthest));
}

double Query::Real(int column) {
  return IsNull(column) ? std::numeric_limits<double>::quiet_NaN() : statement_->getColumn(column).getDouble();
}

Sha256Digest Query::Digest(int column) {
  SQLite::Column value = statement_->getColumn(column);
  auto digest =
      Sha256Digest::FromBytes({static_cast<const char*>(value.getBlob()), static_cast<size_t>(value.getBytes())});
  if (!digest.ok()) throw SQLite::Exception("a digest that is not 32 bytes long", SQLITE_CORRUPT);
  return *digest;
}

Query SqliteStore::Prepared(const char* sql) {
  auto& statement = statements_[sql];
  if (!statement) statement = std::make_unique<SQLite::Statement>(*database_, sql);
  return Query(statement.get());
}

SqliteStore::Transaction::~Transaction() {
  if (committed_ || sqlite3_get_autocommit(store_.database_->getHandle()) != 0) return;  // SQLite may have done it
  try {
    store_.Prepared(kRollback).Execute();
  } catch (const std::exception&) {  // without memory or disk; the next transaction says so
  }
}

// ---- opening ----

Result<std::unique_ptr<Store>> Store::Open(const std::filesystem::path& path, const StoreOptions& options) {
  std::error_code error;
  if (!path.parent_path().empty() && !std::filesystem::is_directory(path.parent_path(), error)) {
    return NotFound("there is no folder " + path.parent_path().string() + " for the database " + path.string());
  }
  try {
    auto busy_ms = std::chrono::duration_cast<std::chrono::milliseconds>(options.busy_timeout).count();
    auto database = std::make_unique<SQLite::Database>(
        path.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE | SQLite::OPEN_NOMUTEX, static_cast<int>(busy_ms),
        options.vfs);
    auto store = std::make_unique<SqliteStore>(path.string(), std::move(database));
    HEDDLE_RETURN_IF_ERROR(store->Prepare());
    return std::unique_ptr<Store>(std::move(store));
  } catch (const SQLite::Exception& e) {
    return StatusOf(e, path.string());
  }
}

Status SqliteStore::Prepare() {
  HEDDLE_RETURN_IF_ERROR(CheckOwner());
  Status pragmas = Guarded([&]() -> Status {
    std::string mode = database_->execAndGet("PRAGMA journal_mode = WAL").getString();
    if (mode != "wal") return FailedPrecondition("the file system of " + path_ + " cannot hold a write-ahead log");
    database_->exec(HEDDLE_PLANTED(kSkipDatabaseSync) ? "PRAGMA synchronous = OFF" : "PRAGMA synchronous = FULL");
    database_->exec("PRAGMA foreign_keys = ON");
    database_->exec("PRAGMA cache_size = -" + std::to_string(kCacheKib));
    database_->exec("PRAGMA journal_size_limit = " + std::to_string(kWalBytesKept));
    for (const char* sql : {kBegin, kCommit, kRollback}) Prepared(sql);
    return OkStatus();
  });
  HEDDLE_RETURN_IF_ERROR(pragmas);
  HEDDLE_RETURN_IF_ERROR(Migrate());
  return MakeDurable();
}

// A process that was killed between the write of a commit and its fsync leaves a commit that this one reads, and would
// answer with, but that a power cut could still take. Any new commit fsyncs the whole log; this one must change a row,
// since SQLite writes no page whose content stays the same.
Status SqliteStore::MakeDurable() {
  return InTransaction([&]() -> Status {
    Prepared(
        "INSERT INTO meta (key, value) VALUES ('opened', '1') "
        "ON CONFLICT (key) DO UPDATE SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT)")
        .Execute();
    return OkStatus();
  });
}

// A file that is somebody else's is left as it is.
Status SqliteStore::CheckOwner() {
  return Guarded([&]() -> Status {
    int id = database_->execAndGet("PRAGMA application_id").getInt();
    int tables = database_->execAndGet("SELECT count(*) FROM sqlite_schema").getInt();
    if (id == kApplicationId || (id == 0 && tables == 0)) return OkStatus();
    return InvalidArgument("the file " + path_ + " is a database of another program; choose another state folder");
  });
}

int SqliteStore::SchemaVersion() {
  if (!database_->tableExists("schema_versions")) return 0;
  return database_->execAndGet("SELECT coalesce(max(version), 0) FROM schema_versions").getInt();
}

Status SqliteStore::Migrate() {
  size_t newest = Migrations().size();
  int version = 0;
  HEDDLE_RETURN_IF_ERROR(Guarded([&]() -> Status {
    version = SchemaVersion();
    return OkStatus();
  }));
  if (version < 0 || static_cast<size_t>(version) > newest) {
    return FailedPrecondition("the database " + path_ + " has schema version " + std::to_string(version) +
                              " but this program knows versions up to " + std::to_string(newest) +
                              "; run the newer program that wrote it");
  }
  for (size_t next = static_cast<size_t>(version); next < newest; ++next) HEDDLE_RETURN_IF_ERROR(MigrateOnce(next));
  return OkStatus();
}

Status SqliteStore::MigrateOnce(size_t version) {
  const Migration& migration = Migrations()[version];
  Status status = InTransaction([&]() -> Status {
    // Another process may have been faster.
    if (static_cast<size_t>(SchemaVersion()) > version) return OkStatus();
    if (version == 0) {
      database_->exec("PRAGMA application_id = " + std::to_string(kApplicationId));
      database_->exec("CREATE TABLE schema_versions (version INTEGER PRIMARY KEY NOT NULL, what TEXT NOT NULL) STRICT");
    }
    database_->exec(migration.sql);
    return Prepared("INSERT INTO schema_versions (version, what) VALUES (?, ?)")
                       .Bind(uint64_t{version + 1})
                       .Bind(std::string(migration.what))
                       .Execute() == 1
               ? OkStatus()
               : Internal("the schema version of " + path_ + " was not written");
  });
  return status.Annotate("cannot bring the schema to version " + std::to_string(version + 1));
}

// ---- meta ----

Result<std::optional<std::string>> SqliteStore::GetMeta(const std::string& key) {
  return Guarded([&]() -> Result<std::optional<std::string>> {
    Query query = Prepared("SELECT value FROM meta WHERE key = ?");
    query.Bind(key);
    if (!query.Next()) return std::optional<std::string>();
    return std::optional<std::string>(query.Text(0));
  });
}

Status SqliteStore::SetMeta(const std::string& key, const std::string& value) {
  return InTransaction([&]() -> Status {
    Prepared("INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value")
        .Bind(key)
        .Bind(value)
        .Execute();
    return OkStatus();
  });
}

}  // namespace heddle::coordinator
