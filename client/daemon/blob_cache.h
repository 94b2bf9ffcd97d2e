// Blobs on the device, by hash: <folder>/<64 hex digits>, and <64 hex digits>.part while one is fetched.
//
// What the cache hands out has been hashed by this process: a file that does not have its digest or size is deleted and
// fetched anew. So files need no fsync: what a power cut leaves behind is found out. The cache stays below its limit by
// deleting the least recently used blobs, never pinned ones; the time of last use is the file's access time (its time
// of change stays, since the worker knows unchanged models by it).
//
// Not thread-safe. One process at a time (the daemon's lock).
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "common/digest.h"
#include "common/status.h"

namespace heddle::client {

struct CachedBlob {
  Sha256Digest digest;
  uint64_t size_bytes = 0;
  std::string name;  // of the file in its folder
};

class BlobCache {
 public:
  // Makes the folder. Errors: those of MakeDirectories.
  static Result<BlobCache> Open(std::filesystem::path folder, uint64_t max_bytes);

  // The blobs of the task under way, which stay. Replaces the set of before. Errors: kResourceExhausted when they alone
  // are larger than the limit.
  Status Pin(const std::vector<CachedBlob>& blobs);

  // Path of the blob if it is there and sound; marks it used.
  std::optional<std::filesystem::path> Find(const CachedBlob& blob);

  // A download to go on with. `hasher` holds the first `offset` bytes of `file`; all of the blob is there already when
  // offset is its size.
  struct Partial {
    std::filesystem::path file;
    uint64_t offset = 0;
    Sha256Hasher hasher;
  };
  // Makes room and reads what an earlier attempt left. Errors: kResourceExhausted (no room beside pinned blobs), and
  // those of reading.
  Result<Partial> Begin(const CachedBlob& blob);
  // Takes a download whose bytes all went through `partial.hasher`. Errors: kDataLoss when digest or size differ: the
  // file is deleted then.
  Result<std::filesystem::path> Finish(const CachedBlob& blob, Partial partial);

  // Lets `folder` hold exactly these blobs, as hard links (symbolic ones where the file system has no others) under
  // their names. Links that are right stay untouched. Errors: kNotFound when a blob is not there; those of the disk.
  Status Materialise(const std::vector<CachedBlob>& blobs, const std::filesystem::path& folder);

  // The blob that was fetched last under a name whose content follows on from version to version (a run's ledger), so
  // that the next need only be patched. Nothing when there is none, or it has gone. A failure to remember is harmless.
  void Remember(const CachedBlob& blob);
  std::optional<CachedBlob> Recall(const std::string& name);
  void Forget(const std::string& name);
  // Puts content that was made here. Errors: as Begin and Finish; those of writing.
  Result<std::filesystem::path> Put(const CachedBlob& blob, std::string_view content);

  // Moves a file that was made here, on the same file system, into the cache, and says what it is; it is read once.
  // Errors: kResourceExhausted, as Begin; those of reading and renaming. The file is then where it was.
  Result<CachedBlob> Adopt(const std::filesystem::path& file, std::string name);
  // Whether so many bytes more fit beside what is pinned.
  bool Fits(uint64_t bytes) const;

  uint64_t TotalBytes() const;

 private:
  BlobCache(std::filesystem::path folder, uint64_t max_bytes) : folder_(std::move(folder)), max_bytes_(max_bytes) {}
  std::filesystem::path PathOf(const Sha256Digest& digest) const { return folder_ / digest.ToHex(); }
  std::filesystem::path PartOf(const Sha256Digest& digest) const;
  Status MakeRoom(uint64_t bytes, const Sha256Digest& for_digest);

  using Identity = std::tuple<dev_t, ino_t, off_t, int64_t, int64_t>;
  static std::optional<Identity> IdentityOf(const std::filesystem::path& path);

  std::filesystem::path folder_;
  uint64_t max_bytes_;
  std::set<std::string> pinned_;                  // hex digits
  std::map<std::filesystem::path, Identity> ok_;  // hashed by this process
};

}  // namespace heddle::client
