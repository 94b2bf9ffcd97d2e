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

Status Take(const fs::path& file, const CachedBlob& ledger, BlobCache* cache) {
  std::error_code error;
  const uint64_t size = fs::file_size(file, error);
  if (error) return ErrnoStatus(error.value(), "cannot look at " + file.string());
  if (ledger.size_bytes > kMaxLedgerBytes)
    return FailedPrecondition("their ledger is too long to be compared with the next");
  if (!cache->Fits(size)) {
    return ResourceExhausted("a task's files and these " + std::to_string(size) +
                             " bytes are more than [cache] max_bytes; a larger one spares the replay");
  }
  // Those of before make room first, so that nothing else has to.
  if (const std::optional<Kept> before = Recalled(cache)) {
    cache->Forget(std::string(zo::kLedgerOfWeightsFile));
    if (const auto path = cache->Find(before->weights)) fs::remove(*path, error);
  }
  HEDDLE_ASSIGN_OR_RETURN(const CachedBlob weights, cache->Adopt(file, std::string(zo::kLedgerWeightsFile)));
  Log(Severity::kInfo, "kept what a replay led to", {{"bytes", weights.size_bytes}});
  RememberWeights(weights, ledger, cache);
  return OkStatus();
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
  fs::remove(folder / (std::string(kReplayedWeightsFile) + ".part"), ignored);  // of a worker that was killed
  if (!fs::is_regular_file(fs::symlink_status(file, ignored))) return;
  const Result<std::vector<CachedBlob>> adapter = BlobsOf(plan.adapter());
  const std::optional<CachedBlob> ledger = adapter.ok() ? LedgerIn(*adapter) : std::nullopt;
  if (ledger) {
    const Status taken = Take(file, *ledger, cache);
    if (!taken.ok()) Log(Severity::kWarning, "what a replay led to cannot be kept", {{"error", taken.message()}});
    // Another name of the weights of before, whose bytes it would keep on the disk.
    if (taken.ok()) fs::remove(folder / zo::kLedgerWeightsFile, ignored);
  }
  fs::remove(file, ignored);
}

}  // namespace heddle::client
