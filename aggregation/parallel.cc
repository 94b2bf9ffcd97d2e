#include "aggregation/parallel.h"

#include <algorithm>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace heddle::aggregation {

void ParallelRanges(size_t count, unsigned threads, const std::function<void(size_t begin, size_t end)>& body,
                    size_t min_per_thread) {
  const size_t shares = std::clamp<size_t>(count / min_per_thread, 1, std::max(1U, threads));
  const auto start = [&](size_t share) { return share == shares ? count : count / shares * share / 16 * 16; };
  std::vector<std::jthread> helpers;
  size_t next = 1;
  try {
    for (helpers.reserve(shares - 1); next < shares; ++next) helpers.emplace_back(body, start(next), start(next + 1));
  } catch (const std::system_error&) {
  } catch (const std::bad_alloc&) {  // for either the caller does what is left
  }
  body(0, start(1));
  if (next < shares) body(start(next), count);
}

}  // namespace heddle::aggregation
