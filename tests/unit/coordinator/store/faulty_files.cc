#include "tests/unit/coordinator/store/faulty_files.h"

#include <fstream>

namespace heddle::coordinator::testing {
namespace fs = std::filesystem;

void FaultyFiles::FailAt(uint64_t n, int error, bool stay) {
  fail_at_ = calls_ + n;
  error_ = error;
  stay_ = stay;
  failed_ = false;
}

Status FaultyFiles::Count(const std::string& what) {
  ++calls_;
  bool fails = fail_at_ != 0 && (stay_ ? calls_ >= fail_at_ : calls_ == fail_at_);
  if (!fails) return OkStatus();
  failed_ = true;
  return DiskStatus(error_, "injected fault: cannot " + what);
}

void FaultyFiles::PowerCut() {
  fail_at_ = 0;
  for (auto rename = renames_.rbegin(); rename != renames_.rend(); ++rename) {
    std::error_code gone;
    fs::rename(rename->second, rename->first, gone);
    auto synced = synced_.extract(rename->second);
    if (!synced.empty()) {
      synced.key() = rename->first;
      synced_.insert(std::move(synced));
    }
  }
  renames_.clear();
  for (const auto& [path, content] : synced_) {
    if (fs::exists(path)) std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
  }
  synced_.clear();
}

Result<UniqueFd> FaultyFiles::Open(const fs::path& path, bool create) {
  HEDDLE_RETURN_IF_ERROR(Count("open " + path.string()));
  auto fd = FileOps::Open(path, create);
  if (fd.ok() && create) synced_.emplace(path, "");
  return fd;
}

Status FaultyFiles::WriteAt(const UniqueFd& fd, uint64_t offset, std::span<const std::byte> data,
                            const fs::path& path) {
  if (!synced_.contains(path)) {
    auto content = ReadFile(path);
    if (content.ok()) synced_.emplace(path, *content);
  }
  Status status = Count("write " + path.string());
  if (!status.ok()) data = data.first(data.size() / 2);
  Status written = FileOps::WriteAt(fd, offset, data, path);
  return status.ok() ? written : status;
}

Status FaultyFiles::Truncate(const UniqueFd& fd, uint64_t size, const fs::path& path) {
  HEDDLE_RETURN_IF_ERROR(Count("truncate " + path.string()));
  return FileOps::Truncate(fd, size, path);
}

Status FaultyFiles::Sync(const UniqueFd&, const fs::path& path) {
  HEDDLE_RETURN_IF_ERROR(Count("fsync " + path.string()));
  synced_.erase(path);
  return OkStatus();
}

Status FaultyFiles::Rename(const fs::path& from, const fs::path& to) {
  HEDDLE_RETURN_IF_ERROR(Count("rename " + from.string()));
  HEDDLE_RETURN_IF_ERROR(FileOps::Rename(from, to));
  renames_.emplace_back(from, to);
  auto synced = synced_.extract(from);
  if (!synced.empty()) {
    synced.key() = to;
    synced_.insert(std::move(synced));
  }
  return OkStatus();
}

Status FaultyFiles::SyncFolder(const fs::path& folder) {
  HEDDLE_RETURN_IF_ERROR(Count("fsync " + folder.string()));
  std::erase_if(renames_, [&](const auto& rename) { return rename.second.parent_path() == folder; });
  return OkStatus();
}

Status FaultyFiles::MakeFolder(const fs::path& folder) {
  HEDDLE_RETURN_IF_ERROR(Count("make " + folder.string()));
  std::error_code error;
  fs::create_directories(folder, error);  // without the fsyncs of the real one
  return error ? DiskStatus(error.value(), "cannot make " + folder.string()) : OkStatus();
}

Status FaultyFiles::Remove(const fs::path& path) {
  HEDDLE_RETURN_IF_ERROR(Count("delete " + path.string()));
  std::erase_if(renames_, [&](const auto& rename) { return rename.second == path; });
  synced_.erase(path);
  return FileOps::Remove(path);
}

}  // namespace heddle::coordinator::testing
