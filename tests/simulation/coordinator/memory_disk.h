// A disk in memory under SQLite, that fails when it is told to and loses what was not synced when its power is cut.
//
// Use: open a Store with StoreOptions{.vfs = disk.name()} and a path without a folder. After PowerCut or Kill every
// open file is dead (its operations fail), so that the old Store can be destroyed without touching what the new one
// finds. Not thread-safe; must outlive the connections that use it. One connection a database at a time: locks are not
// kept.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace heddle::coordinator::testing {

class MemoryDisk {
 public:
  // `name` must be unique among the disks that live.
  explicit MemoryDisk(std::string name);
  ~MemoryDisk();
  MemoryDisk(const MemoryDisk&) = delete;
  MemoryDisk& operator=(const MemoryDisk&) = delete;

  const std::string& name() const { return name_; }

  // The n-th operation that changes the disk from now on (1: the next one) fails with this SQLite code; `stay`: and all
  // after it, until Heal. A failing write leaves half of its bytes.
  void FailAt(uint64_t n, int code, bool stay);
  void Heal() {
    failing_.reset();
    reads_fail_ = locked_ = false;
  }
  // Reads fail until Heal.
  void FailReads() { reads_fail_ = true; }
  // Another process holds the write lock until Heal.
  void LockOut() { locked_ = true; }
  // Called when a fault of FailAt is met for the first time.
  void OnFault(std::function<void()> met) { met_ = std::move(met); }
  // Operations that changed the disk or tried to, so far.
  uint64_t operations() const { return operations_; }

  // Each write since the last sync of its file is kept, lost or torn at a multiple of 512 bytes, as drawn from `seed`.
  void PowerCut(uint64_t seed);
  // The process dies, the machine goes on: nothing is lost.
  void Kill();

  // What a file holds; nothing when there is none.
  std::optional<std::string> Content(const std::string& path) const;
  void SetContent(const std::string& path, const std::string& content);

  // ---- for the VFS ----
  struct Change {
    uint64_t offset = 0;
    std::string bytes;
    bool truncate = false;  // to `offset`
  };
  struct File {
    // Their room is that of files of before, on the same thread: worlds begin and end, and fresh memory is dear.
    File();
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    std::string durable;
    std::string content;
    std::vector<Change> unsynced;
    std::map<int, std::vector<char>> shared;  // regions of the WAL index
  };
  std::map<std::string, std::shared_ptr<File>>& files() { return files_; }
  uint64_t generation() const { return generation_; }
  // SQLITE_OK, or the code with which this operation must fail.
  int Count();
  bool reads_fail() const { return reads_fail_; }
  bool locked() const { return locked_; }
  uint64_t NextRandom() { return random_ = random_ * 6364136223846793005ULL + 1442695040888963407ULL; }

 private:
  struct Failing {
    uint64_t at = 0;
    int code = 0;
    bool stay = false;
  };
  std::string name_;
  sqlite3_vfs vfs_{};
  std::map<std::string, std::shared_ptr<File>> files_;
  uint64_t generation_ = 0;
  uint64_t operations_ = 0;
  uint64_t random_ = 1;
  std::optional<Failing> failing_;
  bool reads_fail_ = false, locked_ = false;
  std::function<void()> met_;
};

}  // namespace heddle::coordinator::testing
