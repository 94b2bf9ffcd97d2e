#include "client/worker/framing.h"

#include <google/protobuf/message_lite.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>

#include "common/file.h"
#include "protocol/limits.h"

namespace heddle::client {
namespace {

Status TooLarge(uint64_t bytes) {
  return ResourceExhausted("a message between daemon and worker has " + std::to_string(bytes) +
                           " bytes, more than the limit of " + std::to_string(protocol::kMaxWorkerMessageBytes));
}

}  // namespace

Result<std::string> MakeFrame(const google::protobuf::MessageLite& message) {
  const size_t size = message.ByteSizeLong();
  if (size > protocol::kMaxWorkerMessageBytes) return TooLarge(size);
  std::string frame;
  for (unsigned shift = 0; shift < 32; shift += 8) frame += static_cast<char>((size >> shift) & 0xFF);
  if (!message.AppendToString(&frame)) return Internal("cannot serialise a " + message.GetTypeName());
  return frame;
}

Result<size_t> ParseFrameHeader(std::span<const std::byte, kFrameHeaderBytes> header) {
  uint32_t size = 0;
  for (size_t i = 0; i < kFrameHeaderBytes; ++i) size |= std::to_integer<uint32_t>(header[i]) << (8 * i);
  if (size > protocol::kMaxWorkerMessageBytes) return TooLarge(size);
  return size_t{size};
}

Status WriteFrame(int fd, const google::protobuf::MessageLite& message) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string frame, MakeFrame(message));
  for (size_t done = 0; done < frame.size();) {
    const ssize_t n = ::write(fd, frame.data() + done, frame.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EPIPE) return Unavailable("the other end of the pipe is gone");
    if (n < 0) return ErrnoStatus(errno, "cannot write to the pipe");
    done += static_cast<size_t>(n);
  }
  return OkStatus();
}

Result<size_t> FrameReader::ReadFully(std::span<std::byte> buffer) {
  size_t done = 0;
  while (done < buffer.size()) {
    pollfd fds[2] = {{fd_, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return Unavailable("cannot wait for the pipe");
    if (fds[1].revents != 0) {
      woken_ = true;
      return done;
    }
    if (fds[0].revents == 0) continue;
    const ssize_t n = ::read(fd_, buffer.data() + done, buffer.size() - done);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) return Unavailable("cannot read from the pipe");
    if (n == 0) return done;
    done += static_cast<size_t>(n);
  }
  return done;
}

Result<bool> FrameReader::Next(std::string* body) {
  std::array<std::byte, kFrameHeaderBytes> header{};
  HEDDLE_ASSIGN_OR_RETURN(const size_t got, ReadFully(header));
  if (woken_ || got == 0) return false;
  const Status cut = DataLoss("the pipe ended in the middle of a message");
  if (got < header.size()) return cut;
  HEDDLE_ASSIGN_OR_RETURN(const size_t size, ParseFrameHeader(header));
  body->resize(size);
  HEDDLE_ASSIGN_OR_RETURN(const size_t filled, ReadFully(std::as_writable_bytes(std::span(*body))));
  if (woken_) return false;
  if (filled < size) return cut;
  return true;
}

}  // namespace heddle::client
