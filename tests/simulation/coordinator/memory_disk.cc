#include "tests/simulation/coordinator/memory_disk.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "common/random.h"

namespace heddle::coordinator::testing {
namespace {

constexpr uint64_t kSector = 512;

struct Handle {
  sqlite3_file base{};  // first: SQLite sees only this
  MemoryDisk* disk = nullptr;
  std::shared_ptr<MemoryDisk::File> file;
  std::string path;
  uint64_t generation = 0;
  bool delete_on_close = false;

  bool dead() const { return generation != disk->generation(); }
};

// Strings whose files are gone.
std::vector<std::string>& Spare() {
  thread_local std::vector<std::string> spare;
  return spare;
}

std::string TakeSpare() {
  if (Spare().empty()) return {};
  std::string room = std::move(Spare().back());
  Spare().pop_back();
  return room;
}

void KeepSpare(std::string room) {
  constexpr size_t kMost = 8, kSmall = size_t{16} << 10;
  if (room.capacity() < kSmall || Spare().size() == kMost) return;
  room.clear();
  Spare().push_back(std::move(room));
}

Handle* Of(sqlite3_file* file) { return reinterpret_cast<Handle*>(file); }
MemoryDisk* Of(sqlite3_vfs* vfs) { return static_cast<MemoryDisk*>(vfs->pAppData); }

void Apply(const MemoryDisk::Change& change, std::string* content) {
  if (change.truncate) {
    content->resize(std::min<uint64_t>(content->size(), change.offset));
    return;
  }
  if (content->size() < change.offset) content->resize(change.offset);
  // Writes over what is there, or goes on behind it.
  content->replace(change.offset, std::min(change.bytes.size(), content->size() - change.offset), change.bytes);
}

// ---- one file ----

int Close(sqlite3_file* file) {
  Handle* handle = Of(file);
  if (handle->delete_on_close && !handle->dead()) handle->disk->files().erase(handle->path);
  handle->~Handle();
  return SQLITE_OK;
}

int Read(sqlite3_file* file, void* buffer, int size, sqlite3_int64 offset) {
  Handle* handle = Of(file);
  if (handle->dead() || handle->disk->reads_fail()) return SQLITE_IOERR_READ;
  const std::string& content = handle->file->content;
  auto wanted = static_cast<size_t>(size);
  auto start = static_cast<size_t>(offset);
  size_t have = start >= content.size() ? 0 : std::min(wanted, content.size() - start);
  if (have > 0) std::memcpy(buffer, content.data() + start, have);
  if (have == wanted) return SQLITE_OK;
  std::memset(static_cast<char*>(buffer) + have, 0, wanted - have);
  return SQLITE_IOERR_SHORT_READ;
}

int Write(sqlite3_file* file, const void* data, int size, sqlite3_int64 offset) {
  Handle* handle = Of(file);
  if (handle->dead()) return SQLITE_IOERR_WRITE;
  MemoryDisk::Change change{static_cast<uint64_t>(offset), std::string(static_cast<const char*>(data), size), false};
  int code = handle->disk->Count();
  if (code != SQLITE_OK) change.bytes.resize(change.bytes.size() / 2);
  Apply(change, &handle->file->content);
  handle->file->unsynced.push_back(std::move(change));
  return code;
}

int Truncate(sqlite3_file* file, sqlite3_int64 size) {
  Handle* handle = Of(file);
  if (handle->dead()) return SQLITE_IOERR_TRUNCATE;
  if (int code = handle->disk->Count(); code != SQLITE_OK) return code;
  MemoryDisk::Change change{static_cast<uint64_t>(size), {}, true};
  Apply(change, &handle->file->content);
  handle->file->unsynced.push_back(std::move(change));
  return SQLITE_OK;
}

int Sync(sqlite3_file* file, int) {
  Handle* handle = Of(file);
  if (handle->dead()) return SQLITE_IOERR_FSYNC;
  if (int code = handle->disk->Count(); code != SQLITE_OK) return code;
  // Change by change: a write-ahead log is long, and what a commit adds to it is short.
  for (const MemoryDisk::Change& change : handle->file->unsynced) Apply(change, &handle->file->durable);
  handle->file->unsynced.clear();
  return SQLITE_OK;
}

int Size(sqlite3_file* file, sqlite3_int64* size) {
  Handle* handle = Of(file);
  if (handle->dead()) return SQLITE_IOERR_FSTAT;
  *size = static_cast<sqlite3_int64>(handle->file->content.size());
  return SQLITE_OK;
}

int Lock(sqlite3_file*, int) { return SQLITE_OK; }
int CheckReservedLock(sqlite3_file*, int* reserved) {
  *reserved = 0;
  return SQLITE_OK;
}
int Control(sqlite3_file*, int, void*) { return SQLITE_NOTFOUND; }
int SectorSize(sqlite3_file*) { return kSector; }
int Characteristics(sqlite3_file*) { return 0; }

int SharedMap(sqlite3_file* file, int region, int size, int extend, void volatile** where) {
  Handle* handle = Of(file);
  *where = nullptr;
  if (handle->dead()) return SQLITE_IOERR_SHMMAP;
  auto& shared = handle->file->shared;
  if (!shared.contains(region)) {
    if (extend == 0) return SQLITE_OK;
    shared[region].resize(static_cast<size_t>(size));
  }
  *where = shared[region].data();
  return SQLITE_OK;
}
// Slot 0 of the WAL's locks is the writer's.
int SharedLock(sqlite3_file* file, int offset, int, int flags) {
  const bool writer = offset == 0 && (flags & SQLITE_SHM_LOCK) != 0 && (flags & SQLITE_SHM_EXCLUSIVE) != 0;
  return writer && Of(file)->disk->locked() ? SQLITE_BUSY : SQLITE_OK;
}
void SharedBarrier(sqlite3_file*) {}
int SharedUnmap(sqlite3_file* file, int forget) {
  if (forget != 0 && !Of(file)->dead()) Of(file)->file->shared.clear();
  return SQLITE_OK;
}

constexpr sqlite3_io_methods kMethods = {.iVersion = 2,
                                         .xClose = Close,
                                         .xRead = Read,
                                         .xWrite = Write,
                                         .xTruncate = Truncate,
                                         .xSync = Sync,
                                         .xFileSize = Size,
                                         .xLock = Lock,
                                         .xUnlock = Lock,
                                         .xCheckReservedLock = CheckReservedLock,
                                         .xFileControl = Control,
                                         .xSectorSize = SectorSize,
                                         .xDeviceCharacteristics = Characteristics,
                                         .xShmMap = SharedMap,
                                         .xShmLock = SharedLock,
                                         .xShmBarrier = SharedBarrier,
                                         .xShmUnmap = SharedUnmap,
                                         .xFetch = nullptr,
                                         .xUnfetch = nullptr};

// ---- the file system ----

int Open(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* out_flags) {
  MemoryDisk* disk = Of(vfs);
  auto* handle = new (file) Handle;
  handle->disk = disk;
  handle->generation = disk->generation();
  handle->path = name != nullptr ? name : "temporary-" + std::to_string(disk->NextRandom());
  handle->delete_on_close = (flags & SQLITE_OPEN_DELETEONCLOSE) != 0 || name == nullptr;
  auto& entry = disk->files()[handle->path];
  if (!entry) {
    if ((flags & SQLITE_OPEN_CREATE) == 0) {
      disk->files().erase(handle->path);
      handle->~Handle();
      return SQLITE_CANTOPEN;
    }
    entry = std::make_shared<MemoryDisk::File>();
  }
  handle->file = entry;
  handle->base.pMethods = &kMethods;
  if (out_flags != nullptr) *out_flags = flags;
  return SQLITE_OK;
}

int Delete(sqlite3_vfs* vfs, const char* name, int) {
  if (int code = Of(vfs)->Count(); code != SQLITE_OK) return code;
  return Of(vfs)->files().erase(name) == 1 ? SQLITE_OK : SQLITE_IOERR_DELETE_NOENT;
}

int Access(sqlite3_vfs* vfs, const char* name, int, int* result) {
  *result = Of(vfs)->files().contains(name) ? 1 : 0;
  return SQLITE_OK;
}

int FullPath(sqlite3_vfs*, const char* name, int size, char* out) {
  sqlite3_snprintf(size, out, "%s", name);
  return SQLITE_OK;
}

int Randomness(sqlite3_vfs* vfs, int size, char* out) {
  for (int i = 0; i < size; ++i) out[i] = static_cast<char>(Of(vfs)->NextRandom() >> 56);
  return size;
}
int Sleep(sqlite3_vfs*, int microseconds) { return microseconds; }
int CurrentTime(sqlite3_vfs*, double* days) {
  *days = 2460000.5;
  return SQLITE_OK;
}
int LastError(sqlite3_vfs*, int, char*) { return 0; }

}  // namespace

MemoryDisk::File::File() : durable(TakeSpare()), content(TakeSpare()) {}

MemoryDisk::File::~File() {
  KeepSpare(std::move(durable));
  KeepSpare(std::move(content));
}

MemoryDisk::MemoryDisk(std::string name) : name_(std::move(name)) {
  vfs_.iVersion = 1;
  vfs_.szOsFile = sizeof(Handle);
  vfs_.mxPathname = 512;
  vfs_.zName = name_.c_str();
  vfs_.pAppData = this;
  vfs_.xOpen = Open;
  vfs_.xDelete = Delete;
  vfs_.xAccess = Access;
  vfs_.xFullPathname = FullPath;
  vfs_.xRandomness = Randomness;
  vfs_.xSleep = Sleep;
  vfs_.xCurrentTime = CurrentTime;
  vfs_.xGetLastError = LastError;
  sqlite3_vfs_register(&vfs_, 0);
}

MemoryDisk::~MemoryDisk() { sqlite3_vfs_unregister(&vfs_); }

void MemoryDisk::FailAt(uint64_t n, int code, bool stay) { failing_ = Failing{operations_ + n, code, stay}; }

int MemoryDisk::Count() {
  ++operations_;
  if (!failing_) return SQLITE_OK;
  bool fails = failing_->stay ? operations_ >= failing_->at : operations_ == failing_->at;
  if (operations_ == failing_->at && met_) met_();
  return fails ? failing_->code : SQLITE_OK;
}

void MemoryDisk::PowerCut(uint64_t seed) {
  PhiloxStream random(seed, 77);
  for (auto& [path, old] : files_) {
    auto file = std::make_shared<File>();
    file->durable = std::move(old->durable);
    for (Change& change : old->unsynced) {
      uint32_t fate = random.NextBelow(3);
      if (fate == 0) continue;
      if (fate == 1 && !change.truncate) {
        uint64_t sectors = change.bytes.size() / kSector;
        change.bytes.resize(kSector * random.NextBelow(static_cast<uint32_t>(sectors) + 1));
        if (change.bytes.empty()) continue;
      }
      Apply(change, &file->durable);
    }
    file->content = std::move(old->content);
    file->content.assign(file->durable);
    old = file;
  }
  ++generation_;
  Heal();
}

void MemoryDisk::Kill() {
  for (auto& [path, old] : files_) {
    // The machine still holds what was not synced: a later power cut may lose it. The WAL index dies with its process,
    // which may look at it until it is cleared away.
    auto file = std::make_shared<File>();
    file->durable = std::move(old->durable);
    file->content = std::move(old->content);
    file->unsynced = std::move(old->unsynced);
    old = file;
  }
  ++generation_;
  Heal();
}

std::optional<std::string> MemoryDisk::Content(const std::string& path) const {
  auto found = files_.find(path);
  if (found == files_.end()) return std::nullopt;
  return found->second->content;
}

void MemoryDisk::SetContent(const std::string& path, const std::string& content) {
  auto file = std::make_shared<File>();
  file->durable = file->content = content;
  files_[path] = file;
}

}  // namespace heddle::coordinator::testing
