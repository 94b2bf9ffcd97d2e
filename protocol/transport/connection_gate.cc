#include "protocol/transport/connection_gate.h"

#include <algorithm>

namespace heddle::protocol {

namespace ip = boost::asio::ip;

std::string NetworkOf(const ip::address& address) {
  if (address.is_v4()) return address.to_string();
  const ip::address_v6 six = address.to_v6();
  if (six.is_v4_mapped()) return ip::make_address_v4(ip::v4_mapped, six).to_string();
  ip::address_v6::bytes_type bytes = six.to_bytes();
  std::fill(bytes.begin() + 8, bytes.end(), 0);
  return ip::address_v6(bytes).to_string() + "/64";
}

ConnectionGate::Verdict ConnectionGate::Admit(const std::string& network) {
  if (connections_ >= limits_.connections) return Verdict::kFull;
  if (limits_.per_address > 0) {
    size_t& open = by_network_[network];
    if (open >= limits_.per_address) return Verdict::kAddressFull;
    ++open;
  }
  ++connections_;
  return Verdict::kAdmitted;
}

void ConnectionGate::HandshakeBegins(uint64_t id, TimePoint now) {
  if (limits_.handshakes > 0) handshakes_.emplace(id, now);
}

void ConnectionGate::HandshakeEnded(uint64_t id) { handshakes_.erase(id); }

void ConnectionGate::Leave(uint64_t id, const std::string& network) {
  handshakes_.erase(id);
  --connections_;
  auto found = by_network_.find(network);
  if (found != by_network_.end() && --found->second == 0) by_network_.erase(found);
}

std::optional<ConnectionGate::Congestion> ConnectionGate::MakeRoom(TimePoint now) {
  if (limits_.handshakes == 0 || handshakes_.size() < limits_.handshakes) return std::nullopt;
  const auto [id, since] = *handshakes_.begin();
  if (now - since < limits_.patience) return Congestion{.end = std::nullopt, .wait = limits_.patience - (now - since)};
  handshakes_.erase(handshakes_.begin());
  return Congestion{.end = id, .wait = {}};
}

}  // namespace heddle::protocol
