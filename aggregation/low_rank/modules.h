// Work on a model module by module. Internal to low_rank.
#pragma once

#include <cstddef>
#include <functional>

#include "aggregation/low_rank/matrix.h"
#include "common/status.h"

namespace heddle::aggregation::low_rank {

// Calls work(i) for 0 <= i < count on at most `threads` threads; the first error (by i) is returned, and after one the
// rest may be left out. What work throws for want of memory is kResourceExhausted.
Status ForEachModule(size_t count, unsigned threads, const std::function<Status(size_t)>& work);

// Columns that add nothing go, in place: the factors of a round can be hundreds of megabytes.
void DropZeros(Product* product);

}  // namespace heddle::aggregation::low_rank
