// What several measurements use.
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "bench.h"

namespace heddle::bench {

namespace fs = std::filesystem;

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

Status AllowDescriptors(unsigned wanted) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur >= wanted) return OkStatus();
  return ResourceExhausted("too few file descriptors; raise ulimit -n to " + std::to_string(wanted));
}

// To the nanosecond, where /proc/PID/stat counts ticks.
Result<double> ProcessorSeconds(int pid) {
  double nanoseconds = 0, sum = 0;
  std::error_code error;
  for (const fs::directory_entry& task : fs::directory_iterator("/proc/" + std::to_string(pid) + "/task", error)) {
    std::ifstream stat(task.path() / "schedstat");
    if (stat >> nanoseconds) sum += nanoseconds * 1e-9;
  }
  if (error || sum == 0) return NotFound("the processor time of a process cannot be read");
  return sum;
}

}  // namespace heddle::bench
