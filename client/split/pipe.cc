#include "client/split/pipe.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/file.h"
#include "protocol/split/frame.h"

namespace heddle::client {
namespace {

// False: the end. Errors: of the descriptor, and an end within the bytes.
Result<bool> ReadAll(int fd, char* out, size_t count) {
  size_t got = 0;
  while (got < count) {
    const ssize_t n = ::read(fd, out + got, count - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "cannot read from the split worker's pipe");
    if (n == 0 && got == 0) return false;
    if (n == 0) return DataLoss("the split worker's pipe ended within a frame");
    got += static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

Status WritePipeFrame(int fd, std::string_view frame) {
  const uint64_t size = frame.size();
  char head[sizeof size];
  std::memcpy(head, &size, sizeof size);
  Status status = WriteAll(fd, {head, sizeof head}, "the split worker's pipe");
  if (status.ok()) status = WriteAll(fd, frame, "the split worker's pipe");
  return status.ok() ? status : Unavailable(status.message());
}

Result<std::optional<std::string>> ReadPipeFrame(int fd) {
  uint64_t size = 0;
  char head[sizeof size];
  HEDDLE_ASSIGN_OR_RETURN(const bool more, ReadAll(fd, head, sizeof head));
  if (!more) return std::optional<std::string>();
  std::memcpy(&size, head, sizeof size);
  if (size > protocol::kMaxSplitFrameBytes) return InvalidArgument("a frame in the split worker's pipe is too long");
  std::string frame(size, '\0');
  if (size > 0) {
    HEDDLE_ASSIGN_OR_RETURN(const bool whole, ReadAll(fd, frame.data(), size));
    if (!whole) return DataLoss("the split worker's pipe ended within a frame");
  }
  return std::optional<std::string>(std::move(frame));
}

}  // namespace heddle::client
