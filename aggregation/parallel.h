// Splits a loop over threads that live as long as the loop.
#pragma once

#include <cstddef>
#include <functional>

namespace heddle::aggregation {

// Calls body(begin, end) on disjoint ranges that cover 0 .. count, on at most `threads` threads (the caller's is one of
// them), fewer when the ranges would be short. Returns when all are done. The body must not throw. Where the system
// refuses a thread, the caller does its share.
void ParallelRanges(size_t count, unsigned threads, const std::function<void(size_t begin, size_t end)>& body);

}  // namespace heddle::aggregation
