#include <sys/resource.h>

#include <chrono>

#include "bench_transport.h"

namespace heddle::bench {
namespace {

double ProcessorSeconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

Stopwatch::Stopwatch() : start_{Now(), ProcessorSeconds()} {}
RoundTripTime Stopwatch::Stop() const { return {Now() - start_.wall, ProcessorSeconds() - start_.cpu}; }

}  // namespace heddle::bench
