#include "coordinator/service/descriptors.h"

#include <sys/resource.h>

#include <algorithm>
#include <string>

#include "common/file.h"
#include "common/logging.h"

namespace heddle::coordinator {

Result<uint64_t> ReserveDescriptors(uint64_t connections) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return ErrnoStatus(errno, "cannot read the limit of file descriptors");
  const uint64_t needed = connections + kOwnDescriptors;
  const uint64_t wanted = needed + connections;  // an upload a device
  if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < wanted) {
    limit.rlim_cur = limit.rlim_max == RLIM_INFINITY ? wanted : std::min<rlim_t>(limit.rlim_max, wanted);
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) {
      return ErrnoStatus(errno, "cannot raise the limit of file descriptors to " + std::to_string(limit.rlim_cur));
    }
  }
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= needed) return connections;
  const std::string reason = "limits.max_connections = " + std::to_string(connections) + " needs " +
                             std::to_string(needed) + " file descriptors and this process may have " +
                             std::to_string(limit.rlim_cur) + "; raise its hard limit (LimitNOFILE, ulimit -Hn)";
  if (limit.rlim_cur <= kOwnDescriptors) return ResourceExhausted(reason);
  const uint64_t possible = limit.rlim_cur - kOwnDescriptors;
  Log(Severity::kWarning, "fewer devices can be connected than the configuration says",
      {{"connections", possible}, {"reason", reason}});
  return possible;
}

}  // namespace heddle::coordinator
