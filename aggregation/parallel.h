// Splits a loop over threads that live as long as the loop.
#pragma once

#include <cstddef>
#include <functional>

namespace heddle::aggregation {

// For work as quick as adding: below this (1 MiB of float32) starting a thread costs more than it saves.
inline constexpr size_t kMinPerThread = size_t{1} << 18;

// Calls body(begin, end) on disjoint ranges that cover 0 .. count, on at most `threads` threads (the caller's is one of
// them), fewer when the ranges would be shorter than `min_per_thread`. Returns when all are done. The body must not
// throw. Where the system refuses a thread, the caller does its share.
void ParallelRanges(size_t count, unsigned threads, const std::function<void(size_t begin, size_t end)>& body,
                    size_t min_per_thread = kMinPerThread);

}  // namespace heddle::aggregation
