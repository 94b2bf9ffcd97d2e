// What a FrameListener counts: who is connected, in all, from an address, shaking hands, and of one device; and what it
// has refused. The limits that act before a peer has said a byte are ConnectionGate's, as on the coordinator's port.
//
// Thread-safe. Life cycle of a connection: Admit; MakeRoom until there is room; HandshakeBegins; HandshakeEnded; Join
// once the device is known; Leave when it is closed.
#pragma once

#include <boost/asio/ip/address.hpp>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "protocol/transport/connection_gate.h"
#include "protocol/transport/frame_socket.h"

namespace heddle::protocol::internal {

class FrameGate {
 public:
  explicit FrameGate(const ListenerOptions& options);

  // The connection's id, which grows from call to call; nothing: the peer is not let in.
  std::optional<uint64_t> Admit(const boost::asio::ip::address& address);
  std::optional<ConnectionGate::Congestion> MakeRoom();
  void HandshakeBegins(uint64_t id);
  void HandshakeEnded(uint64_t id);
  // The connection is the device's. What is given is its oldest one, to be closed, when it has more than it may.
  std::optional<uint64_t> Join(uint64_t id, const std::string& device);
  void Leave(uint64_t id);

  void Count(uint64_t ListenerStats::*counter);
  ListenerStats stats() const;

 private:
  struct Row {
    std::string network, device;
  };
  const size_t per_device_;
  mutable std::mutex mutex_;  // guards what follows
  ConnectionGate gate_;
  std::map<uint64_t, Row> rows_;
  std::map<std::string, std::deque<uint64_t>> of_device_;  // only those with a connection; the oldest first
  uint64_t next_id_ = 1;
  ListenerStats stats_;
};

}  // namespace heddle::protocol::internal
