#include "tests/unit/tasks/counting_new.h"

#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace heddle {
namespace {

// Constant from the start to the end of the program, as memory is asked for before main and given back after it.
constinit std::atomic<int64_t> live = 0, peak = 0;

void Count(int64_t bytes) {
  const int64_t now = live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  for (int64_t most = peak.load(std::memory_order_relaxed); now > most && !peak.compare_exchange_weak(most, now);) {
  }
}

}  // namespace

int64_t CountingNew::live_bytes() { return live; }
int64_t CountingNew::peak_bytes() { return peak; }
void CountingNew::ForgetPeak() { peak = live.load(); }

}  // namespace heddle

// The other forms (of arrays, that do not throw) call these. Those of over-aligned types stay as they are.
void* operator new(size_t bytes) {
  void* const place = std::malloc(bytes == 0 ? 1 : bytes);
  if (place == nullptr) throw std::bad_alloc();
  heddle::Count(static_cast<int64_t>(malloc_usable_size(place)));
  return place;
}
void operator delete(void* place) noexcept {
  if (place != nullptr) heddle::Count(-static_cast<int64_t>(malloc_usable_size(place)));
  std::free(place);
}
void operator delete(void* place, size_t) noexcept { operator delete(place); }
