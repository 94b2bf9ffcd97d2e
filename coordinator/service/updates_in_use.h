// The blobs of updates that requests are busy with: from the moment their bytes are whole until a row names them, and
// from the look at a report's update until its verdict. No other request may delete one meanwhile because no row asks
// for it: a device may send another update for the same assignment while its report is looked at, and two devices may
// send the same bytes.
//
// Life cycle: outlives its holds. Thread-safety: every method from any thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <utility>

#include "coordinator/store/blob_store.h"
#include "coordinator/store/store.h"

namespace heddle::coordinator {

class UpdatesInUse {
 public:
  // `is_needed`: whether the run needs a blob that no row names.
  UpdatesInUse(Store* store, BlobStore* blobs, std::function<bool(const Sha256Digest&)> is_needed)
      : store_(store), blobs_(blobs), is_needed_(std::move(is_needed)) {}

  // While one lives the blob is not deleted, if it is there.
  class Hold {
   public:
    Hold() = default;
    Hold(Hold&& other) noexcept : of_(std::exchange(other.of_, nullptr)), digest_(other.digest_) {}
    Hold& operator=(Hold&& other) noexcept {
      std::swap(of_, other.of_);
      std::swap(digest_, other.digest_);
      return *this;
    }
    ~Hold() {
      if (of_ != nullptr) of_->LetGo(digest_);
    }

   private:
    friend class UpdatesInUse;
    Hold(UpdatesInUse* of, const Sha256Digest& digest) : of_(of), digest_(digest) {}
    UpdatesInUse* of_ = nullptr;
    Sha256Digest digest_;
  };
  // May wait for a blob to be deleted.
  Hold Take(const Sha256Digest& digest);

  // Deletes those that no row names. One that is held, or that the storage did not let be deleted, is looked at again
  // by a later call, once it has been let go: each upload is followed by one, so that no device leaves more behind than
  // it has requests under way. What is left of all goes with CleanUp (clean_up.h).
  void DeleteUnneeded(std::span<const Sha256Digest> digests);

 private:
  struct Use {
    size_t holds = 0;
    bool unneeded = false;  // somebody wanted to delete it
  };
  void LetGo(const Sha256Digest& digest);
  Status DeleteUnnamed(const Sha256Digest& digest);

  Store* store_;
  BlobStore* blobs_;
  std::function<bool(const Sha256Digest&)> is_needed_;
  std::mutex mutex_;  // never held while something may block
  std::condition_variable deleted_;
  std::map<Sha256Digest, Use> uses_;
  std::set<Sha256Digest> deleting_;
  std::set<Sha256Digest> later_;  // to be looked at by the next DeleteUnneeded
};

}  // namespace heddle::coordinator
