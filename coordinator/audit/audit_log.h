// The audit log: an append-only chain of lines in <state_dir>/audit/ that says what administrators did and what was
// refused (docs/formats.md has the bytes, docs/threat-model.md what the chain shows and what it cannot).
//
//   audit-<number of its first line>.jsonl   the lines; a new file after max_file_bytes, the chain goes on over files
//   head                                     which line was the last (audit_head.h)
//   torn-<number>.bin                        bytes that a power cut or a full disk left after the last good line
//   lock                                     who appends holds it, so several processes may
//
// Append returns when the lines are on the disk: whoever hears ok can rely on them after a power cut. Lines of callers
// that wait at the same time share one fsync.
//
// A log that is found damaged at its end is taken up again, and says so itself in a line of kind "repaired": what
// follows the last good line is moved to a torn file; when the head knows of later lines than the log holds, the
// numbers of those stay missing, so that CheckAudit names the place for ever.
//
// Life cycle: Open; Append; destroy. Thread-safety: any thread; Append blocks for a write to the disk, and for another
// process that appends (up to lock_timeout).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/file.h"
#include "coordinator/audit/audit_head.h"
#include "coordinator/audit/audit_record.h"
#include "coordinator/store/file_ops.h"

namespace heddle::coordinator {

struct AuditOptions {
  std::filesystem::path folder;                 // made when absent, with mode 0700
  uint64_t max_file_bytes = uint64_t{8} << 20;  // a file that has reached it is not appended to; at most 32 MiB
  Duration lock_timeout = Seconds(5);           // how long to wait for another process
  const Clock* clock = nullptr;                 // not owned; nullptr: the system's
  FileOps* files = nullptr;                     // not owned; nullptr: the real file system
};

class AuditLog {
 public:
  // Errors: kUnavailable (another process holds the lock for too long), kPermissionDenied, kResourceExhausted,
  // kInternal (the disk).
  static Result<std::unique_ptr<AuditLog>> Open(AuditOptions options);

  // Adds a line for each event, in order, all or (unless the disk fails in the middle) none. Errors: as Open; the log
  // may be appended to again afterwards.
  Status Append(std::span<const AuditEvent> events);
  Status Append(const AuditEvent& event) { return Append(std::span(&event, 1)); }

  struct Stats {
    uint64_t lines = 0;          // appended by this object
    uint64_t failures = 0;       // Append that failed
    uint64_t last_sequence = 0;  // number of the newest line that this object knows
  };
  Stats stats() const;
  const std::filesystem::path& folder() const { return options_.folder; }

 private:
  struct Waiting {
    std::span<const AuditEvent> events;
    bool done = false;
    Status status;
  };

  explicit AuditLog(AuditOptions options);
  Status Write(std::span<Waiting* const> batch);
  Status TakeUp(const std::optional<AuditHead>& head);
  Status FindTail(const std::vector<std::filesystem::path>& files, std::string* torn);
  Status MoveAside(const std::string& torn);
  Status CheckState();
  Status BeginFile();
  Status WriteHead(bool sync);
  Status Put(const std::string& text);
  void Note(std::string detail);

  AuditOptions options_;
  SystemClock system_clock_;
  std::mutex mutex_;
  std::condition_variable written_;
  std::vector<Waiting*> queue_;
  bool writing_ = false;
  std::atomic<uint64_t> lines_{0}, failures_{0}, last_sequence_{0};

  // Of the one that writes, under the lock of the folder. Not known (`path_` empty) after an error.
  std::filesystem::path path_;  // the newest file
  uint64_t size_ = 0;           // of its good lines
  bool torn_ = false;           // other bytes follow, of which a copy was moved aside
  uint64_t sequence_ = 0;       // of the last line, or of the last that was lost
  Sha256Digest hash_;           // of the last line
  AuditHead head_;
  std::vector<AuditEvent> notes_;  // about the log itself, to be written with the next line
};

// "uid 0": who runs this process, as the actor of what its command line does.
std::string ProcessActor();

// An act of an administrator: the line "begun" is on the disk before `act` is called, and "done" or "failed" before
// this returns. `act` may fill in what it learns (the run's id) in the event. When "begun" cannot be written nothing is
// done. Errors: those of `act`; kUnavailable when the log cannot be written.
Status Audited(AuditLog& log, AuditEvent event, const std::function<Status(AuditEvent& event)>& act);

}  // namespace heddle::coordinator
