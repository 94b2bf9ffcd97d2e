// Who may connect at all: the limits that act before a peer has said a byte. A connection that is not let in costs an
// accept and a counter.
//
// Thread-safety: none; the server calls it under its mutex. Life cycle of a connection: Admit; MakeRoom until there is
// room; HandshakeBegins; HandshakeEnded once it has succeeded or failed; Leave when it is closed.
#pragma once

#include <boost/asio/ip/address.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>

namespace heddle::protocol {

// What a limit per address counts by: an IPv4 address (also when it comes mapped into IPv6), or the /64 of an IPv6
// address, which is the least that one customer has.
std::string NetworkOf(const boost::asio::ip::address& address);

class ConnectionGate {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  enum class Verdict { kAdmitted, kFull, kAddressFull };

  // `per_address` and `handshakes` 0: no such limit. `patience`: how long a handshake may last before it has to make
  // room for others; an honest one takes milliseconds.
  struct Limits {
    size_t connections = 0, per_address = 0, handshakes = 0;
    std::chrono::steady_clock::duration patience = std::chrono::seconds(1);
  };

  explicit ConnectionGate(Limits limits) : limits_(limits) {}

  Verdict Admit(const std::string& network);
  // `id` grows from call to call.
  void HandshakeBegins(uint64_t id, TimePoint now);
  void HandshakeEnded(uint64_t id);
  void Leave(uint64_t id, const std::string& network);

  // Nothing: there is room for one more handshake. Else either the connection whose handshake is to be ended for it
  // (the oldest), or how long to wait until one is old enough.
  struct Congestion {
    std::optional<uint64_t> end;
    std::chrono::steady_clock::duration wait{};
  };
  std::optional<Congestion> MakeRoom(TimePoint now);

  size_t connections() const { return connections_; }
  size_t networks() const { return by_network_.size(); }

 private:
  const Limits limits_;
  size_t connections_ = 0;
  std::unordered_map<std::string, size_t> by_network_;  // only those with a connection
  std::map<uint64_t, TimePoint> handshakes_;            // by id, so the oldest is the first
};

}  // namespace heddle::protocol
