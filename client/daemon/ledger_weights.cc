#include "client/daemon/ledger_weights.h"

#include <string>
#include <system_error>
#include <utility>

#include "client/daemon/base_part.h"
#include "client/worker/ledger_replay.h"
#include "common/file.h"
#include "common/logging.h"
#include "protocol/limits.h"
#include "zo_optim/ledger/ledger.h"

namespace heddle::client {

namespace fs = std::filesystem;

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

// Moves the file into the cache.
Result<CachedBlob> Adopt(const fs::path& file, BlobCache* cache) {
  CachedBlob blob{{}, 0, std::string(zo::kLedgerWeightsFile)};
  HEDDLE_ASSIGN_OR_RETURN(blob.digest, Sha256File(file));
  std::error_code error;
  blob.size_bytes = fs::file_size(file, error);
  if (error) return ErrnoStatus(error.value(), "cannot look at " + file.string());
  // As a download that is complete: with room made for it, and its bytes read once more.
  HEDDLE_ASSIGN_OR_RETURN(const BlobCache::Partial empty, cache->Begin(blob));
  HEDDLE_RETURN_IF_ERROR(RenameDurably(file, empty.file));
  HEDDLE_ASSIGN_OR_RETURN(BlobCache::Partial partial, cache->Begin(blob));
  HEDDLE_RETURN_IF_ERROR(cache->Finish(blob, std::move(partial)).status());
  return blob;
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

void TakeReplayedWeights(const v1::TaskPlan& plan, const fs::path& folder, BlobCache* cache) {
  const fs::path file = folder / kReplayedWeightsFile;
  std::error_code ignored;
  if (!fs::is_regular_file(fs::symlink_status(file, ignored))) return;
  const Result<std::vector<CachedBlob>> adapter = BlobsOf(plan.adapter());
  const std::optional<CachedBlob> ledger = adapter.ok() ? LedgerIn(*adapter) : std::nullopt;
  if (ledger) {
    // Those of before make room first, so that nothing else has to.
    if (const std::optional<Kept> before = Recalled(cache)) {
      cache->Forget(std::string(zo::kLedgerOfWeightsFile));
      if (const auto path = cache->Find(before->weights)) fs::remove(*path, ignored);
    }
    const Result<CachedBlob> weights = Adopt(file, cache);
    if (weights.ok()) {
      Log(Severity::kInfo, "kept what a replay led to", {{"bytes", weights->size_bytes}});
      return RememberWeights(*weights, *ledger, cache);
    }
    Log(Severity::kWarning, "what a replay led to cannot be kept", {{"error", weights.status().message()}});
  }
  fs::remove(file, ignored);
}

}  // namespace heddle::client
