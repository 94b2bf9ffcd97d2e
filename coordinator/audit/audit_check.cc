#include "coordinator/audit/audit_check.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <thread>

#include "common/file.h"
#include "coordinator/audit/audit_head.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;

// While it lives nobody appends. A copy of a log (a backup) has no lock, and needs none.
Result<UniqueFd> ShareLock(const fs::path& folder) {
  UniqueFd fd(::open((folder / "lock").c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return fd;
  for (int tries = 0; ::flock(fd.get(), LOCK_SH | LOCK_NB) != 0; ++tries) {
    if (errno != EWOULDBLOCK && errno != EINTR) return ErrnoStatus(errno, "cannot lock " + folder.string());
    if (tries == 2500) return Unavailable("another process holds the lock of " + folder.string() + "; try again");
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return fd;
}

// Walks the lines of all files.
class Walker {
 public:
  Walker(AuditReport* report, const std::optional<AuditAnchor>& expected) : report_(report), expected_(expected) {}

  // False: a fault was found.
  bool File(const std::string& name, std::string_view content, const std::optional<AuditHead>& head) {
    name_ = name;
    line_ = 0;
    while (!content.empty()) {
      ++line_;
      const size_t newline = content.find('\n');
      if (newline == std::string_view::npos) {
        return Fault("it has no end: the power or the disk went while it was written, or its end was cut off");
      }
      if (!Line(content.substr(0, newline), head)) return false;
      content.remove_prefix(newline + 1);
    }
    return true;
  }

 private:
  bool Fault(std::string what) {
    report_->fault = AuditFault{.file = name_, .line = line_, .what = std::move(what)};
    return false;
  }

  bool Line(std::string_view text, const std::optional<AuditHead>& head) {
    const auto record = ParseRecord(text);
    if (!record.ok()) return Fault(record.status().message());
    const uint64_t due = report_->last.sequence + 1;
    if (record->sequence != due) {
      return Fault("it is line " + std::to_string(record->sequence) + " of the log where line " + std::to_string(due) +
                   " is due: lines are missing, repeated or in another order");
    }
    if (record->previous != report_->last.hash) {
      return Fault("it does not follow the line before it: one of the two is not the one that was written");
    }
    if ((head && head->sequence == record->sequence && head->hash != record->hash) ||
        (expected_ && expected_->sequence == record->sequence && expected_->hash != record->hash)) {
      return Fault("it is not the line that was written here: its hash is known to be another");
    }
    report_->last = {record->sequence, record->hash};
    ++report_->lines;
    if (record->event.kind == AuditKind::kRepaired) ++report_->repairs;
    return true;
  }

  AuditReport* report_;
  const std::optional<AuditAnchor>& expected_;
  std::string name_;
  uint64_t line_ = 0;
};

}  // namespace

Result<AuditAnchor> AuditAnchor::Parse(const std::string& text) {
  AuditAnchor anchor;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), anchor.sequence);
  const size_t digits = static_cast<size_t>(end - text.data());
  if (error == std::errc() && digits < text.size() && text[digits] == ':') {
    const auto hash = Sha256Digest::FromHex(std::string_view(text).substr(digits + 1));
    if (hash.ok()) {
      anchor.hash = *hash;
      return anchor;
    }
  }
  return InvalidArgument("'" + text + "' is not a line's number and hash, as in 42:9f86d08…; give what verify printed");
}

std::string AuditAnchor::ToString() const { return std::to_string(sequence) + ":" + hash.ToHex(); }

Result<AuditReport> CheckAudit(const fs::path& folder, const std::optional<AuditAnchor>& expected) {
  HEDDLE_ASSIGN_OR_RETURN(const UniqueFd lock, ShareLock(folder));
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<fs::path> files, ListAuditFiles(folder));
  HEDDLE_ASSIGN_OR_RETURN(const std::optional<AuditHead> head, ReadHead(folder));
  if (files.empty() && !head) return NotFound("there is no audit log in " + folder.string());
  AuditReport report;
  Walker walker(&report, expected);
  for (const fs::path& file : files) {
    HEDDLE_ASSIGN_OR_RETURN(const std::string content, ReadFile(file, kMaxAuditFileBytes));
    if (!walker.File(file.filename().string(), content, head)) return report;
  }
  const std::string newest = files.empty() ? "head" : files.back().filename().string();
  const auto too_short = [&](uint64_t known) {
    report.fault = AuditFault{.file = newest,
                              .line = 0,
                              .what = "the log ends at line " + std::to_string(report.last.sequence) + " but line " +
                                      std::to_string(known) + " had been written: its end was cut off"};
  };
  if (head && head->sequence > report.last.sequence) {
    too_short(head->sequence);
  } else if (expected && expected->sequence > report.last.sequence) {
    too_short(expected->sequence);
  } else if (!head && report.lines > 0) {
    report.fault = AuditFault{
        .file = "head", .line = 0, .what = "it is missing or damaged: whether the end was cut off cannot be known"};
  }
  return report;
}

Result<std::vector<std::string>> LastAuditLines(const fs::path& folder, size_t count) {
  HEDDLE_ASSIGN_OR_RETURN(const UniqueFd lock, ShareLock(folder));
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<fs::path> files, ListAuditFiles(folder));
  if (files.empty()) return NotFound("there is no audit log in " + folder.string());
  std::vector<std::string> lines;  // newest first
  for (auto file = files.rbegin(); file != files.rend() && lines.size() < count; ++file) {
    HEDDLE_ASSIGN_OR_RETURN(const std::string content, ReadFile(*file, kMaxAuditFileBytes));
    size_t end = content.size();
    while (end > 0 && lines.size() < count) {
      if (content[end - 1] == '\n') --end;
      const size_t before = end == 0 ? std::string::npos : content.rfind('\n', end - 1);
      const size_t begin = before == std::string::npos ? 0 : before + 1;
      lines.push_back(content.substr(begin, end - begin));
      end = begin;
    }
  }
  std::reverse(lines.begin(), lines.end());
  return lines;
}

}  // namespace heddle::coordinator
