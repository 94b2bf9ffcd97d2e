// Frames between daemon and worker: 4 bytes little-endian length, then one serialised message of at most
// kMaxWorkerMessageBytes. Used by both ends; a length is judged before anything is allocated for it.
//
// Thread-safety: pure functions, and blocking reads and writes of one thread a descriptor.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>

#include "common/status.h"

namespace google::protobuf {
class MessageLite;
}

namespace heddle::client {

inline constexpr size_t kFrameHeaderBytes = 4;

// Errors: kResourceExhausted when the message is too large.
Result<std::string> MakeFrame(const google::protobuf::MessageLite& message);
// The length a frame's head declares. Errors: kResourceExhausted beyond kMaxWorkerMessageBytes.
Result<size_t> ParseFrameHeader(std::span<const std::byte, kFrameHeaderBytes> header);

// Writes all of it to a blocking descriptor. Errors: kUnavailable when the other end is gone (needs SIGPIPE ignored).
Status WriteFrame(int fd, const google::protobuf::MessageLite& message);

// Reads frames from a blocking descriptor until it ends or `wake_fd` (an eventfd; -1: none) becomes readable.
class FrameReader {
 public:
  explicit FrameReader(int fd, int wake_fd = -1) : fd_(fd), wake_fd_(wake_fd) {}
  // True: `body` holds the next message's bytes. False: the stream ended between frames, or the reader was woken.
  // Errors: kDataLoss (it ended inside a frame), kResourceExhausted (declared length), kUnavailable (cannot read).
  Result<bool> Next(std::string* body);

 private:
  // Bytes read; fewer than asked for at the end of the stream or when woken.
  Result<size_t> ReadFully(std::span<std::byte> buffer);
  int fd_, wake_fd_;
  bool woken_ = false;
};

}  // namespace heddle::client
