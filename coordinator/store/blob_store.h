// Blobs: immutable files named by the SHA-256 of their content, and the resumable uploads that become blobs.
//
//   <root>/blobs/<2 hex>/<64 hex>   finished: complete, verified, durable
//   <root>/uploads/*.part           growing; everything known of an upload is in its file's name (upload_name.h), so a
//                                   kill leaves a whole upload or none
//   <root>/uploads/*.tmp            leftovers of Put; deleted by Open
//
// A blob appears by write -> fsync -> rename -> fsync of the folder, with exactly one fsync of the file. An upload is
// hashed while it passes, so finishing it reads nothing; after a restart the part already there is hashed once, when
// its device comes back. After a failed fsync the file is discarded: a second fsync could lie.
//
// Thread-safety: all methods of BlobStore and Upload may be called from any thread. Uploads do not wait for each other;
// calls on the same upload run one at a time. One process owns the folder.
//
// Errors of every method, beside its own: kResourceExhausted (disk full, quota), kPermissionDenied, kUnavailable
// (the disk answers with an error), with the path in the message.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/ids.h"
#include "common/status.h"
#include "coordinator/store/file_ops.h"

namespace heddle::coordinator {

struct BlobStoreOptions {
  std::filesystem::path root;                      // made when absent
  uint64_t max_upload_bytes = uint64_t{64} << 30;  // declared sizes of all unfinished uploads together
  size_t max_uploads = 10'000;                     // unfinished ones
  size_t max_device_uploads = 0;                   // likewise, of one device; 0: no limit
  uint64_t max_device_upload_bytes = 0;            // declared sizes of one device's unfinished uploads; 0: no limit
  uint64_t min_free_bytes = 0;                     // no upload begins that would leave less room on the disk
  FileOps* files = nullptr;                        // not owned; nullptr: the real file system
};

// What a device declares about an upload.
struct UploadSpec {
  DeviceId device;
  AssignmentId assignment;  // 32 lower-case hex digits
  uint64_t size_bytes = 0;
  Sha256Digest digest;
  friend bool operator==(const UploadSpec&, const UploadSpec&) = default;
};

// First 32 hex digits of SHA-256("upload" 0 device 0 assignment 0 digest in hex).
std::string UploadId(const UploadSpec& spec);

class BlobStore;

// A handle on one upload; several may share it (a device that reconnects while its old connection still hangs). The
// file is open while a handle lives and data has passed. Must not outlive its BlobStore.
class Upload {
 public:
  ~Upload();
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  const std::string& id() const;
  const UploadSpec& spec() const;
  // Bytes on disk so far; the declared size once finished.
  uint64_t offset() const;
  // The blob is in the store: there is nothing left to send.
  bool finished() const;

  // Adds `data` at `offset`, best in pieces of 64 KiB or more. Errors: kOutOfRange when `offset` is not the present one
  // or the data goes beyond the declared size (nothing is written); kNotFound when the upload was discarded. After an
  // error of the disk offset() says what was kept.
  Status Append(uint64_t offset, std::span<const std::byte> data);

  // Checks the hash of the whole and moves the file into the blobs. Ok again when already finished. Errors:
  // kFailedPrecondition when bytes are missing; kDataLoss when the bytes do not have the declared SHA-256 (the upload
  // is discarded); an error of the disk (discarded too); kNotFound when it was discarded.
  Status Finish();

 private:
  friend class BlobStore;
  struct Entry;
  Upload(BlobStore* store, std::shared_ptr<Entry> entry);
  BlobStore* store_;
  std::shared_ptr<Entry> entry_;
};

class BlobStore {
 public:
  // Makes the folders, takes up the uploads that are there, and makes durable what a kill may have left between rename
  // and fsync.
  static Result<std::unique_ptr<BlobStore>> Open(BlobStoreOptions options);
  ~BlobStore();

  // ---- blobs ----

  // Stores the bytes unless they are there already; returns their digest.
  Result<Sha256Digest> Put(std::string_view content);
  // Copies a file into the store while hashing it, in pieces; memory stays small. Errors: kNotFound.
  Result<Sha256Digest> PutCopyOf(const std::filesystem::path& path);
  // Moves a finished file of the same file system, whose digest the caller has computed, into the store; fsyncs it
  // first. `temporary` is gone afterwards, also after an error.
  Status PutFile(const std::filesystem::path& temporary, const Sha256Digest& digest);

  // A path for a file that is to be given to PutFile: in the same file system, unique, deleted by the next Open.
  std::filesystem::path TemporaryPath();

  std::filesystem::path Path(const Sha256Digest& digest) const;  // whether it exists or not
  bool Has(const Sha256Digest& digest) const;
  Result<uint64_t> Size(const Sha256Digest& digest) const;  // kNotFound
  // Maps the blob. Errors: kNotFound; kUnavailable: its folder is not there either (a disk that is not mounted).
  Result<std::shared_ptr<const MappedFile>> Map(const Sha256Digest& digest) const;
  // The same, if its bytes still have that digest: for what goes into a model, whatever the disk did to it meanwhile.
  // Read whole first, so that a disk's error is a status and not a signal. Errors: kNotFound; kDataLoss: damaged;
  // kUnavailable also when there are no blobs at all (a disk that is not mounted). A damaged one is replaced when its
  // bytes are put or uploaded again.
  Result<std::shared_ptr<const MappedFile>> MapChecked(const Sha256Digest& digest);
  // Of all blobs; kept up to date without scanning.
  uint64_t total_bytes() const { return total_bytes_.load(); }
  // Ok when there is none. Readers that have it open or mapped keep their data. `unless_younger_than`: one that was
  // written, or found again by Put or an upload, at that time or later stays.
  Status Delete(const Sha256Digest& digest, std::optional<Time> unless_younger_than = {});
  // The same for what a device has uploaded; what was put here by this process too, and may be about to be named,
  // stays.
  Status DeleteUpload(const Sha256Digest& digest);
  // Blobs that are not in `live` and were written before `before` (younger ones may be about to be named), sorted.
  Result<std::vector<Sha256Digest>> ListGarbage(const std::set<Sha256Digest>& live, Time before) const;

  // ---- uploads ----

  // Begins an upload or finds the one with the same id: the same call again is harmless. `proven`: this device has sent
  // these bytes before for this assignment, so when the blob is there the upload is finished at once; without it the
  // bytes must come, though the blob may exist: to know a digest is not to own its content. Errors: kInvalidArgument
  // when a field is malformed or the same upload was begun with another size; kResourceExhausted beyond
  // max_upload_bytes or max_uploads, or without room on the disk; kFailedPrecondition beyond the limits of one device,
  // whose older uploads make room as far as nobody has them open; kNotFound: proven, and replaced in this moment.
  Result<std::unique_ptr<Upload>> BeginUpload(const UploadSpec& spec, bool proven = false);
  // Errors: kNotFound (never begun, or discarded, or finished and closed: its device begins again and hears so).
  Result<std::unique_ptr<Upload>> FindUpload(const std::string& id);
  // Discards unfinished uploads that nobody has open and that have not grown since `before`. Returns how many.
  Result<size_t> DiscardStaleUploads(Time before);
  // Unfinished ones.
  size_t num_uploads() const;
  // Their declared sizes together.
  uint64_t upload_bytes() const;

 private:
  friend class Upload;
  using Entry = Upload::Entry;

  explicit BlobStore(BlobStoreOptions options);

  Status MakeFolders();
  Status TakeUpBlobs();
  Status TakeUpUploads();

  // Blobs.
  Result<bool> TakeExisting(const Sha256Digest& digest);
  Result<bool> TakeExistingLocked(const Sha256Digest& digest);
  Status Drop(const Sha256Digest& digest);
  Status MoveIntoPlace(const std::filesystem::path& from, const Sha256Digest& digest);
  std::mutex& FolderMutex(const Sha256Digest& digest) { return folder_mutexes_[digest.bytes()[0]]; }
  std::set<Sha256Digest>& Doubtful(const Sha256Digest& digest) { return doubtful_[digest.bytes()[0]]; }
  void NotePut(const Sha256Digest& digest);

  // Uploads. Except for the first six the entry's mutex is held.
  Result<std::shared_ptr<Entry>> NewEntry(const UploadSpec& spec, std::string id);  // mutex_ is held
  void CountEntry(Entry& entry);                                                    // mutex_ is held
  bool FitsDevice(const UploadSpec& spec) const;                                    // mutex_ is held
  void DiscardOlderUploads(const UploadSpec& spec, const std::string& id);
  std::unique_ptr<Upload> MakeHandle(std::shared_ptr<Entry> entry);  // mutex_ is held
  void ReleaseHandle(const std::shared_ptr<Entry>& entry);
  Status OpenEntry(Entry& entry);
  Status AppendTo(Entry& entry, uint64_t offset, std::span<const std::byte> data);
  Status FinishEntry(Entry& entry);
  Status MoveUpload(Entry& entry);
  void EndEntry(Entry& entry, bool finished);

  std::filesystem::path blobs_;
  std::filesystem::path uploads_;
  BlobStoreOptions options_;
  FileOps* files_;
  std::atomic<uint64_t> total_bytes_{0};
  std::atomic<uint64_t> temporary_counter_{0};
  // One a folder of blobs: whoever makes or deletes a blob there.
  std::array<std::mutex, 256> folder_mutexes_;
  // Blobs whose folder could not be fsynced after their rename. Guarded by the folder's mutex.
  std::array<std::set<Sha256Digest>, 256> doubtful_;
  std::array<std::deque<Sha256Digest>, 256> put_;  // the last ones that were put here, in a folder

  // Guards what follows; never held while data moves. Lock order: an entry's mutex, then this.
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Entry>> entries_;  // by id: unfinished uploads, finished ones while in use
  size_t unfinished_ = 0;
  uint64_t unfinished_bytes_ = 0;
  struct DeviceUse {
    size_t uploads = 0;
    uint64_t bytes = 0;
  };
  std::map<DeviceId, DeviceUse> device_use_;  // only of devices with an unfinished upload
  uint64_t next_sequence_ = 0;
};

}  // namespace heddle::coordinator
