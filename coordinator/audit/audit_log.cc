#include "coordinator/audit/audit_log.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <thread>
#include <utility>

#include "common/test_hooks.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLargestFile = uint64_t{32} << 20;
constexpr auto kLockPause = std::chrono::milliseconds(2);

// Holds the folder's lock. The descriptor is a new one each time, so that two objects of one process exclude each other
// as two processes do.
Result<UniqueFd> TakeLock(const fs::path& folder, Duration timeout) {
  const fs::path path = folder / "lock";
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640));
  if (!fd.valid()) return DiskStatus(errno, "cannot open " + path.string());
  const auto until = std::chrono::steady_clock::now() + timeout;
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return DiskStatus(errno, "cannot lock " + path.string());
    if (std::chrono::steady_clock::now() >= until) {
      return Unavailable("another process holds the audit log's lock " + path.string() + "; end it or try again");
    }
    std::this_thread::sleep_for(kLockPause);
  }
  return fd;
}

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

}  // namespace

AuditLog::AuditLog(AuditOptions options) : options_(std::move(options)) {
  if (options_.clock == nullptr) options_.clock = &system_clock_;
  if (options_.files == nullptr) options_.files = FileOps::Real();
  options_.max_file_bytes = std::min(options_.max_file_bytes, kLargestFile);
}

Result<std::unique_ptr<AuditLog>> AuditLog::Open(AuditOptions options) {
  std::unique_ptr<AuditLog> log(new AuditLog(std::move(options)));
  HEDDLE_RETURN_IF_ERROR(log->options_.files->MakeFolder(log->options_.folder));
  ::chmod(log->options_.folder.c_str(), 0700);
  // Finds out now whether the log can be written, and writes what there is to say about its end.
  HEDDLE_RETURN_IF_ERROR(log->Append(std::span<const AuditEvent>()));
  return log;
}

AuditLog::Stats AuditLog::stats() const {
  return {.lines = lines_.load(), .failures = failures_.load(), .last_sequence = last_sequence_.load()};
}

// The first of those that wait writes for all; the others sleep meanwhile.
Status AuditLog::Append(std::span<const AuditEvent> events) {
  Waiting self{.events = events, .done = false, .status = {}};
  std::unique_lock lock(mutex_);
  queue_.push_back(&self);
  written_.wait(lock, [&] { return self.done || !writing_; });
  if (self.done) return self.status;
  writing_ = true;
  const std::vector<Waiting*> batch = std::exchange(queue_, {});
  lock.unlock();
  const Status status = Write(batch);
  if (!status.ok()) ++failures_;
  lock.lock();
  for (Waiting* waiting : batch) {
    waiting->status = status;
    waiting->done = true;
  }
  writing_ = false;
  written_.notify_all();
  return status;
}

Status AuditLog::Write(std::span<Waiting* const> batch) {
  HEDDLE_ASSIGN_OR_RETURN(const UniqueFd lock, TakeLock(options_.folder, options_.lock_timeout));
  HEDDLE_RETURN_IF_ERROR(CheckState());
  std::vector<AuditEvent> events = notes_;
  for (const Waiting* waiting : batch) events.insert(events.end(), waiting->events.begin(), waiting->events.end());
  if (events.empty()) return OkStatus();

  if (size_ >= options_.max_file_bytes) {
    if (Status begun = BeginFile(); !begun.ok()) {
      path_.clear();
      return begun;
    }
  }
  std::string text;
  AuditRecord record;
  record.sequence = sequence_;
  record.hash = hash_;
  for (AuditEvent& event : events) {
    record.previous = record.hash;
    ++record.sequence;
    record.time = options_.clock->Now();
    if (event.since == Time()) event.since = record.time;
    record.event = std::move(event);
    text += FormatRecord(&record) + "\n";
  }
  if (Status put = Put(text); !put.ok()) {
    path_.clear();  // what is there now is looked at anew
    return put;
  }
  size_ += text.size();
  sequence_ = record.sequence;
  hash_ = record.hash;
  notes_.clear();
  lines_ += events.size();
  last_sequence_ = sequence_;
  return WriteHead(/*sync=*/false);
}

// Writes and fsyncs; on an error takes back what it can. Torn bytes are written over by the line that tells of them and
// cut off only then, so that no crash loses both.
Status AuditLog::Put(const std::string& text) {
  HEDDLE_ASSIGN_OR_RETURN(const UniqueFd fd, options_.files->Open(path_, /*create=*/false));
  Status status = options_.files->WriteAt(fd, size_, Bytes(text), path_);
  if (status.ok() && torn_) status = options_.files->Truncate(fd, size_ + text.size(), path_);
  HEDDLE_FAILPOINT(kAuditWritten);
  if (status.ok()) status = options_.files->Sync(fd, path_);
  HEDDLE_FAILPOINT(kAuditSynced);
  if (!status.ok() && !torn_) {
    const Status ignored = options_.files->Truncate(fd, size_, path_);  // else it is moved aside later
  }
  if (status.ok()) torn_ = false;
  return status;
}

Status AuditLog::WriteHead(bool sync) {
  head_.sequence = sequence_;
  head_.hash = hash_;
  ++head_.write;
  const fs::path path = AuditHeadPath(options_.folder);
  auto fd = options_.files->Open(path, /*create=*/false);
  const bool made = fd.status().code() == Code::kNotFound;
  if (made) fd = options_.files->Open(path, /*create=*/true);
  Status status = fd.status();
  if (status.ok()) status = options_.files->WriteAt(*fd, SlotOffset(head_), Bytes(FormatSlot(head_)), path);
  if (status.ok() && (sync || made)) status = options_.files->Sync(*fd, path);
  if (status.ok() && made) status = options_.files->SyncFolder(options_.folder);
  if (!status.ok()) path_.clear();
  return status;
}

// The head counts its writes: another process that appended, or began a file, has changed it.
Status AuditLog::CheckState() {
  HEDDLE_ASSIGN_OR_RETURN(const std::optional<AuditHead> head, ReadHead(options_.folder));
  struct stat now {};
  const bool same = !path_.empty() && head && head->write == head_.write && head->hash == head_.hash &&
                    ::stat(path_.c_str(), &now) == 0 && static_cast<uint64_t>(now.st_size) == size_;
  if (same) return OkStatus();
  path_.clear();
  notes_.clear();
  Status status = TakeUp(head);
  if (!status.ok()) path_.clear();
  return status;
}

void AuditLog::Note(std::string detail) {
  AuditEvent event;
  event.kind = AuditKind::kRepaired;
  event.object = "audit log";
  event.outcome = "done";
  event.detail = std::move(detail);
  notes_.push_back(std::move(event));
}

// Finds the end of the log, whatever state it is in.
Status AuditLog::TakeUp(const std::optional<AuditHead>& head) {
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<fs::path> files, ListAuditFiles(options_.folder));
  head_ = head.value_or(AuditHead{});
  sequence_ = 0;
  hash_ = {};
  std::string torn;
  if (!files.empty()) HEDDLE_RETURN_IF_ERROR(FindTail(files, &torn));
  if (!head && sequence_ > 0) Note("the head of the log was missing or damaged at line " + std::to_string(sequence_));
  if (head && head->sequence > sequence_) {
    Note("the log ended at line " + std::to_string(sequence_) + " but line " + std::to_string(head->sequence) +
         " had been written");
    sequence_ = head->sequence;  // the missing numbers are not given out again
  } else if (head && head->sequence == sequence_ && head->hash != hash_) {
    Note("line " + std::to_string(sequence_) + " is not the one that had been written");
  }
  last_sequence_ = sequence_;
  torn_ = false;
  if (files.empty()) return BeginFile();
  if (!head) HEDDLE_RETURN_IF_ERROR(WriteHead(/*sync=*/true));
  path_ = files.back();
  return torn.empty() ? OkStatus() : MoveAside(torn);
}

// sequence_, hash_ and size_ of the last good line; `torn`: what follows it in the newest file.
Status AuditLog::FindTail(const std::vector<fs::path>& files, std::string* torn) {
  for (auto file = files.rbegin(); file != files.rend(); ++file) {
    HEDDLE_ASSIGN_OR_RETURN(const std::string content, ReadFile(*file, kMaxAuditFileBytes));
    size_t end = content.size();
    std::optional<AuditRecord> last;
    while (end > 0 && !last) {
      const size_t newline = content.rfind('\n', end - 1);
      if (newline == std::string::npos) {
        end = 0;
      } else if (newline + 1 < end) {
        end = newline + 1;
      } else {
        const size_t before = newline == 0 ? std::string::npos : content.rfind('\n', newline - 1);
        const size_t begin = before == std::string::npos ? 0 : before + 1;
        auto record = ParseRecord(std::string_view(content).substr(begin, newline - begin));
        if (record.ok()) last = *std::move(record);
        if (!last) end = begin;
      }
    }
    if (file == files.rbegin()) {
      size_ = end;
      *torn = content.substr(end);
    }
    if (!last) continue;
    sequence_ = last->sequence;
    hash_ = last->hash;
    return OkStatus();
  }
  return OkStatus();
}

Status AuditLog::MoveAside(const std::string& torn) {
  FileOps& disk = *options_.files;
  const std::string stem = "torn-" + std::to_string(sequence_ + 1);
  fs::path aside;
  Result<UniqueFd> kept = Internal("");
  for (int i = 0; i < 100; ++i) {
    aside = options_.folder / (stem + (i == 0 ? "" : "." + std::to_string(i)) + ".bin");
    kept = disk.Open(aside, /*create=*/true);
    if (kept.status().code() != Code::kAlreadyExists) break;
  }
  HEDDLE_RETURN_IF_ERROR(kept.status());
  HEDDLE_RETURN_IF_ERROR(disk.WriteAt(*kept, 0, Bytes(torn), aside));
  HEDDLE_RETURN_IF_ERROR(disk.Sync(*kept, aside));
  HEDDLE_RETURN_IF_ERROR(disk.SyncFolder(options_.folder));
  torn_ = true;
  Note(std::to_string(torn.size()) + " bytes after line " + std::to_string(sequence_) + " were moved to " +
       aside.filename().string());
  return OkStatus();
}

// The next line is the first of a new file. The head is counted up before: no other process goes on in the old file,
// and a log that has lines but no head has lost it.
Status AuditLog::BeginFile() {
  HEDDLE_RETURN_IF_ERROR(WriteHead(/*sync=*/true));
  const fs::path path = AuditFilePath(options_.folder, sequence_ + 1);
  HEDDLE_RETURN_IF_ERROR(options_.files->Open(path, /*create=*/true).status());
  HEDDLE_RETURN_IF_ERROR(options_.files->SyncFolder(options_.folder));
  path_ = path;
  size_ = 0;
  return OkStatus();
}

std::string ProcessActor() { return "uid " + std::to_string(::getuid()); }

Status Audited(AuditLog& log, AuditEvent event, const std::function<Status(AuditEvent& event)>& act) {
  event.outcome = "begun";
  if (Status begun = log.Append(event); !begun.ok()) {
    return Unavailable("nothing was changed, since the audit log cannot be written: " + begun.message());
  }
  const Status status = act(event);
  event.outcome = status.ok() ? "done" : "failed";
  if (!status.ok()) event.detail = status.message();
  const Status ended = log.Append(event);
  if (!status.ok() || ended.ok()) return status;
  return Unavailable("it was done, but the audit log could not be written: " + ended.message());
}

}  // namespace heddle::coordinator
