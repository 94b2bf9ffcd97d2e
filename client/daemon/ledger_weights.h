// How a device gets from what it has to the weights of a run's ledger: by replaying all of it, or from weights that an
// earlier ledger of the run led to and that it once fetched (CoordinatorLink::FetchWeights) or replayed.
//
// Not thread-safe, as the cache is not.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "client/daemon/blob_cache.h"
#include "protocol/v1/task.pb.h"

namespace heddle::client {

// The ledger among an adapter's files; nothing: there is none.
std::optional<CachedBlob> LedgerIn(const std::vector<CachedBlob>& adapter);

// Remembered weights and their ledger, named as the worker looks for them, where that leaves fewer directions to replay
// to the adapter's ledger, which is in the cache, than its start does; else empty, as without a ledger.
std::vector<CachedBlob> NearestWeights(const std::vector<CachedBlob>& adapter, BlobCache* cache);

// Whether more than so many directions are to be replayed to this ledger with what the cache holds. Most ledgers are
// not even read for it, and none of more than protocol::kMaxPatchedLedgerBytes: those are taken for long.
bool ReplaysMoreThan(uint64_t most, const CachedBlob& ledger, BlobCache* cache);

// Remembers weights in the cache as those that the ledger led to.
void RememberWeights(const CachedBlob& weights, const CachedBlob& ledger, BlobCache* cache);

// After a task with this plan: moves the weights that the worker left in the adapter's folder
// (client/worker/ledger_replay.h), if it left some, into the cache, where they count as any blob, and remembers them in
// place of those of before, which go. What hinders it is logged and costs the next task a longer replay.
void TakeReplayedWeights(const v1::TaskPlan& plan, const std::filesystem::path& folder, BlobCache* cache);

}  // namespace heddle::client
