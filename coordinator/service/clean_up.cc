#include "coordinator/service/clean_up.h"

#include <set>

#include "common/logging.h"

namespace heddle::coordinator {

CleanedUp CleanUp(const CleaningUp& what) {
  CleanedUp done;
  const auto note = [&done](const Status& status) {
    if (done.first.ok()) done.first = status;
  };
  note(what.blobs->DiscardStaleUploads(what.uploads_before).status());
  note(what.store->DeleteExpiredTokens(what.tokens_before).status());
  if (what.keep_update_rounds > 0) note(what.store->DeleteSmallUpdates(what.keep_update_rounds).status());
  const auto referenced = what.store->ReferencedBlobs(what.keep_update_rounds);
  note(referenced.status());
  if (!referenced.ok()) return done;
  const std::set<Sha256Digest> live(referenced->begin(), referenced->end());
  const auto garbage = what.blobs->ListGarbage(live, what.blobs_before);
  note(garbage.status());
  if (!garbage.ok()) return done;
  for (const Sha256Digest& digest : *garbage) {
    if (what.driver->IsNeeded(digest)) continue;
    note(what.blobs->Delete(digest, what.blobs_before));
    ++done.blobs;
  }
  if (done.blobs > 0) Log(Severity::kInfo, "unused blobs deleted", {{"count", done.blobs}});
  return done;
}

}  // namespace heddle::coordinator
