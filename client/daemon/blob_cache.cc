#include "client/daemon/blob_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <memory>

#include "common/file.h"
#include "common/logging.h"
#include "common/test_hooks.h"

namespace heddle::client {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPiece = size_t{1} << 20;
constexpr char kPartSuffix[] = ".part";

struct Entry {
  fs::path path;
  uint64_t size = 0;
  int64_t last_use_ns = 0;
};

std::vector<Entry> List(const fs::path& folder) {
  std::vector<Entry> entries;
  std::error_code error;
  for (const fs::directory_entry& file : fs::directory_iterator(folder, error)) {
    struct stat info {};
    if (::lstat(file.path().c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    entries.push_back({file.path(), static_cast<uint64_t>(info.st_size),
                       int64_t{info.st_atim.tv_sec} * 1'000'000'000 + info.st_atim.tv_nsec});
  }
  return entries;
}

// Reads the file's bytes into the hasher; how many there were.
Result<uint64_t> HashInto(const fs::path& path, Sha256Hasher* hasher) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open " + path.string());
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kPiece);
  for (uint64_t total = 0;;) {
    const ssize_t n = ::read(fd.get(), buffer.get(), kPiece);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "cannot read " + path.string());
    if (n == 0) return total;
    hasher->Update(std::span<const std::byte>(buffer.get(), static_cast<size_t>(n)));
    total += static_cast<uint64_t>(n);
  }
}

void Remove(const fs::path& path) {
  std::error_code ignored;
  fs::remove(path, ignored);
}

// The access time says when a blob was last used; the time of change stays.
void Touch(const fs::path& path) {
  const timespec times[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
  ::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW);
}

Status Link(const fs::path& blob, const fs::path& name) {
  if (::link(blob.c_str(), name.c_str()) == 0) return OkStatus();
  if (errno == ENOSPC || errno == EDQUOT) return ErrnoStatus(errno, "cannot link " + name.string());
  std::error_code error;
  const fs::path absolute = fs::absolute(blob, error);
  if (::symlink(absolute.c_str(), name.c_str()) == 0) return OkStatus();
  return ErrnoStatus(errno, "cannot link " + name.string());
}

}  // namespace

Result<BlobCache> BlobCache::Open(fs::path folder, uint64_t max_bytes) {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  return BlobCache(std::move(folder), max_bytes);
}

fs::path BlobCache::PartOf(const Sha256Digest& digest) const { return folder_ / (digest.ToHex() + kPartSuffix); }

Status BlobCache::Pin(const std::vector<CachedBlob>& blobs) {
  pinned_.clear();
  uint64_t total = 0;
  for (const CachedBlob& blob : blobs) {
    if (pinned_.insert(blob.digest.ToHex()).second) total += std::min(blob.size_bytes, UINT64_MAX - total);
  }
  if (total <= max_bytes_) return OkStatus();
  pinned_.clear();
  return ResourceExhausted("the task's files have " + std::to_string(total) + " bytes, [cache] max_bytes is " +
                           std::to_string(max_bytes_) + "; make it larger to take part in this run");
}

std::optional<BlobCache::Identity> BlobCache::IdentityOf(const fs::path& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  return Identity(info.st_dev, info.st_ino, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
}

std::optional<fs::path> BlobCache::Find(const CachedBlob& blob) {
  const fs::path path = PathOf(blob.digest);
  const auto identity = IdentityOf(path);
  if (!identity) {
    Remove(path);  // something else than a file
    return std::nullopt;
  }
  const auto known = ok_.find(path);
  bool sound = known != ok_.end() && known->second == *identity;
  if (!sound && static_cast<uint64_t>(std::get<2>(*identity)) == blob.size_bytes) {
    Sha256Hasher hasher;
    const Result<uint64_t> size = HashInto(path, &hasher);
    sound = size.ok() && *size == blob.size_bytes && hasher.Finish() == blob.digest;
  }
  if (!sound || static_cast<uint64_t>(std::get<2>(*identity)) != blob.size_bytes) {
    Log(Severity::kWarning, "a cached file does not have its digest and is fetched anew", {{"path", path.string()}});
    ok_.erase(path);
    Remove(path);
    return std::nullopt;
  }
  ok_[path] = *identity;
  Touch(path);
  return path;
}

Result<BlobCache::Partial> BlobCache::Begin(const CachedBlob& blob) {
  Partial partial;
  partial.file = PartOf(blob.digest);
  HEDDLE_RETURN_IF_ERROR(MakeRoom(blob.size_bytes, blob.digest));
  const auto identity = IdentityOf(partial.file);
  if (!identity || static_cast<uint64_t>(std::get<2>(*identity)) > blob.size_bytes) {
    Remove(partial.file);
    return partial;
  }
  const Result<uint64_t> have = HashInto(partial.file, &partial.hasher);
  if (!have.ok()) {
    Remove(partial.file);
    partial.hasher = Sha256Hasher();
    return partial;
  }
  partial.offset = *have;
  return partial;
}

Result<fs::path> BlobCache::Finish(const CachedBlob& blob, Partial partial) {
  const auto identity = IdentityOf(partial.file);
  const uint64_t size = identity ? static_cast<uint64_t>(std::get<2>(*identity)) : 0;
  const Sha256Digest digest = partial.hasher.Finish();
  // An empty blob may come without a file.
  if (!identity && blob.size_bytes == 0) {
    UniqueFd fd(::open(partial.file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    if (!fd.valid()) return ErrnoStatus(errno, "cannot make " + partial.file.string());
  }
  if (size != blob.size_bytes || digest != blob.digest) {
    Remove(partial.file);
    return DataLoss("the blob " + blob.name + " came with " + std::to_string(size) + " bytes and digest " +
                    digest.ToHex() + ", expected were " + std::to_string(blob.size_bytes) + " bytes and " +
                    blob.digest.ToHex());
  }
  const fs::path path = PathOf(blob.digest);
  HEDDLE_FAILPOINT(kClientBlobFetched);
  std::error_code error;
  fs::rename(partial.file, path, error);
  if (error) return ErrnoStatus(error.value(), "cannot rename " + partial.file.string());
  HEDDLE_FAILPOINT(kClientBlobCached);
  if (const auto final_identity = IdentityOf(path)) ok_[path] = *final_identity;
  Touch(path);
  return path;
}

void BlobCache::Remember(const CachedBlob& blob) {
  const std::string text = blob.digest.ToHex() + " " + std::to_string(blob.size_bytes) + "\n";
  const Status written = WriteFileAtomically(folder_ / ("latest-" + blob.name), text);
  if (!written.ok()) Log(Severity::kWarning, "the cache cannot remember a file", {{"error", written.message()}});
}

std::optional<CachedBlob> BlobCache::Recall(const std::string& name) {
  const auto text = ReadFile(folder_ / ("latest-" + name), 128);
  if (!text.ok()) return std::nullopt;
  const auto digest = Sha256Digest::FromHex(std::string_view(*text).substr(0, 64));
  const size_t space = text->find(' ');
  if (!digest.ok() || space != 64) return std::nullopt;
  CachedBlob blob{*digest, 0, name};
  const char* begin = text->data() + space + 1;
  if (std::from_chars(begin, text->data() + text->size(), blob.size_bytes).ec != std::errc()) return std::nullopt;
  if (!Find(blob)) return std::nullopt;
  return blob;
}

void BlobCache::Forget(const std::string& name) {
  std::error_code ignored;
  fs::remove(folder_ / ("latest-" + name), ignored);
}

Result<fs::path> BlobCache::Put(const CachedBlob& blob, std::string_view content) {
  HEDDLE_ASSIGN_OR_RETURN(Partial partial, Begin(blob));
  // What an earlier download left is of no use.
  partial.hasher = Sha256Hasher();
  partial.hasher.Update(content);
  UniqueFd fd(::open(partial.file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot write " + partial.file.string());
  HEDDLE_RETURN_IF_ERROR(WriteAll(fd.get(), content, "cannot write " + partial.file.string()));
  return Finish(blob, std::move(partial));
}

Result<CachedBlob> BlobCache::Adopt(const fs::path& file, std::string name) {
  Sha256Hasher hasher;
  CachedBlob blob{{}, 0, std::move(name)};
  HEDDLE_ASSIGN_OR_RETURN(blob.size_bytes, HashInto(file, &hasher));
  blob.digest = hasher.Finish();
  HEDDLE_RETURN_IF_ERROR(MakeRoom(blob.size_bytes, blob.digest));
  const fs::path path = PathOf(blob.digest);
  HEDDLE_RETURN_IF_ERROR(RenameDurably(file, path));
  if (const auto identity = IdentityOf(path)) ok_[path] = *identity;
  Touch(path);
  return blob;
}

bool BlobCache::Fits(uint64_t bytes) const {
  for (const Entry& entry : List(folder_)) {
    if (pinned_.contains(entry.path.stem().string())) bytes += entry.size;
  }
  return bytes <= max_bytes_;
}

uint64_t BlobCache::TotalBytes() const {
  uint64_t total = 0;
  for (const Entry& entry : List(folder_)) total += entry.size;
  return total;
}

Status BlobCache::MakeRoom(uint64_t bytes, const Sha256Digest& for_digest) {
  std::vector<Entry> entries = List(folder_);
  const fs::path own_part = PartOf(for_digest);
  const auto stays = [&](const Entry& entry) {
    return pinned_.contains(entry.path.stem().string()) || entry.path == own_part;
  };
  uint64_t total = bytes, least = bytes;
  for (const Entry& entry : entries) {
    if (entry.path == own_part) continue;
    total += entry.size;
    if (stays(entry)) least += entry.size;
  }
  if (least > max_bytes_) {  // nothing is thrown away for what does not fit anyway
    return ResourceExhausted("the cache has no room for " + std::to_string(bytes) +
                             " bytes more; [cache] max_bytes is " + std::to_string(max_bytes_));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.last_use_ns, a.path) < std::tie(b.last_use_ns, b.path);
  });
  for (const Entry& entry : entries) {
    if (total <= max_bytes_) break;
    if (stays(entry)) continue;
    Remove(entry.path);
    ok_.erase(entry.path);
    total -= entry.size;
  }
  return OkStatus();
}

Status BlobCache::Materialise(const std::vector<CachedBlob>& blobs, const fs::path& folder) {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  std::set<std::string> wanted;
  for (const CachedBlob& blob : blobs) wanted.insert(blob.name);
  std::error_code error;
  std::vector<fs::path> strangers;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (!wanted.contains(entry.path().filename().string())) strangers.push_back(entry.path());
  }
  for (const fs::path& stranger : strangers) fs::remove_all(stranger, error);
  for (const CachedBlob& blob : blobs) {
    const auto source = Find(blob);
    if (!source) return NotFound("the blob " + blob.digest.ToHex() + " (" + blob.name + ") is not in the cache");
    const fs::path target = folder / blob.name;
    if (fs::equivalent(*source, target, error) && !error) continue;
    fs::remove_all(target, error);
    HEDDLE_RETURN_IF_ERROR(Link(*source, target));
  }
  return OkStatus();
}

}  // namespace heddle::client
