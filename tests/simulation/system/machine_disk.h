// What a simulated device has on its disk, and what is left of it when its power is cut.
//
// The journal and the update it names are durable when the daemon goes on (client/daemon/journal.h), but their removal
// is not until something else in their folder is synced. The cache syncs nothing (client/daemon/blob_cache.h): a file
// in it, and the part of one that is being fetched, may be lost or torn, which its hash tells.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>

#include "protocol/v1/device.pb.h"
#include "tests/simulation/system/timeline.h"
#include "tests/simulation/system/updates.h"

namespace heddle::system_simulation {

struct MachineDisk {
  struct Part {
    std::string bytes;  // from the file's start
    bool torn = false;  // they may be others than were fetched
  };
  struct Task {
    std::optional<v1::ReportRequest> journal;
    MadeUpdate update;
  };

  std::optional<v1::ReportRequest> journal;
  MadeUpdate update;
  std::optional<Task> removed;                 // by the end of a task, and not yet for good
  std::set<std::string> cache;                 // digests, raw
  std::map<std::string, Part> parts;           // of downloads that broke off, by digest
  std::map<std::string, std::string> ledgers;  // of those in the cache, by digest
  std::string last_ledger;                     // digest of the newest
  // What says where the tensors of a part are, of those in the cache, by digest: configurations and trees.
  std::map<std::string, std::string> places;

  void Forget(const std::string& digest);
  // Each file of the cache is gone with this probability.
  void ForgetSome(Timeline& time, double share);
  // `happened`: counts what was lost, torn or is back.
  void CutPower(Timeline& time, std::map<std::string, uint64_t>* happened);
};

}  // namespace heddle::system_simulation
