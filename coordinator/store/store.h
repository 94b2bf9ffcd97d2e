// The coordinator's memory: one SQLite database (WAL, synchronous=FULL, foreign keys). What a method has answered with
// ok is on disk and survives a kill or a power cut at any later instant. What it has answered with an error is not
// visible; only when the disk failed during the commit and the process dies before the next write may it be found after
// the restart, and then as a whole. What can be read after Open() is on disk too.
//
// Life cycle: Open() makes or migrates the file; the object closes it. Several processes may have the same file open
// (the daemon and the command line): a lock that lasts longer than busy_timeout is kUnavailable.
// Thread-safety: all methods may be called from any thread; they run one at a time.
//
// Errors of every method, beside its own: kResourceExhausted (disk full, no memory), kDataLoss (the file is damaged),
// kUnavailable (another process holds the lock, the disk answers with an error), kPermissionDenied (read-only),
// kInternal. After kResourceExhausted or kUnavailable the same call may be tried again.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/status.h"
#include "coordinator/engine/engine.h"
#include "coordinator/engine/types.h"

namespace heddle::coordinator {

struct StoreOptions {
  Duration busy_timeout = Seconds(5);
  std::string vfs;  // name of a registered SQLite VFS; empty: the system's. For fault tests.
};

// What a run was started with. Immutable.
struct RunOrigin {
  RunSpec spec;
  std::string recipe;         // the recipe's text as submitted
  std::string resolved_json;  // every setting with its resolved value
  std::string material_json;  // the driver's own notes: which blobs make up the base model, …
};

struct StoredRun {
  RunRecord run;
  RunOrigin origin;
};

// One enrolled device. A certificate is valid for it only while `revoked_at` is empty and its serial is this one:
// enrolling or renewing replaces the serial, so an old certificate ends with it.
struct DeviceRecord {
  DeviceId device;
  std::string serial;  // of the certificate, hex as printed by the certificate authority
  Time not_after;      // of the certificate
  Time enrolled_at;
  std::optional<Time> revoked_at;
};

// The content of an update that came inside its report.
struct SmallUpdate {
  AssignmentId assignment;
  std::shared_ptr<const std::string> content;
};

struct RecordedUpload {
  bool open = false;                   // false: the assignment was closed before, and nothing was noted
  std::vector<Sha256Digest> unneeded;  // blobs that no row names any more, perhaps the uploaded one: to be deleted
};

class Store {
 public:
  // Makes the file when absent and brings an older schema up to date, each migration in a transaction of its own.
  // Errors: kFailedPrecondition when the schema is newer than this program; kInvalidArgument when the file is another
  // program's database; kNotFound when the folder is absent.
  static Result<std::unique_ptr<Store>> Open(const std::filesystem::path& path, const StoreOptions& options = {});
  virtual ~Store() = default;

  // ---- runs ----

  // A new run and the writes of its engine's first step, in one transaction. Errors: kAlreadyExists when a run has this
  // id; kFailedPrecondition when another run is still running.
  virtual Status CreateRun(const RunOrigin& origin, std::span<const Record> writes) = 0;
  // The writes of one or more steps, in order, and the contents of accepted updates that came inside their reports, in
  // one transaction: all or none. Errors: kFailedPrecondition when a row names a run or round that does not exist.
  virtual Status Apply(std::span<const Record> writes, std::span<const SmallUpdate> updates = {}) = 0;

  // Errors: kNotFound.
  virtual Result<StoredRun> GetRun(const RunId& id) = 0;
  // Newest first.
  virtual Result<std::vector<RunRecord>> ListRuns() = 0;
  // The run in state kRunning: at most one.
  virtual Result<std::optional<RunId>> ActiveRun() = 0;
  // For Engine::Restore(): the run, its newest attempt and the assignments of that. Errors: kNotFound.
  virtual Result<Snapshot> LoadSnapshot(const RunId& id) = 0;
  // For ReportEvent::stored. Nothing when no such row exists.
  virtual Result<std::optional<AssignmentRecord>> FindAssignment(const AssignmentId& id) = 0;
  // All attempts, in order. An unknown run has none.
  virtual Result<std::vector<RoundRecord>> ListRounds(const RunId& id) = 0;
  // Ordered by id.
  virtual Result<std::vector<AssignmentRecord>> ListAssignments(const RunId& id, uint32_t round, uint32_t attempt) = 0;
  // Of an accepted update that came inside its report. Errors: kNotFound.
  virtual Result<std::string> GetSmallUpdate(const AssignmentId& id) = 0;

  // ---- uploads: a report may name only what was uploaded for its assignment ----

  // What was uploaded for this assignment is now this, if it is open; else nothing is noted. Forgotten are an upload of
  // before for the same assignment, and those of the device's other assignments that no round asks for any more (closed
  // and not accepted, of an abandoned attempt, or not what was accepted): beside what rounds keep, a device has one.
  // Errors: kFailedPrecondition when there is no such assignment.
  virtual Result<RecordedUpload> RecordUpload(const AssignmentId& assignment, const Sha256Digest& digest,
                                              uint64_t bytes, Time now) = 0;
  // Nothing when nothing was uploaded.
  virtual Result<std::optional<Sha256Digest>> FindUpload(const AssignmentId& assignment) = 0;

  // Whether any row names the blob.
  virtual Result<bool> IsReferenced(const Sha256Digest& digest) = 0;
  // Blobs that rows need, sorted: models of all versions, accepted updates of committed or open attempts, and uploads
  // of assignments that are open. The driver adds those of its base models before it deletes what is left.
  // `keep_rounds`: of each run's committed rounds only the updates of the last so many are needed; 0: of all.
  virtual Result<std::vector<Sha256Digest>> ReferencedBlobs(uint32_t keep_rounds = 0) = 0;
  // Forgets the contents of small updates of abandoned attempts, and of committed rounds before the last `keep_rounds`
  // (at least 1). Returns how many.
  virtual Result<size_t> DeleteSmallUpdates(uint32_t keep_rounds) = 0;

  // ---- enrolment: only the SHA-256 of a token is ever stored ----

  // Errors: kAlreadyExists when the token exists; kInvalidArgument when the name is not a device's name.
  virtual Status CreateToken(const Sha256Digest& token_hash, const DeviceId& device, Time expires_at) = 0;
  // The device a token would enrol, without using it up. Errors: kUnauthenticated when it is unknown, used or expired
  // at `now` (one sentence for all three, so that a guesser learns nothing).
  virtual Result<DeviceId> CheckToken(const Sha256Digest& token_hash, Time now) = 0;
  // Uses the token up and makes (or replaces) the row of its device, in one transaction: two racing calls never both
  // succeed. `device.device` must be the token's; enrolling again lifts a revocation. Errors: as CheckToken.
  virtual Status RedeemToken(const Sha256Digest& token_hash, Time now, const DeviceRecord& device) = 0;
  // Forgets tokens that expired before `before`. Returns how many.
  virtual Result<size_t> DeleteExpiredTokens(Time before) = 0;

  // ---- devices ----

  virtual Result<std::vector<DeviceRecord>> ListDevices() = 0;  // by name
  virtual Result<std::optional<DeviceRecord>> GetDevice(const DeviceId& device) = 0;
  // Revoking again changes nothing. Errors: kNotFound.
  virtual Status RevokeDevice(const DeviceId& device, Time now) = 0;
  // A new certificate takes the place of the old one. Errors: kNotFound; kPermissionDenied when revoked.
  virtual Status RenewDevice(const DeviceId& device, const std::string& serial, Time not_after) = 0;

  // ---- meta ----

  // Small values the coordinator keeps across restarts. Nothing when absent.
  virtual Result<std::optional<std::string>> GetMeta(const std::string& key) = 0;
  virtual Status SetMeta(const std::string& key, const std::string& value) = 0;
};

}  // namespace heddle::coordinator
