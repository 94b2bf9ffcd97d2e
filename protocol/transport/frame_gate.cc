#include "protocol/transport/frame_gate.h"

#include <algorithm>

namespace heddle::protocol::internal {

FrameGate::FrameGate(const ListenerOptions& options)
    : per_device_(options.max_connections_per_device),
      gate_({.connections = options.max_connections,
             .per_address = options.max_connections_per_address,
             .handshakes = options.max_handshakes}) {}

std::optional<uint64_t> FrameGate::Admit(const boost::asio::ip::address& address) {
  std::string network = NetworkOf(address);
  std::lock_guard lock(mutex_);
  ++stats_.accepted;
  const auto verdict = gate_.Admit(network);
  if (verdict != ConnectionGate::Verdict::kAdmitted) {
    ++(verdict == ConnectionGate::Verdict::kFull ? stats_.refused_full : stats_.refused_address);
    return std::nullopt;
  }
  rows_.emplace(next_id_, Row{std::move(network), {}});
  return next_id_++;
}

std::optional<ConnectionGate::Congestion> FrameGate::MakeRoom() {
  std::lock_guard lock(mutex_);
  auto congestion = gate_.MakeRoom(std::chrono::steady_clock::now());
  if (congestion && congestion->end) ++stats_.refused_handshakes;
  return congestion;
}

void FrameGate::HandshakeBegins(uint64_t id) {
  std::lock_guard lock(mutex_);
  gate_.HandshakeBegins(id, std::chrono::steady_clock::now());
}

void FrameGate::HandshakeEnded(uint64_t id) {
  std::lock_guard lock(mutex_);
  gate_.HandshakeEnded(id);
}

std::optional<uint64_t> FrameGate::Join(uint64_t id, const std::string& device) {
  std::lock_guard lock(mutex_);
  rows_.at(id).device = device;
  std::deque<uint64_t>& open = of_device_[device];
  open.push_back(id);
  if (per_device_ == 0 || open.size() <= per_device_) return std::nullopt;
  const uint64_t oldest = open.front();
  open.pop_front();
  ++stats_.replaced;
  return oldest;
}

void FrameGate::Leave(uint64_t id) {
  std::lock_guard lock(mutex_);
  const auto row = rows_.find(id);
  if (row == rows_.end()) return;
  gate_.Leave(id, row->second.network);
  if (const auto found = of_device_.find(row->second.device); found != of_device_.end()) {
    std::erase(found->second, id);
    if (found->second.empty()) of_device_.erase(found);
  }
  rows_.erase(row);
}

void FrameGate::Count(uint64_t ListenerStats::*counter) {
  std::lock_guard lock(mutex_);
  ++(stats_.*counter);
}

ListenerStats FrameGate::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace heddle::protocol::internal
