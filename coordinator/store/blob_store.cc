#include "coordinator/store/blob_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>

#include "common/passing.h"
#include "common/test_hooks.h"

namespace heddle::coordinator {
namespace fs = std::filesystem;
namespace {

constexpr size_t kCopyBytes = size_t{1} << 20;

std::string FolderName(unsigned byte) {
  static constexpr char kDigits[] = "0123456789abcdef";
  return {kDigits[byte >> 4], kDigits[byte & 15]};
}

}  // namespace

BlobStore::BlobStore(BlobStoreOptions options)
    : blobs_(options.root / "blobs"),
      uploads_(options.root / "uploads"),
      options_(std::move(options)),
      files_(options_.files != nullptr ? options_.files : FileOps::Real()) {}

BlobStore::~BlobStore() = default;

Result<std::unique_ptr<BlobStore>> BlobStore::Open(BlobStoreOptions options) {
  std::unique_ptr<BlobStore> store(new BlobStore(std::move(options)));
  HEDDLE_RETURN_IF_ERROR(store->MakeFolders());
  HEDDLE_RETURN_IF_ERROR(store->TakeUpBlobs());
  HEDDLE_RETURN_IF_ERROR(store->TakeUpUploads());
  HEDDLE_FAILPOINT(kRecoveryStorageOpen);
  return store;
}

Status BlobStore::MakeFolders() {
  HEDDLE_RETURN_IF_ERROR(files_->MakeFolder(blobs_));
  HEDDLE_RETURN_IF_ERROR(files_->MakeFolder(uploads_));
  for (unsigned byte = 0; byte < folder_mutexes_.size(); ++byte) {
    HEDDLE_RETURN_IF_ERROR(files_->MakeFolder(blobs_ / FolderName(byte)));
  }
  HEDDLE_RETURN_IF_ERROR(files_->SyncFolder(blobs_));
  return files_->SyncFolder(options_.root);
}

Status BlobStore::TakeUpBlobs() {
  uint64_t total = 0;
  for (unsigned byte = 0; byte < folder_mutexes_.size(); ++byte) {
    fs::path folder = blobs_ / FolderName(byte);
    HEDDLE_ASSIGN_OR_RETURN(const auto files, files_->List(folder));
    for (const auto& [path, size] : files) total += size;
    // A kill may have come between a blob's rename and the fsync of its folder.
    if (!files.empty()) HEDDLE_RETURN_IF_ERROR(files_->SyncFolder(folder));
  }
  total_bytes_ = total;
  return OkStatus();
}

// ---- blobs ----

fs::path BlobStore::Path(const Sha256Digest& digest) const {
  std::string hex = digest.ToHex();
  return blobs_ / hex.substr(0, 2) / hex;
}

fs::path BlobStore::TemporaryPath() {
  return uploads_ / ("put-" + std::to_string(::getpid()) + "-" + std::to_string(temporary_counter_++) + ".tmp");
}

bool BlobStore::Has(const Sha256Digest& digest) const { return ::access(Path(digest).c_str(), F_OK) == 0; }

Result<uint64_t> BlobStore::Size(const Sha256Digest& digest) const {
  struct stat info {};
  fs::path path = Path(digest);
  if (::stat(path.c_str(), &info) == 0) return static_cast<uint64_t>(info.st_size);
  if (errno == ENOENT) return NotFound("there is no blob " + digest.ToHex());
  return DiskStatus(errno, "cannot look at " + path.string());
}

Result<std::shared_ptr<const MappedFile>> BlobStore::Map(const Sha256Digest& digest) const {
  const fs::path path = Path(digest);
  auto mapped = files_->Map(path);
  if (mapped.status().code() != Code::kNotFound) return mapped;
  std::error_code error;
  if (fs::is_directory(path.parent_path(), error)) return mapped;
  // A disk that is not mounted may be.
  return Unavailable("the folder " + path.parent_path().string() + " is not there");
}

Result<std::shared_ptr<const MappedFile>> BlobStore::MapChecked(const Sha256Digest& digest) {
  if (total_bytes() == 0) return Unavailable("there are no blobs in " + blobs_.string());
  HEDDLE_ASSIGN_OR_RETURN(auto mapped, Map(digest));
  const Result<Sha256Digest> found = Sha256File(Path(digest));
  if (!found.ok()) {  // of a disk that cannot be read now nothing is lost
    const Code code = found.status().code();
    return code == Code::kNotFound || MayPass(code) ? found.status() : Unavailable(found.status().message());
  }
  if (*found == digest) return mapped;
  std::lock_guard lock(FolderMutex(digest));
  Doubtful(digest).insert(digest);
  return DataLoss("the blob " + digest.ToHex() + " is damaged: it has other bytes than its name says");
}

// True when the blob is there. Its name is durable then: a rename and the fsync of the folder happen under one lock.
Result<bool> BlobStore::TakeExisting(const Sha256Digest& digest) {
  std::lock_guard lock(FolderMutex(digest));
  return TakeExistingLocked(digest);
}

Result<bool> BlobStore::TakeExistingLocked(const Sha256Digest& digest) {
  if (!Has(digest)) return false;
  if (Doubtful(digest).contains(digest)) {
    HEDDLE_RETURN_IF_ERROR(Drop(digest));
    return false;
  }
  files_->Touch(Path(digest));
  return true;
}

// The blob's file goes; the folder's mutex is held.
Status BlobStore::Drop(const Sha256Digest& digest) {
  auto size = Size(digest);
  if (!size.ok()) return size.status().code() == Code::kNotFound ? OkStatus() : size.status();
  HEDDLE_RETURN_IF_ERROR(files_->Remove(Path(digest)));
  Doubtful(digest).erase(digest);
  total_bytes_ -= *size;
  return OkStatus();
}

// `from` is complete and fsynced; it is gone afterwards, whatever happens.
Status BlobStore::MoveIntoPlace(const fs::path& from, const Sha256Digest& digest) {
  HEDDLE_FAILPOINT(kBlobSynced);
  std::lock_guard lock(FolderMutex(digest));
  fs::path to = Path(digest);
  auto have = TakeExistingLocked(digest);
  if (!have.ok() || *have) {
    Status removed = files_->Remove(from);
    return have.ok() ? removed : have.status();
  }
  std::error_code error;
  uint64_t size = fs::file_size(from, error);
  Status status = error ? DiskStatus(error.value(), "cannot look at " + from.string()) : files_->Rename(from, to);
  if (!status.ok()) {
    (void)files_->Remove(from);
    return status;
  }
  total_bytes_ += size;
  files_->Touch(to);  // it may have taken days to come
  HEDDLE_FAILPOINT(kBlobRenamed);
  if (!HEDDLE_PLANTED(kSkipFolderSync)) status = files_->SyncFolder(to.parent_path());
  HEDDLE_FAILPOINT(kBlobDurable);
  // Its name may not be durable, so nobody may rely on it: where it cannot even be deleted now, before it is used.
  if (!status.ok() && !Drop(digest).ok()) Doubtful(digest).insert(digest);
  return status;
}

Result<Sha256Digest> BlobStore::Put(std::string_view content) {
  Sha256Digest digest = Sha256(content);
  NotePut(digest);
  HEDDLE_ASSIGN_OR_RETURN(bool have, TakeExisting(digest));
  if (have) return digest;
  fs::path temporary = TemporaryPath();
  Status written = [&]() -> Status {
    HEDDLE_ASSIGN_OR_RETURN(UniqueFd fd, files_->Open(temporary, true));
    HEDDLE_RETURN_IF_ERROR(files_->WriteAt(fd, 0, std::as_bytes(std::span(content)), temporary));
    HEDDLE_FAILPOINT(kBlobWritten);
    return HEDDLE_PLANTED(kSkipModelSync) ? OkStatus() : files_->Sync(fd, temporary);
  }();
  if (!written.ok()) {
    (void)files_->Remove(temporary);
    return written;
  }
  HEDDLE_RETURN_IF_ERROR(MoveIntoPlace(temporary, digest));
  return digest;
}

Result<Sha256Digest> BlobStore::PutCopyOf(const fs::path& path) {
  HEDDLE_ASSIGN_OR_RETURN(Sha256Digest expected, Sha256File(path));
  NotePut(expected);
  HEDDLE_ASSIGN_OR_RETURN(bool have, TakeExisting(expected));
  if (have) return expected;
  fs::path temporary = TemporaryPath();
  Sha256Hasher hasher;
  Status written = [&]() -> Status {
    UniqueFd in(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!in.valid()) return DiskStatus(errno, "cannot open " + path.string());
    HEDDLE_ASSIGN_OR_RETURN(UniqueFd out, files_->Open(temporary, true));
    std::vector<std::byte> buffer(kCopyBytes);
    for (uint64_t offset = 0;;) {
      ssize_t n = ::read(in.get(), buffer.data(), buffer.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return DiskStatus(errno, "cannot read " + path.string());
      if (n == 0) break;
      auto piece = std::span(buffer).first(static_cast<size_t>(n));
      HEDDLE_RETURN_IF_ERROR(files_->WriteAt(out, offset, piece, temporary));
      hasher.Update(piece);
      offset += piece.size();
    }
    return files_->Sync(out, temporary);
  }();
  if (!written.ok()) {
    (void)files_->Remove(temporary);
    return written;
  }
  Sha256Digest digest = hasher.Finish();  // of what was copied, should the file have changed meanwhile
  HEDDLE_RETURN_IF_ERROR(MoveIntoPlace(temporary, digest));
  return digest;
}

Status BlobStore::PutFile(const fs::path& temporary, const Sha256Digest& digest) {
  Status synced = [&]() -> Status {
    HEDDLE_ASSIGN_OR_RETURN(UniqueFd fd, files_->Open(temporary, false));
    return files_->Sync(fd, temporary);
  }();
  if (!synced.ok()) {
    (void)files_->Remove(temporary);
    return synced;
  }
  return MoveIntoPlace(temporary, digest);
}

void BlobStore::NotePut(const Sha256Digest& digest) {
  constexpr size_t kKept = 64;  // far more than are put in one folder between a blob and what names it
  std::lock_guard lock(FolderMutex(digest));
  auto& put = put_[digest.bytes()[0]];
  put.push_back(digest);
  if (put.size() > kKept) put.pop_front();
}

Status BlobStore::DeleteUpload(const Sha256Digest& digest) {
  std::lock_guard lock(FolderMutex(digest));
  const auto& put = put_[digest.bytes()[0]];
  return std::find(put.begin(), put.end(), digest) != put.end() ? OkStatus() : Drop(digest);
}

Status BlobStore::Delete(const Sha256Digest& digest, std::optional<Time> unless_younger_than) {
  std::lock_guard lock(FolderMutex(digest));
  if (unless_younger_than) {
    const std::optional<Time> written = files_->WrittenAt(Path(digest));
    if (!written || *written >= *unless_younger_than) return OkStatus();
  }
  return Drop(digest);
}

Result<std::vector<Sha256Digest>> BlobStore::ListGarbage(const std::set<Sha256Digest>& live, Time before) const {
  std::vector<Sha256Digest> garbage;
  for (unsigned byte = 0; byte < folder_mutexes_.size(); ++byte) {
    HEDDLE_ASSIGN_OR_RETURN(const auto files, files_->List(blobs_ / FolderName(byte)));
    for (const auto& [path, size] : files) {
      auto digest = Sha256Digest::FromHex(path.filename().string());
      if (!digest.ok() || live.contains(*digest)) continue;
      std::optional<Time> written = files_->WrittenAt(path);
      if (written && *written < before) garbage.push_back(*digest);
    }
  }
  std::sort(garbage.begin(), garbage.end());
  return garbage;
}

}  // namespace heddle::coordinator
