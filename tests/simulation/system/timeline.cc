#include "tests/simulation/system/timeline.h"

#include <cstdio>
#include <utility>

namespace heddle::system_simulation {
namespace {

constexpr size_t kTraceLines = 60;
constexpr uint64_t kFnvPrime = 1099511628211ULL;

}  // namespace

bool Timeline::Step() {
  if (queue_.empty()) return false;
  // The queue gives const access only, since order matters; the closure is not part of the order.
  std::function<void()> what = std::move(const_cast<Happening&>(queue_.top()).what);
  now_ = queue_.top().at;
  queue_.pop();
  ++steps_;
  what();
  return true;
}

Duration Timeline::Skewed(double low_s, double high_s) {
  const double u = random_.NextUniform();
  return Seconds(low_s + (high_s - low_s) * u * u * u);
}

void Timeline::Note(std::string line) {
  for (const char c : line) fingerprint_ = (fingerprint_ ^ static_cast<unsigned char>(c)) * kFnvPrime;
  fingerprint_ = (fingerprint_ ^ static_cast<uint64_t>(elapsed().count())) * kFnvPrime;
  trace_.emplace_back(elapsed(), std::move(line));
  if (trace_.size() > kTraceLines) trace_.pop_front();
}

std::string Timeline::Trace() const {
  std::string text;
  for (const auto& [at, line] : trace_) {
    char time[32];
    std::snprintf(time, sizeof time, "%10.3f ", ToSeconds(at));
    text += time + line + "\n";
  }
  return text;
}

}  // namespace heddle::system_simulation
