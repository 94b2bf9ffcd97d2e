// What a coordinator throws away from time to time: unfinished uploads that nobody goes on with, expired tokens, and
// blobs that no row names and no run needs. A blob that is young may be about to be named, so it stays.
//
// Blocks on the disk and the database. Thread-safe beside all else that the store and the blobs are used for.
#pragma once

#include "coordinator/service/run_driver.h"
#include "coordinator/store/blob_store.h"
#include "coordinator/store/store.h"

namespace heddle::coordinator {

struct CleaningUp {
  Store* store = nullptr;
  BlobStore* blobs = nullptr;
  const RunDriver* driver = nullptr;
  uint32_t keep_update_rounds = 0;  // of accepted updates; 0: all
  Time tokens_before;               // that expired before it
  Time uploads_before;              // untouched since
  Time blobs_before;                // written before it
};

struct CleanedUp {
  size_t blobs = 0;  // deleted
  Status first;      // the first failure, after which the rest was done
};
CleanedUp CleanUp(const CleaningUp& what);

}  // namespace heddle::coordinator
