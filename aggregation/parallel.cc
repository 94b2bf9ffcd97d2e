#include "aggregation/parallel.h"

#include <algorithm>
#include <system_error>
#include <thread>
#include <vector>

namespace heddle::aggregation {

void ParallelRanges(size_t count, unsigned threads, const std::function<void(size_t begin, size_t end)>& body,
                    size_t min_per_thread) {
  const size_t shares = std::clamp<size_t>(count / min_per_thread, 1, std::max(1U, threads));
  const auto start = [&](size_t share) { return share == shares ? count : count / shares * share / 16 * 16; };
  std::vector<std::jthread> helpers;
  helpers.reserve(shares - 1);
  size_t next = 1;
  for (; next < shares; ++next) {
    try {
      helpers.emplace_back(body, start(next), start(next + 1));
    } catch (const std::system_error&) {
      break;
    }
  }
  body(0, start(1));
  if (next < shares) body(start(next), count);
}

}  // namespace heddle::aggregation
