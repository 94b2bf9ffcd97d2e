// Private to the store: the Store over one SQLite connection. Only .cc files of this folder include it.
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "common/test_hooks.h"
#include "coordinator/store/store.h"

namespace heddle::coordinator {

// The Status of an exception of SQLiteCpp: see the list in store.h.
Status StatusOf(const SQLite::Exception& error, const std::string& path);

// A prepared statement in use; given back clean. Binding is by position, in the order of the calls.
class Query {
 public:
  explicit Query(SQLite::Statement* statement) : statement_(statement) {}
  ~Query() {
    statement_->tryReset();
    statement_->clearBindings();
  }
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;

  Query& Bind(const std::string& text);
  Query& Bind(const Sha256Digest& digest);
  Query& Bind(Time time);
  Query& Bind(uint64_t number);  // kept bit by bit in SQLite's signed 64 bits
  Query& Bind(uint32_t number) { return Bind(uint64_t{number}); }
  Query& Bind(int number);
  Query& Bind(double number);  // NaN is kept as NULL
  Query& BindNull();
  // Not copied: `bytes` must live as long as this query.
  Query& BindBlob(std::string_view bytes);

  bool Next() { return statement_->executeStep(); }
  // Runs a statement without rows; returns how many rows it changed.
  int Execute();

  std::string Text(int column) { return statement_->getColumn(column).getString(); }
  uint64_t Number(int column) { return static_cast<uint64_t>(statement_->getColumn(column).getInt64()); }
  uint32_t Number32(int column);  // what is read is within the type's range, or an exception says SQLITE_CORRUPT
  int Int(int column);
  double Real(int column);
  Time TimeAt(int column);  // within 36,000 years of 1970, so that times can be added and subtracted
  bool IsNull(int column) { return statement_->getColumn(column).isNull(); }
  Sha256Digest Digest(int column);  // 32 bytes, which the schema checks

 private:
  int64_t Within(int column, int64_t low, int64_t high);

  SQLite::Statement* statement_;
  int bound_ = 0;
};

class SqliteStore final : public Store {
 public:
  SqliteStore(std::string path, std::unique_ptr<SQLite::Database> database)
      : path_(std::move(path)), database_(std::move(database)) {}

  // Pragmas, ownership check and migrations.
  Status Prepare();

  Status CreateRun(const RunOrigin& origin, std::span<const Record> writes) override;
  Status Apply(std::span<const Record> writes, std::span<const SmallUpdate> updates) override;
  Result<std::string> GetSmallUpdate(const AssignmentId& id) override;
  Result<RecordedUpload> RecordUpload(const AssignmentId& assignment, const Sha256Digest& digest, uint64_t bytes,
                                      Time now) override;
  Result<std::optional<Sha256Digest>> FindUpload(const AssignmentId& assignment) override;
  Result<StoredRun> GetRun(const RunId& id) override;
  Result<std::vector<RunRecord>> ListRuns() override;
  Result<std::optional<RunId>> ActiveRun() override;
  Result<Snapshot> LoadSnapshot(const RunId& id) override;
  Result<std::optional<AssignmentRecord>> FindAssignment(const AssignmentId& id) override;
  Result<std::vector<RoundRecord>> ListRounds(const RunId& id) override;
  Result<std::vector<AssignmentRecord>> ListAssignments(const RunId& id, uint32_t round, uint32_t attempt) override;
  Result<std::vector<Sha256Digest>> ReferencedBlobs(uint32_t keep_rounds) override;
  Result<bool> IsReferenced(const Sha256Digest& digest) override;
  Result<size_t> DeleteSmallUpdates(uint32_t keep_rounds) override;

  Status CreateToken(const Sha256Digest& token_hash, const DeviceId& device, Time expires_at) override;
  Result<DeviceId> CheckToken(const Sha256Digest& token_hash, Time now) override;
  Status RedeemToken(const Sha256Digest& token_hash, Time now, const DeviceRecord& device) override;
  Result<size_t> DeleteExpiredTokens(Time before) override;

  Result<std::vector<DeviceRecord>> ListDevices() override;
  Result<std::optional<DeviceRecord>> GetDevice(const DeviceId& device) override;
  Status RevokeDevice(const DeviceId& device, Time now) override;
  Status RenewDevice(const DeviceId& device, const std::string& serial, Time not_after) override;

  Result<std::optional<std::string>> GetMeta(const std::string& key) override;
  Status SetMeta(const std::string& key, const std::string& value) override;

 private:
  // The wall: runs `body`, which returns a Status or Result, under the mutex; exceptions become a Status.
  template <typename Body>
  auto Guarded(Body body) -> decltype(body()) {
    std::lock_guard lock(mutex_);
    try {
      return body();
    } catch (const SQLite::Exception& error) {
      return StatusOf(error, path_);
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("no memory for the database " + path_);
    }
  }

  // The same in one transaction, which commits when the result is ok. It takes the write lock at once: a transaction
  // that starts as a reader and then cannot become a writer would fail without waiting.
  template <typename Body>
  auto InTransaction(Body body) -> decltype(body()) {
    return Guarded([&]() -> decltype(body()) {
      Transaction transaction(*this);
      auto result = body();
      if (!result.ok()) return result;
      HEDDLE_FAILPOINT(kUncommitted);
      transaction.Commit();
      HEDDLE_FAILPOINT(kCommitted);
      return result;
    });
  }

  // `sql` is a literal: statements are prepared once and kept.
  Query Prepared(const char* sql);

  // Rolled back unless it commits. As SQLite::Transaction, but with statements that are prepared once (by Prepare, so
  // that rolling back takes no memory): a run makes thousands.
  static constexpr const char* kBegin = "BEGIN IMMEDIATE";
  static constexpr const char* kCommit = "COMMIT";
  static constexpr const char* kRollback = "ROLLBACK";
  class Transaction {
   public:
    explicit Transaction(SqliteStore& store) : store_(store) { store_.Prepared(kBegin).Execute(); }
    ~Transaction();
    Transaction(const Transaction&) = delete;
    Transaction& operator=(const Transaction&) = delete;
    void Commit() {
      store_.Prepared(kCommit).Execute();
      committed_ = true;
    }

   private:
    SqliteStore& store_;
    bool committed_ = false;
  };

  Status CheckOwner();
  Status MakeDurable();
  Status Migrate();
  Status MigrateOnce(size_t version);
  int SchemaVersion();

  Status Write(const Record& record);
  Status Write(const RunRecord& run);
  Status Write(const RoundRecord& round);
  Status Write(const AssignmentRecord& assignment);
  bool IsNamed(const Sha256Digest& digest);
  std::vector<std::pair<std::string, Sha256Digest>> ForgottenUploads(const std::string& device, const std::string& but);
  std::vector<AssignmentRecord> Assignments(const RunId& id, uint32_t round, uint32_t attempt);
  Result<DeviceId> UsableToken(const Sha256Digest& token_hash, Time now);

  std::string path_;
  std::mutex mutex_;
  std::unique_ptr<SQLite::Database> database_;
  std::map<std::string_view, std::unique_ptr<SQLite::Statement>> statements_;  // after database_: destroyed first
};

}  // namespace heddle::coordinator
