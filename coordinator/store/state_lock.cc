#include "coordinator/store/state_lock.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>

namespace heddle::coordinator {

Result<UniqueFd> LockState(const std::filesystem::path& state_dir) {
  const std::filesystem::path path = state_dir / "lock";
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open " + path.string());
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, "cannot lock " + path.string());
    return FailedPrecondition("another coordinator uses " + state_dir.string() +
                              "; stop it, or give this one its own storage.state_dir");
  }
  return fd;
}

}  // namespace heddle::coordinator
