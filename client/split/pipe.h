// Frames between the program that has the network and the keys (heddle-split-client) and the one that has the model and
// the data (heddle-split-worker), over the worker's standard input and output: 8 bytes of length, little-endian, then
// the frame. To the worker an empty frame means a new connection, which it answers with an empty frame, which tells
// what belongs to the old one, and its hello; else it is sent answers, and writes requests as it makes them, until the
// end of its output when it is done. Free of LibTorch.
//
// Thread-safety: one thread on each descriptor.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"

namespace heddle::client {

// Blocking. Errors: kUnavailable when the other program is gone.
Status WritePipeFrame(int fd, std::string_view frame);
// Nothing at the end of the file between two frames. Errors: kDataLoss when it ends within one, kInvalidArgument for a
// length beyond kMaxSplitFrameBytes.
Result<std::optional<std::string>> ReadPipeFrame(int fd);

}  // namespace heddle::client
