#include "tests/simulation/system/torn_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace heddle::system_simulation {

namespace fs = std::filesystem;
using coordinator::DiskStatus;
using coordinator::FileOps;

namespace {

std::string FolderOf(const std::string& path) { return path.substr(0, path.rfind('/')); }

void WriteRealFile(const std::string& path, const std::string& content) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640));
  for (size_t done = 0; fd.valid() && done < content.size();) {
    const ssize_t n = ::write(fd.get(), content.data() + done, content.size() - done);
    if (n <= 0) return;
    done += static_cast<size_t>(n);
  }
}

}  // namespace

void TornFiles::FailAt(uint64_t n, int error, bool stay) {
  fail_at_ = calls_ + n;
  error_ = error;
  stay_ = stay;
}

Status TornFiles::Count(const char* what, const fs::path& path) {
  ++calls_;
  if (fail_at_ != 0 && calls_ == fail_at_ && met_) met_();
  const bool fails = fail_at_ != 0 && (stay_ ? calls_ >= fail_at_ : calls_ == fail_at_);
  return fails ? DiskStatus(error_, std::string("injected fault: cannot ") + what + " " + path.string()) : OkStatus();
}

// ---- the power goes ----

// What is found of a file whose last writes were not synced.
std::string TornFiles::Torn(const File& file, PhiloxStream& random) {
  switch (random.NextBelow(4)) {
    case 0:
      return file.durable;
    case 1:
      return file.content;
    case 2:
      return file.content.substr(0, random.NextBelow(static_cast<uint32_t>(file.content.size() + 1)));
    default: {
      std::string torn = file.content;  // the size was written, the bytes were not
      const size_t from = random.NextBelow(static_cast<uint32_t>(torn.size() + 1));
      std::fill(torn.begin() + static_cast<std::ptrdiff_t>(from), torn.end(), '\0');
      return torn;
    }
  }
}

void TornFiles::UndoNames(PhiloxStream& random) {
  size_t keep = changes_.size();
  switch (random.NextBelow(3)) {
    case 0:
      keep = 0;
      break;
    case 1:
      keep = random.NextBelow(static_cast<uint32_t>(changes_.size() + 1));
      break;
    default:
      break;
  }
  while (changes_.size() > keep) {
    const Change& last = changes_.back();
    const auto set = [this](const std::string& path, const FilePtr& file) {
      if (file == nullptr) {
        names_.erase(path);
        ::unlink(path.c_str());
      } else {
        names_[path] = file;
        WriteRealFile(path, file->content);
      }
    };
    set(last.path, last.before_path);
    if (!last.from.empty()) set(last.from, last.before_from);
    changes_.pop_back();
  }
  changes_.clear();
}

void TornFiles::PowerCut(PhiloxStream& random) {
  fail_at_ = 0;
  UndoNames(random);
  for (const auto& [path, file] : names_) {
    if (!file->dirty) continue;
    file->content = file->durable = Torn(*file, random);
    file->dirty = false;
    WriteRealFile(path, file->content);
  }
}

void TornFiles::Sweep() {
  for (const auto& [path, file] : names_) ::unlink(path.c_str());
  names_.clear();
  changes_.clear();
  fail_at_ = 0;
}

// ---- operations ----

Result<UniqueFd> TornFiles::Open(const fs::path& path, bool create) {
  HEDDLE_RETURN_IF_ERROR(Count("open", path));
  auto fd = FileOps::Open(path, create);
  if (fd.ok() && create) {
    const std::string name = path.string();
    changes_.push_back({.path = name, .from = {}, .before_path = nullptr, .before_from = nullptr});
    names_[name] = std::make_shared<File>();
    names_[name]->written = now_();
  }
  return fd;
}

Status TornFiles::WriteAt(const UniqueFd& fd, uint64_t offset, std::span<const std::byte> data, const fs::path& path) {
  const Status status = Count("write", path);
  if (!status.ok()) data = data.first(data.size() / 2);
  HEDDLE_RETURN_IF_ERROR(FileOps::WriteAt(fd, offset, data, path));
  if (auto found = names_.find(path.string()); found != names_.end()) {
    File& file = *found->second;
    if (file.content.size() < offset + data.size()) file.content.resize(offset + data.size());
    file.content.replace(offset, data.size(), reinterpret_cast<const char*>(data.data()), data.size());
    file.dirty = true;
    file.written = now_();
  }
  return status;
}

Status TornFiles::Truncate(const UniqueFd& fd, uint64_t size, const fs::path& path) {
  HEDDLE_RETURN_IF_ERROR(Count("truncate", path));
  HEDDLE_RETURN_IF_ERROR(FileOps::Truncate(fd, size, path));
  if (auto found = names_.find(path.string()); found != names_.end()) {
    found->second->content.resize(size);
    found->second->dirty = true;
  }
  return OkStatus();
}

Status TornFiles::Sync(const UniqueFd&, const fs::path& path) {
  HEDDLE_RETURN_IF_ERROR(Count("fsync", path));
  if (auto found = names_.find(path.string()); found != names_.end() && found->second->dirty) {
    found->second->durable = found->second->content;
    found->second->dirty = false;
  }
  return OkStatus();
}

Status TornFiles::Rename(const fs::path& from, const fs::path& to) {
  HEDDLE_RETURN_IF_ERROR(Count("rename", from));
  HEDDLE_RETURN_IF_ERROR(FileOps::Rename(from, to));
  auto source = names_.find(from.string());
  if (source == names_.end()) return OkStatus();
  const std::string target = to.string();
  FilePtr& before = names_[target];
  changes_.push_back({.path = target, .from = from.string(), .before_path = before, .before_from = source->second});
  before = source->second;
  names_.erase(from.string());
  return OkStatus();
}

Status TornFiles::SyncFolder(const fs::path& folder) {
  HEDDLE_RETURN_IF_ERROR(Count("fsync", folder));
  const std::string name = folder.string();
  // The creation of a file that was renamed into this folder is of no more interest either.
  std::set<std::string> moved;
  for (const Change& change : changes_) {
    if (!change.from.empty() && FolderOf(change.path) == name) moved.insert(change.from);
  }
  changes_.remove_if([&](const Change& change) {
    return FolderOf(change.path) == name || (change.from.empty() && moved.contains(change.path));
  });
  return OkStatus();
}

Status TornFiles::MakeFolder(const fs::path& folder) {
  HEDDLE_RETURN_IF_ERROR(Count("make", folder));
  if (!folders_.insert(folder.string()).second) return OkStatus();
  std::error_code error;
  fs::create_directories(folder, error);
  return error ? DiskStatus(error.value(), "cannot make " + folder.string()) : OkStatus();
}

Status TornFiles::Remove(const fs::path& path) {
  HEDDLE_RETURN_IF_ERROR(Count("delete", path));
  HEDDLE_RETURN_IF_ERROR(FileOps::Remove(path));
  auto found = names_.find(path.string());
  if (found == names_.end()) return OkStatus();
  changes_.push_back({.path = path.string(), .from = {}, .before_path = found->second, .before_from = nullptr});
  names_.erase(found);
  return OkStatus();
}

Result<std::vector<std::pair<fs::path, uint64_t>>> TornFiles::List(const fs::path& folder) const {
  std::vector<std::pair<fs::path, uint64_t>> files;
  const std::string start = folder.string() + "/";
  for (auto it = names_.lower_bound(start); it != names_.end() && it->first.starts_with(start); ++it) {
    files.emplace_back(it->first, it->second->content.size());
  }
  return files;
}

std::optional<Time> TornFiles::WrittenAt(const fs::path& path) const {
  const auto found = names_.find(path.string());
  return found == names_.end() ? std::nullopt : std::optional(found->second->written);
}

void TornFiles::Touch(const fs::path& path) {
  if (auto found = names_.find(path.string()); found != names_.end()) found->second->written = now_();
}

Result<std::shared_ptr<const MappedFile>> TornFiles::Map(const fs::path& path) {
  if (reads_fail_) return DiskStatus(EIO, "injected fault: cannot read " + path.string());
  return FileOps::Map(path);
}

}  // namespace heddle::system_simulation
