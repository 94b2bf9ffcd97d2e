#include "tests/simulation/system/machine_disk.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace heddle::system_simulation {

void MachineDisk::Forget(const std::string& digest) {
  cache.erase(digest);
  ledgers.erase(digest);
  places.erase(digest);
  if (last_ledger == digest) last_ledger.clear();
}

void MachineDisk::ForgetSome(Timeline& time, double share) {
  const std::vector<std::string> all(cache.begin(), cache.end());
  for (const std::string& digest : all) {
    if (time.Chance(share)) Forget(digest);
  }
}

void MachineDisk::CutPower(Timeline& time, std::map<std::string, uint64_t>* happened) {
  const size_t cached = cache.size();
  ForgetSome(time, 0.3);
  (*happened)["torn file of a device"] += cached - cache.size();
  for (auto& [digest, part] : parts) {
    if (!time.Chance(0.6)) continue;
    ++(*happened)["torn download"];
    part.torn = true;
    const size_t good = time.Below(static_cast<uint32_t>(part.bytes.size() + 1));
    if (time.Chance(0.5)) {
      part.bytes.resize(good);
    } else {  // its length was written, its content not
      std::fill(part.bytes.begin() + static_cast<ptrdiff_t>(good), part.bytes.end(), '\0');
    }
  }
  // The names of both files, of the update's only, or neither: a journal without its update is dropped by the daemon.
  if (auto task = std::exchange(removed, std::nullopt); task && !journal && time.Chance(0.5)) {
    ++(*happened)["journal that is back"];
    journal = std::move(task->journal);
    update = std::move(task->update);
  }
}

}  // namespace heddle::system_simulation
