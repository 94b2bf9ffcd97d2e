// The resumable uploads of the blob store.
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <optional>

#include "common/test_hooks.h"
#include "coordinator/store/blob_store.h"
#include "coordinator/store/upload_name.h"

namespace heddle::coordinator {
namespace fs = std::filesystem;
namespace {

constexpr size_t kHashBytes = size_t{1} << 20;
constexpr uint64_t kWritebackBytes = uint64_t{4} << 20;  // worth telling the disk of

enum class State { kGrowing, kFinished, kDiscarded };

Result<Sha256Hasher> HashStart(const UniqueFd& fd, uint64_t size, const fs::path& path) {
  Sha256Hasher hasher;
  std::vector<std::byte> buffer(static_cast<size_t>(std::min<uint64_t>(size, kHashBytes)));
  for (uint64_t offset = 0; offset < size;) {
    size_t wanted = static_cast<size_t>(std::min<uint64_t>(buffer.size(), size - offset));
    ssize_t n = ::pread(fd.get(), buffer.data(), wanted, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return DiskStatus(errno, "cannot read " + path.string());
    if (n == 0) return DataLoss("the file " + path.string() + " became shorter than it was");
    hasher.Update(std::span(buffer).first(static_cast<size_t>(n)));
    offset += static_cast<uint64_t>(n);
  }
  return hasher;
}

Result<uint64_t> FileSize(const UniqueFd& fd, const fs::path& path) {
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return DiskStatus(errno, "cannot look at " + path.string());
  return static_cast<uint64_t>(info.st_size);
}

}  // namespace

struct Upload::Entry {
  std::string id;
  UploadSpec spec;
  fs::path part;
  std::atomic<State> state{State::kGrowing};
  std::atomic<uint64_t> offset{0};

  std::mutex mutex;  // guards the file and its hash
  UniqueFd fd;
  std::optional<Sha256Hasher> hasher;  // of the first `offset` bytes; none: to be computed from the file

  int handles = 0;        // guarded by BlobStore::mutex_
  uint64_t sequence = 0;  // likewise; later ones are larger
};

// ---- the handle ----

Upload::Upload(BlobStore* store, std::shared_ptr<Entry> entry) : store_(store), entry_(std::move(entry)) {}
Upload::~Upload() { store_->ReleaseHandle(entry_); }

const std::string& Upload::id() const { return entry_->id; }
const UploadSpec& Upload::spec() const { return entry_->spec; }
uint64_t Upload::offset() const { return finished() ? entry_->spec.size_bytes : entry_->offset.load(); }
bool Upload::finished() const { return entry_->state == State::kFinished; }

Status Upload::Append(uint64_t offset, std::span<const std::byte> data) {
  std::lock_guard lock(entry_->mutex);
  return store_->AppendTo(*entry_, offset, data);
}

Status Upload::Finish() {
  std::lock_guard lock(entry_->mutex);
  return store_->FinishEntry(*entry_);
}

// ---- the index ----

Status BlobStore::TakeUpUploads() {
  std::error_code error;
  for (fs::directory_iterator it(uploads_, error), end; !error && it != end; it.increment(error)) {
    std::string name = it->path().filename().string();
    if (name.ends_with(".tmp")) {
      HEDDLE_RETURN_IF_ERROR(files_->Remove(it->path()));
      continue;
    }
    std::optional<UploadSpec> spec = ParseUploadFileName(name);
    if (!spec) continue;  // not ours
    std::error_code gone;
    uint64_t size = it->file_size(gone);
    if (gone) continue;
    if (size > spec->size_bytes) {
      HEDDLE_RETURN_IF_ERROR(files_->Remove(it->path()));
      continue;
    }
    auto entry = std::make_shared<Entry>();
    entry->id = UploadId(*spec);
    entry->spec = *spec;
    entry->part = it->path();
    entry->offset = size;
    CountEntry(*entry);
    entries_.emplace(entry->id, std::move(entry));
  }
  if (error) return DiskStatus(error.value(), "cannot list the folder " + uploads_.string());
  return OkStatus();
}

std::unique_ptr<Upload> BlobStore::MakeHandle(std::shared_ptr<Entry> entry) {
  ++entry->handles;
  return std::unique_ptr<Upload>(new Upload(this, std::move(entry)));
}

void BlobStore::ReleaseHandle(const std::shared_ptr<Entry>& entry) {
  std::lock_guard file_lock(entry->mutex);
  std::lock_guard lock(mutex_);
  if (--entry->handles > 0) return;
  entry->fd.Reset();
  if (entry->state != State::kGrowing) {
    auto found = entries_.find(entry->id);
    if (found != entries_.end() && found->second == entry) entries_.erase(found);
  }
}

void BlobStore::CountEntry(Entry& entry) {
  entry.sequence = next_sequence_++;
  unfinished_bytes_ += entry.spec.size_bytes;
  ++unfinished_;
  DeviceUse& use = device_use_[entry.spec.device];
  ++use.uploads;
  use.bytes += entry.spec.size_bytes;
}

bool BlobStore::FitsDevice(const UploadSpec& spec) const {
  auto found = device_use_.find(spec.device);
  const DeviceUse use = found == device_use_.end() ? DeviceUse{} : found->second;
  const uint64_t most = options_.max_device_upload_bytes;
  if (options_.max_device_uploads > 0 && use.uploads >= options_.max_device_uploads) return false;
  return most == 0 || (spec.size_bytes <= most && use.bytes <= most - spec.size_bytes);
}

// A device that gave its earlier tasks up in the middle of an upload must not be kept from its next one.
void BlobStore::DiscardOlderUploads(const UploadSpec& spec, const std::string& id) {
  for (;;) {
    std::shared_ptr<Entry> oldest;
    {
      std::lock_guard lock(mutex_);
      if (entries_.contains(id) || FitsDevice(spec)) return;
      for (const auto& [name, entry] : entries_) {
        const bool idle = entry->spec.device == spec.device && entry->handles == 0 && entry->state == State::kGrowing;
        if (idle && (!oldest || entry->sequence < oldest->sequence)) oldest = entry;
      }
    }
    if (!oldest) return;
    std::lock_guard file_lock(oldest->mutex);
    {
      std::lock_guard lock(mutex_);
      if (oldest->handles > 0) continue;  // opened just now: it is no candidate the next time
    }
    if (oldest->state == State::kGrowing) EndEntry(*oldest, false);
  }
}

Result<std::shared_ptr<BlobStore::Entry>> BlobStore::NewEntry(const UploadSpec& spec, std::string id) {
  if (unfinished_ >= options_.max_uploads || spec.size_bytes > options_.max_upload_bytes ||
      unfinished_bytes_ > options_.max_upload_bytes - spec.size_bytes) {
    return ResourceExhausted("the budget for unfinished uploads is used up (" + std::to_string(unfinished_) + " with " +
                             std::to_string(unfinished_bytes_) + " bytes); come back later");
  }
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t free, files_->FreeBytes(uploads_));
  const uint64_t wanted = options_.min_free_bytes + unfinished_bytes_;
  if (options_.min_free_bytes > 0 && (free < spec.size_bytes || free - spec.size_bytes < wanted)) {
    return ResourceExhausted("the disk has " + std::to_string(free) + " bytes left, which is too little for another " +
                             std::to_string(spec.size_bytes) + "; make room on it");
  }
  if (!FitsDevice(spec)) {
    return FailedPrecondition(
        "the device has as many unfinished uploads under way as it may; finish one of them first");
  }
  auto entry = std::make_shared<Entry>();
  entry->id = std::move(id);
  entry->spec = spec;
  entry->part = uploads_ / UploadFileName(spec);
  auto fd = files_->Open(entry->part, true);
  if (!fd.ok() && fd.status().code() == Code::kAlreadyExists) {  // of a discarded upload that could not be deleted
    HEDDLE_RETURN_IF_ERROR(files_->Remove(entry->part));
    fd = files_->Open(entry->part, true);
  }
  if (!fd.ok()) return fd.status();
  entry->fd = *std::move(fd);
  entry->hasher.emplace();
  CountEntry(*entry);
  entries_[entry->id] = entry;
  HEDDLE_FAILPOINT(kUploadBegun);
  return entry;
}

Result<std::unique_ptr<Upload>> BlobStore::BeginUpload(const UploadSpec& spec, bool proven) {
  HEDDLE_RETURN_IF_ERROR(CheckUploadSpec(spec));
  bool have = false;
  if (proven) {
    HEDDLE_ASSIGN_OR_RETURN(have, TakeExisting(spec.digest));
  }
  if (have) {
    HEDDLE_ASSIGN_OR_RETURN(uint64_t size, Size(spec.digest));
    if (size != spec.size_bytes) {
      return InvalidArgument("the upload declares " + std::to_string(spec.size_bytes) + " bytes, but the blob " +
                             spec.digest.ToHex() + " has " + std::to_string(size));
    }
  }
  std::string id = UploadId(spec);
  if (!have) DiscardOlderUploads(spec, id);
  std::unique_ptr<Upload> upload;
  {
    std::lock_guard lock(mutex_);
    auto found = entries_.find(id);
    if (found != entries_.end() && found->second->state == State::kGrowing) {
      if (found->second->spec != spec) {
        return InvalidArgument("this upload was begun with " + std::to_string(found->second->spec.size_bytes) +
                               " bytes, not " + std::to_string(spec.size_bytes));
      }
      upload = MakeHandle(found->second);
    } else if (have) {
      auto entry = std::make_shared<Entry>();
      entry->id = id;
      entry->spec = spec;
      entry->state = State::kFinished;
      return MakeHandle(std::move(entry));
    } else {
      HEDDLE_ASSIGN_OR_RETURN(auto entry, NewEntry(spec, id));
      upload = MakeHandle(std::move(entry));
    }
  }
  if (have) {  // somebody else has sent the same bytes meanwhile
    std::lock_guard lock(upload->entry_->mutex);
    if (upload->entry_->state == State::kGrowing) EndEntry(*upload->entry_, true);
  }
  return upload;
}

Result<std::unique_ptr<Upload>> BlobStore::FindUpload(const std::string& id) {
  std::lock_guard lock(mutex_);
  auto found = entries_.find(id);
  if (found == entries_.end() || found->second->state == State::kDiscarded) {
    return NotFound("there is no upload " + id + "; begin it again");
  }
  return MakeHandle(found->second);
}

Result<size_t> BlobStore::DiscardStaleUploads(Time before) {
  std::vector<std::shared_ptr<Entry>> idle;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, entry] : entries_) {
      if (entry->handles == 0) idle.push_back(entry);
    }
  }
  size_t discarded = 0;
  for (const auto& entry : idle) {
    std::lock_guard file_lock(entry->mutex);
    {
      std::lock_guard lock(mutex_);
      if (entry->handles > 0) continue;  // its device has come back just now
    }
    struct stat info {};
    if (entry->state != State::kGrowing || ::stat(entry->part.c_str(), &info) != 0) continue;
    int64_t written = int64_t{info.st_mtim.tv_sec} * 1'000'000 + info.st_mtim.tv_nsec / 1000;
    if (written >= ToUnixMicros(before)) continue;
    EndEntry(*entry, false);
    ++discarded;
  }
  return discarded;
}

size_t BlobStore::num_uploads() const {
  std::lock_guard lock(mutex_);
  return unfinished_;
}

uint64_t BlobStore::upload_bytes() const {
  std::lock_guard lock(mutex_);
  return unfinished_bytes_;
}

// ---- one upload; its mutex is held ----

Status BlobStore::OpenEntry(Entry& entry) {
  if (!entry.fd.valid()) {
    HEDDLE_ASSIGN_OR_RETURN(entry.fd, files_->Open(entry.part, false));
  }
  if (!entry.hasher) {
    HEDDLE_ASSIGN_OR_RETURN(uint64_t size, FileSize(entry.fd, entry.part));
    HEDDLE_ASSIGN_OR_RETURN(Sha256Hasher hasher, HashStart(entry.fd, size, entry.part));
    entry.hasher = std::move(hasher);
    entry.offset = size;
  }
  return OkStatus();
}

Status BlobStore::AppendTo(Entry& entry, uint64_t offset, std::span<const std::byte> data) {
  if (entry.state == State::kDiscarded) return NotFound("the upload " + entry.id + " was discarded; begin it again");
  uint64_t present = entry.state == State::kFinished ? entry.spec.size_bytes : entry.offset.load();
  if (offset != present) {
    return OutOfRange("the upload " + entry.id + " is at offset " + std::to_string(present) + ", not " +
                      std::to_string(offset));
  }
  if (data.size() > entry.spec.size_bytes - present) {
    return OutOfRange("the upload " + entry.id + " declares " + std::to_string(entry.spec.size_bytes) +
                      " bytes; more were sent");
  }
  if (data.empty()) return OkStatus();
  HEDDLE_RETURN_IF_ERROR(OpenEntry(entry));
  if (entry.offset != offset) return OutOfRange("the upload " + entry.id + " lost its end; ask for its offset");
  Status status = files_->WriteAt(entry.fd, offset, data, entry.part);
  if (!status.ok()) {
    // Cut off what a failed write may have left. Where not even that works, the file is read again before it grows.
    if (!files_->Truncate(entry.fd, offset, entry.part).ok()) {
      auto size = FileSize(entry.fd, entry.part);
      if (size.ok()) entry.offset = *size;
      entry.hasher.reset();
      entry.fd.Reset();
    }
    return status;
  }
  entry.hasher->Update(data);
  entry.offset = offset + data.size();
  // What is on its way to the disk need not be waited for at the end, where the uploads of a round meet.
  const uint64_t begun = offset / kWritebackBytes * kWritebackBytes;
  const uint64_t full = entry.offset / kWritebackBytes * kWritebackBytes;
  if (full > begun) files_->BeginWriteback(entry.fd, begun, full - begun);
  HEDDLE_FAILPOINT(kUploadAppended);
  return OkStatus();
}

Status BlobStore::FinishEntry(Entry& entry) {
  if (entry.state == State::kFinished) return OkStatus();
  if (entry.state == State::kDiscarded) return NotFound("the upload " + entry.id + " was discarded; begin it again");
  HEDDLE_RETURN_IF_ERROR(OpenEntry(entry));
  if (entry.offset != entry.spec.size_bytes) {
    return FailedPrecondition("the upload " + entry.id + " has " + std::to_string(entry.offset.load()) + " of " +
                              std::to_string(entry.spec.size_bytes) + " bytes");
  }
  Status status = MoveUpload(entry);
  EndEntry(entry, status.ok());
  HEDDLE_FAILPOINT(kUploadFinished);
  return status;
}

Status BlobStore::MoveUpload(Entry& entry) {
  Sha256Digest digest = entry.hasher->Finish();
  if (digest != entry.spec.digest && !HEDDLE_PLANTED(kSkipHashCheck)) {
    return DataLoss("the upload " + entry.id + " has SHA-256 " + digest.ToHex() + ", not the declared " +
                    entry.spec.digest.ToHex() + "; it was discarded, send it again");
  }
  if (!HEDDLE_PLANTED(kSkipUploadSync)) HEDDLE_RETURN_IF_ERROR(files_->Sync(entry.fd, entry.part));
  HEDDLE_FAILPOINT(kUploadSynced);
  entry.fd.Reset();
  return MoveIntoPlace(entry.part, entry.spec.digest);
}

// Finished (the blob is in place) or discarded: its file goes.
void BlobStore::EndEntry(Entry& entry, bool finished) {
  entry.fd.Reset();
  entry.hasher.reset();
  (void)files_->Remove(entry.part);  // a leftover is found by the next Open
  std::lock_guard lock(mutex_);
  entry.state = finished ? State::kFinished : State::kDiscarded;
  --unfinished_;
  unfinished_bytes_ -= entry.spec.size_bytes;
  auto use = device_use_.find(entry.spec.device);
  use->second.bytes -= entry.spec.size_bytes;
  if (--use->second.uploads == 0) device_use_.erase(use);
  auto found = entries_.find(entry.id);
  bool mine = found != entries_.end() && found->second.get() == &entry;
  if (mine && (!finished || entry.handles == 0)) entries_.erase(found);
}

}  // namespace heddle::coordinator
