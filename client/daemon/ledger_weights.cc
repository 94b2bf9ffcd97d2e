#include "client/daemon/ledger_weights.h"

#include <string>

#include "common/file.h"
#include "protocol/limits.h"
#include "zo_optim/ledger/ledger.h"

namespace heddle::client {
namespace {

// What a ledger may have that this process, which is to stay small, reads: a million directions and more.
constexpr uint64_t kMaxLedgerBytes = protocol::kMaxPatchedLedgerBytes;
// An entry of a packed ledger is two numbers of a bit at least.
constexpr uint64_t kMostEntriesInAByte = 4;

Result<zo::Ledger> ReadLedger(const CachedBlob& blob, BlobCache* cache) {
  const auto path = cache->Find(blob);
  if (!path) return NotFound("the cache has lost " + blob.name);
  HEDDLE_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(*path, kMaxLedgerBytes));
  return zo::DecodeLedger(std::as_bytes(std::span(bytes)));
}

struct Kept {
  CachedBlob weights, ledger;
};

std::optional<Kept> Recalled(BlobCache* cache) {
  const auto weights = cache->Recall(std::string(zo::kLedgerWeightsFile));
  const auto ledger = cache->Recall(std::string(zo::kLedgerOfWeightsFile));
  if (!weights || !ledger) return std::nullopt;
  return Kept{*weights, *ledger};
}

// Directions to be replayed from there; nothing: it is of another run, or too much to be read here.
std::optional<uint64_t> DirectionsBetween(const CachedBlob& from, const zo::Ledger& to, BlobCache* cache) {
  const Result<zo::Ledger> kept = ReadLedger(from, cache);
  if (!kept.ok() || !(kept->head == to.head)) return std::nullopt;
  return zo::MovesBetween(*kept, to).size();
}

}  // namespace

std::optional<CachedBlob> LedgerIn(const std::vector<CachedBlob>& adapter) {
  for (const CachedBlob& file : adapter) {
    if (file.name == zo::kLedgerFile) return file;
  }
  return std::nullopt;
}

std::vector<CachedBlob> NearestWeights(const std::vector<CachedBlob>& adapter, BlobCache* cache) {
  const std::optional<CachedBlob> ledger = LedgerIn(adapter);
  const std::optional<Kept> kept = ledger ? Recalled(cache) : std::nullopt;
  if (!kept) return {};
  if (kept->ledger.digest != ledger->digest) {
    const Result<zo::Ledger> to = ReadLedger(*ledger, cache);
    if (!to.ok()) return {};
    const auto directions = DirectionsBetween(kept->ledger, *to, cache);
    if (!directions || *directions >= to->entries.size()) return {};
  }
  return {kept->weights, kept->ledger};
}

bool ReplaysMoreThan(uint64_t most, const CachedBlob& ledger, BlobCache* cache) {
  if (ledger.size_bytes <= most / kMostEntriesInAByte) return false;
  const std::optional<Kept> kept = Recalled(cache);
  if (kept && kept->ledger.digest == ledger.digest) return false;
  if (ledger.size_bytes > kMaxLedgerBytes) return true;
  const Result<zo::Ledger> to = ReadLedger(ledger, cache);
  if (!to.ok() || to->entries.size() <= most) return false;
  const auto directions = kept ? DirectionsBetween(kept->ledger, *to, cache) : std::nullopt;
  return !directions || *directions > most;
}

void RememberWeights(const CachedBlob& weights, const CachedBlob& ledger, BlobCache* cache) {
  cache->Forget(std::string(zo::kLedgerOfWeightsFile));  // so that a kill leaves both or none
  cache->Remember({weights.digest, weights.size_bytes, std::string(zo::kLedgerWeightsFile)});
  cache->Remember({ledger.digest, ledger.size_bytes, std::string(zo::kLedgerOfWeightsFile)});
}

}  // namespace heddle::client
