#include "client/daemon/personal_state.h"

#include <algorithm>
#include <vector>

#include "common/digest.h"
#include "common/file.h"

namespace heddle::client {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kNow = ".safetensors", kNext = ".next";

std::vector<fs::path> FilesThatEndWith(const fs::path& folder, std::string_view end, std::error_code& error) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().filename().string().ends_with(end)) files.push_back(entry.path());
  }
  return files;
}

// All but the newest.
void ForgetOldRuns(const fs::path& folder, size_t keep) {
  std::vector<std::pair<fs::file_time_type, fs::path>> files;
  std::error_code error;
  for (const fs::path& file : FilesThatEndWith(folder, kNow, error))
    files.emplace_back(fs::last_write_time(file, error), file);
  if (files.size() <= keep) return;
  std::sort(files.rbegin(), files.rend());
  for (size_t i = keep; i < files.size(); ++i) fs::remove(files[i].second, error);
}

}  // namespace

Result<PersonalState::Paths> PersonalState::Begin(std::string_view run_id) {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder_));
  HEDDLE_RETURN_IF_ERROR(End(false));  // of what was accepted, and could not be put in place: that first
  // A run's name may hold what no file name may.
  const std::string name = Sha256(run_id).ToHex().substr(0, 32);
  return Paths{folder_ / (name + std::string(kNow)), folder_ / (name + std::string(kNext))};
}

Status PersonalState::End(bool accepted) {
  accepted_ = accepted_ || accepted;
  std::error_code listed;
  const std::vector<fs::path> unplaced = FilesThatEndWith(folder_, kNext, listed);
  if (listed && listed != std::errc::no_such_file_or_directory) {
    return ErrnoStatus(listed.value(), "cannot list " + folder_.string());
  }
  for (const fs::path& next : unplaced) {
    if (!accepted_) {
      std::error_code error;
      fs::remove(next, error);
      if (error) return ErrnoStatus(error.value(), "cannot delete " + next.string());
      continue;
    }
    fs::path now = next;
    HEDDLE_RETURN_IF_ERROR(RenameDurably(next, now.replace_extension(kNow)));
    ForgetOldRuns(folder_, kMaxRuns);
  }
  accepted_ = false;
  return OkStatus();
}

}  // namespace heddle::client
