// The updates of rounds that are over, of which a run of a whole model would fill the disk: each is as large as the
// model. Those of the last round stay, for a run that is looked at after its end or goes on after a kill.
//
// Not thread-safe. Borrows the store.
#pragma once

#include <map>
#include <set>

#include "common/digest.h"
#include "common/status.h"
#include "coordinator/store/blob_store.h"

namespace heddle::simulator {

class SpentUpdates {
 public:
  // An update of a task of that round is in the store.
  void Note(uint32_t round, const Sha256Digest& update) { rounds_[round].insert(update); }
  // A round has ended: deletes the updates of those before it. Bytes that a later round has too stay. Errors: those of
  // BlobStore::Delete.
  Status EndRound(uint32_t round, coordinator::BlobStore& blobs);

 private:
  std::map<uint32_t, std::set<Sha256Digest>> rounds_;
};

}  // namespace heddle::simulator
