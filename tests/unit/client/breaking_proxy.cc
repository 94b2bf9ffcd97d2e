#include "tests/unit/client/breaking_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

namespace heddle::client {
namespace {

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

}  // namespace

BreakingProxy::BreakingProxy(uint16_t target_port)
    : target_port_(target_port), listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof address;
  if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(listener_.get(), 16) != 0 ||
      ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw std::runtime_error("the proxy cannot listen");
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { Accept(); });
}

BreakingProxy::~BreakingProxy() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    ::shutdown(listener_.get(), SHUT_RDWR);
    for (int fd : open_) ::shutdown(fd, SHUT_RDWR);
  }
  acceptor_.join();
  for (std::thread& thread : threads_) thread.join();
}

void BreakingProxy::Accept() {
  for (;;) {
    const int client = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) return;
    const std::lock_guard lock(mutex_);
    if (stopping_) {
      ::close(client);
      return;
    }
    open_.push_back(client);
    threads_.emplace_back([this, client] { Serve(client); });
  }
}

void BreakingProxy::Serve(int client) {
  const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = Loopback(target_port_);
  {
    const std::lock_guard lock(mutex_);
    open_.push_back(server);
  }
  if (::connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    std::thread up([&] { Pump(client, server, up_left_); });
    Pump(server, client, down_left_);
    up.join();
  }
  const std::lock_guard lock(mutex_);
  for (int fd : {client, server}) {
    std::erase(open_, fd);
    ::close(fd);
  }
}

void BreakingProxy::Pump(int from, int to, std::atomic<int64_t>& left) {
  char buffer[4096];
  for (;;) {
    const ssize_t got = ::recv(from, buffer, sizeof buffer, 0);
    if (got <= 0) break;
    const bool armed = left != kNever;
    const auto allowed = static_cast<size_t>(armed ? std::clamp<int64_t>(left, 0, got) : got);
    if (::send(to, buffer, allowed, MSG_NOSIGNAL) != static_cast<ssize_t>(allowed)) break;
    if (!armed) continue;
    left -= got;
    if (left <= 0) {
      left = kNever;
      ++breaks_;
      break;
    }
  }
  // Orderly, so that what was sent arrives before the end.
  ::shutdown(from, SHUT_RDWR);
  ::shutdown(to, SHUT_RDWR);
}

}  // namespace heddle::client
