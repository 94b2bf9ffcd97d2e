// Waiting for what other threads or processes do.
#pragma once

#include <chrono>
#include <thread>

#include "common/clock.h"

namespace heddle {

// Whether `condition()` has become true within the limit, which is for a test that would else hang: what passes takes
// less.
template <typename Condition>
bool Eventually(Condition condition, Duration limit = Seconds(10)) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace heddle
