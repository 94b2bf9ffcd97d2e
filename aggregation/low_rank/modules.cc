#include "aggregation/low_rank/modules.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <span>
#include <system_error>
#include <thread>
#include <vector>

namespace heddle::aggregation::low_rank {

Status ForEachModule(size_t count, unsigned threads, const std::function<Status(size_t)>& work) {
  std::vector<Status> results(count);
  std::atomic<size_t> next = 0;
  std::atomic<bool> failed = false;
  const auto run = [&] {
    for (size_t i = next++; i < count && !failed; i = next++) {
      try {
        results[i] = work(i);
      } catch (const std::bad_alloc&) {
        results[i] = ResourceExhausted("there is no memory to merge the factors of a module");
      }
      if (!results[i].ok()) failed = true;
    }
  };
  {
    std::vector<std::jthread> helpers;
    try {
      for (unsigned i = 1; i < threads && i < count; ++i) helpers.emplace_back(run);
    } catch (const std::system_error&) {  // fewer, then
    }
    run();
  }
  const auto first = std::find_if(results.begin(), results.end(), [](const Status& s) { return !s.ok(); });
  return first == results.end() ? OkStatus() : *first;
}

void DropZeros(Product* product) {
  const auto is_zero = [](std::span<const double> column) {
    return std::all_of(column.begin(), column.end(), [](double x) { return x == 0; });
  };
  size_t kept = 0;
  for (size_t n = 0; n < product->rank(); ++n) {
    if (is_zero(product->left.column(n)) || is_zero(product->right.column(n))) continue;
    if (kept < n) {
      std::ranges::copy(product->left.column(n), product->left.column(kept).begin());
      std::ranges::copy(product->right.column(n), product->right.column(kept).begin());
    }
    ++kept;
  }
  product->left.KeepColumns(kept);
  product->right.KeepColumns(kept);
}

}  // namespace heddle::aggregation::low_rank
