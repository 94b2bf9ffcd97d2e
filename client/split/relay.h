// The device's way to the split server: connects with the device's certificate, starts the worker, and carries frames
// between them, over as many connections as it takes. Holds no model and looks into no frame. Free of LibTorch.
//
// Life cycle: one call. Blocks the calling thread.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "protocol/transport/frame_socket.h"

namespace heddle::client {

struct RelayOptions {
  protocol::FrameSocket::Target server;
  protocol::SocketOptions socket;
  std::vector<std::string> worker;  // argv
  // Frames of the worker that wait to be sent or to be answered; beyond it the connection is given up for a new one.
  size_t max_on_the_way = 4096;
  Duration answer_timeout = Seconds(600);                       // of the server to what was sent; then a new connection
  Duration retry_base = Seconds(0.5), retry_max = Seconds(60);  // between connections that fail, doubled each time
  // Asked ten times a second, on the calling thread; false ends the relay with kCancelled, also within a session: the
  // worker is killed, and what was not answered is done again by the next one.
  std::function<bool()> go_on = [] { return true; };
};

// Until the worker is done. What it holds is bounded: each frame to the worker answers one of the worker's, of which
// there are max_on_the_way at most, and is as large as `socket` lets it be. Errors: kUnauthenticated when the server
// does not take the certificate; kInvalidArgument when it sends a frame that answers nothing; kInternal when the worker
// ends in another way than well; those of starting it; kCancelled.
Status RelaySplit(const RelayOptions& options);

}  // namespace heddle::client
