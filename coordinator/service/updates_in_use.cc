#include "coordinator/service/updates_in_use.h"

#include "common/test_hooks.h"

namespace heddle::coordinator {

UpdatesInUse::Hold UpdatesInUse::Take(const Sha256Digest& digest) {
  std::lock_guard lock(mutex_);
  ++uses_[digest].holds;
  return {this, digest};
}

void UpdatesInUse::LetGo(const Sha256Digest& digest) {
  std::lock_guard lock(mutex_);
  const auto use = uses_.find(digest);
  if (--use->second.holds > 0) return;
  if (use->second.unneeded) let_go_.push_back(digest);
  uses_.erase(use);
}

Status UpdatesInUse::DeleteUnneeded(std::span<const Sha256Digest> digests) {
  // Until it is gone: whoever takes it then puts it there again, or sees that it is not.
  std::lock_guard lock(mutex_);
  std::vector<Sha256Digest> all = std::exchange(let_go_, {});
  all.insert(all.end(), digests.begin(), digests.end());
  for (const Sha256Digest& digest : all) {
    const auto use = uses_.find(digest);
    if (use != uses_.end() && !HEDDLE_PLANTED(kDeleteWhatIsHeld)) {
      use->second.unneeded = true;
      continue;
    }
    HEDDLE_ASSIGN_OR_RETURN(const bool named, store_->IsReferenced(digest));
    if (!named && !is_needed_(digest)) HEDDLE_RETURN_IF_ERROR(blobs_->Delete(digest));
  }
  return OkStatus();
}

}  // namespace heddle::coordinator
