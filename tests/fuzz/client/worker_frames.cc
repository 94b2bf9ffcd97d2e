// Any bytes on the pipe between daemon and worker: read as frames up to where they break, and the messages in them
// framed again are the bytes that were read.
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "client/worker/framing.h"
#include "protocol/validate.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > (48 << 10)) return 0;  // fits the socket's buffer, so that one thread can write and then read
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return 0;
  Require(size == 0 || ::write(ends[0], data, size) == static_cast<ssize_t>(size), "the test's pipe takes the input");
  ::close(ends[0]);
  client::FrameReader reader(ends[1]);
  size_t used = 0;
  for (;;) {
    std::string body;
    const Result<bool> next = reader.Next(&body);
    if (!next.ok()) {
      const Code code = next.status().code();
      Require(code == Code::kDataLoss || code == Code::kResourceExhausted, "a bad frame is cut or too large",
              next.status().message());
      break;
    }
    if (!*next) {
      Require(used == size, "the end is clean only between frames");
      break;
    }
    uint32_t length = 0;
    std::memcpy(&length, data + used, sizeof length);
    used += client::kFrameHeaderBytes;
    Require(length == body.size() && used + length <= size && std::memcmp(body.data(), data + used, length) == 0,
            "a frame's body is what follows its length");
    used += length;
    for (int which = 0; which < 2; ++which) {
      v1::WorkerCommand command;
      v1::WorkerEvent event;
      google::protobuf::MessageLite* message =
          which == 0 ? static_cast<google::protobuf::MessageLite*>(&command) : &event;
      if (!protocol::ParseBounded(body, message).ok()) continue;
      const Result<std::string> frame = client::MakeFrame(*message);
      Require(frame.ok(), "a message that came in a frame fits into one");
      Require(frame->size() == client::kFrameHeaderBytes + message->ByteSizeLong(), "the frame holds just the message");
    }
  }
  ::close(ends[1]);
  return 0;
}
