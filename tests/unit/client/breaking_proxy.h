// A TCP proxy that breaks connections on demand: after so many bytes one way, both ends are closed.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "common/file.h"

namespace heddle::client {

class BreakingProxy {
 public:
  explicit BreakingProxy(uint16_t target_port);
  ~BreakingProxy();
  uint16_t port() const { return port_; }

  // Once: the connection that carries the n-th byte from now on in that direction is cut there.
  void BreakDownAfter(int64_t bytes) { down_left_ = bytes; }
  void BreakUpAfter(int64_t bytes) { up_left_ = bytes; }
  int breaks() const { return breaks_; }

 private:
  static constexpr int64_t kNever = INT64_MAX;
  void Accept();
  void Serve(int client);
  void Pump(int from, int to, std::atomic<int64_t>& left);

  uint16_t target_port_, port_ = 0;
  UniqueFd listener_;
  std::atomic<int64_t> down_left_ = kNever, up_left_ = kNever;
  std::atomic<int> breaks_ = 0;
  std::mutex mutex_;
  std::vector<int> open_;
  std::vector<std::thread> threads_;
  bool stopping_ = false;
  std::thread acceptor_;
};

}  // namespace heddle::client
