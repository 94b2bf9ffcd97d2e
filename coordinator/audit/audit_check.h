// Reading the audit log: is its chain whole, and what does it say. Neither changes anything.
//
// What CheckAudit finds: a line that was altered in any byte, deleted, inserted, swapped with another or repeated; a
// file that is missing; an end that was cut off, when the head or `expected` knows of a later line. What it cannot
// find: someone who can write to the folder and makes the whole log anew, or cuts its end off and writes the head to
// match. Against that, keep the head that this prints (or the metric heddle_audit_last_sequence) on another machine and
// give it as `expected`.
//
// Thread-safety: free functions. A log that is being appended to may be read: the readers share its lock.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/audit/audit_record.h"

namespace heddle::coordinator {

// A line that is known from elsewhere.
struct AuditAnchor {
  uint64_t sequence = 0;
  Sha256Digest hash;
  // "42:9f86…", as CheckAudit's callers print it. Errors: kInvalidArgument.
  static Result<AuditAnchor> Parse(const std::string& text);
  std::string ToString() const;
};

// The first thing that is wrong.
struct AuditFault {
  std::string file;   // its name in the folder
  uint64_t line = 0;  // in that file, from 1; 0: the file as a whole
  std::string what;   // a sentence
};

struct AuditReport {
  uint64_t lines = 0;    // good ones, up to the fault
  AuditAnchor last;      // the last of them
  uint64_t repairs = 0;  // lines in which the log says that it was damaged and taken up again
  std::optional<AuditFault> fault;
};

// Errors: kNotFound (there is no log), kPermissionDenied, kInternal (the disk), kUnavailable (locked for too long). A
// log that is damaged is no error but a fault.
Result<AuditReport> CheckAudit(const std::filesystem::path& folder, const std::optional<AuditAnchor>& expected = {});

// The newest `count` lines, oldest first, as they are in the file. They may be damaged. Errors: as CheckAudit.
Result<std::vector<std::string>> LastAuditLines(const std::filesystem::path& folder, size_t count);

}  // namespace heddle::coordinator
