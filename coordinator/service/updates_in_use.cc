#include "coordinator/service/updates_in_use.h"

#include "common/logging.h"
#include "common/test_hooks.h"

namespace heddle::coordinator {
namespace {

constexpr size_t kMostLater = 4096;  // what is beyond that is left to CleanUp

}  // namespace

UpdatesInUse::Hold UpdatesInUse::Take(const Sha256Digest& digest) {
  std::unique_lock lock(mutex_);
  // Whoever takes it then puts it there again, or sees that it is not.
  deleted_.wait(lock, [&] { return !deleting_.contains(digest); });
  ++uses_[digest].holds;
  return {this, digest};
}

void UpdatesInUse::LetGo(const Sha256Digest& digest) {
  std::lock_guard lock(mutex_);
  const auto use = uses_.find(digest);
  if (--use->second.holds > 0) return;
  if (use->second.unneeded && later_.size() < kMostLater) later_.insert(digest);
  uses_.erase(use);
}

void UpdatesInUse::DeleteUnneeded(std::span<const Sha256Digest> digests) {
  std::unique_lock lock(mutex_);
  std::set<Sha256Digest> all = std::exchange(later_, {});
  all.insert(digests.begin(), digests.end());
  for (const Sha256Digest& digest : all) {
    const auto use = uses_.find(digest);
    if (use != uses_.end() && !HEDDLE_PLANTED(kDeleteWhatIsHeld)) {
      use->second.unneeded = true;
      continue;
    }
    if (!deleting_.insert(digest).second) continue;  // somebody else is at it
    lock.unlock();
    const Status deleted = DeleteUnnamed(digest);
    lock.lock();
    deleting_.erase(digest);
    deleted_.notify_all();
    if (deleted.ok()) continue;
    Log(Severity::kWarning, "an update that nobody needs could not be deleted now: " + deleted.message());
    if (later_.size() < kMostLater) later_.insert(digest);
  }
}

Status UpdatesInUse::DeleteUnnamed(const Sha256Digest& digest) {
  HEDDLE_ASSIGN_OR_RETURN(const bool named, store_->IsReferenced(digest));
  return named || is_needed_(digest) ? OkStatus() : blobs_->DeleteUpload(digest);
}

}  // namespace heddle::coordinator
