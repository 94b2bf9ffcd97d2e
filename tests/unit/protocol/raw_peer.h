// A peer that sends exactly the bytes that a test tells it to, over plain TCP or TLS, blocking, with a time limit on
// everything.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/ssl/context.hpp>
#include <memory>
#include <string>
#include <string_view>

namespace heddle::protocol {

class RawPeer {
 public:
  // `host`: the last number of the loopback address that it comes from.
  explicit RawPeer(uint16_t port, boost::asio::ssl::context* tls = nullptr, int receive_buffer = 0, uint8_t host = 1) {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const timeval limit{10, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (receive_buffer > 0) ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl((INADDR_LOOPBACK & ~0xffU) | host);
    EXPECT_EQ(::bind(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    if (tls == nullptr) return;
    ssl_ = SSL_new(tls->native_handle());
    SSL_set_fd(ssl_, fd_);
    EXPECT_EQ(SSL_connect(ssl_), 1);
  }
  // A handshake on a plain connection. False: it did not come about.
  bool TryTls(boost::asio::ssl::context& tls) {
    ssl_ = SSL_new(tls.native_handle());
    SSL_set_fd(ssl_, fd_);
    return SSL_connect(ssl_) == 1;
  }
  // The first flight of a client of this context.
  static std::string ClientHello(boost::asio::ssl::context& tls) {
    const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(tls.native_handle()), SSL_free);
    BIO* out = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl.get(), BIO_new(BIO_s_mem()), out);  // owns both
    SSL_connect(ssl.get());
    char* bytes = nullptr;
    const long size = BIO_get_mem_data(out, &bytes);
    return {bytes, static_cast<size_t>(size)};
  }
  ~RawPeer() {
    if (ssl_) SSL_free(ssl_);
    if (fd_ >= 0) ::close(fd_);
  }
  RawPeer(const RawPeer&) = delete;
  RawPeer& operator=(const RawPeer&) = delete;

  // False when the other side takes no more.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ssl_ ? SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size()))
                             : ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  void EndSending() { ::shutdown(fd_, SHUT_WR); }
  // Closes with a reset instead of a goodbye.
  void Reset() {
    const linger now{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    ::close(fd_);
    fd_ = -1;
  }

  // One answer: its head, and the body that its Content-Length announces. Empty when the connection ended first.
  std::string ReadAnswer(bool head_only = false) {
    size_t end;
    while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
      if (!ReadMore()) return {};
    }
    end += 4;
    const size_t field = buffer_.find("Content-Length: ");
    size_t length = 0;
    if (!head_only && field < end) length = std::stoul(buffer_.substr(field + 16));
    while (buffer_.size() < end + length) {
      if (!ReadMore()) return {};
    }
    std::string answer = buffer_.substr(0, end + length);
    buffer_.erase(0, end + length);
    return answer;
  }
  // 0 when the connection ended before an answer.
  int ReadStatus() {
    const std::string answer = ReadAnswer();
    return answer.size() > 12 ? std::stoi(answer.substr(9, 3)) : 0;
  }
  // Everything until the connection ends; false when it does not within the time limit.
  bool ReadToEnd(std::string* rest = nullptr) {
    while (ReadMore()) {
    }
    if (rest) *rest = buffer_;
    return ended_;
  }

 private:
  bool ReadMore() {
    char piece[4096];
    const ssize_t n = ssl_ ? SSL_read(ssl_, piece, sizeof piece) : ::recv(fd_, piece, sizeof piece, 0);
    if (n <= 0) {
      ended_ =
          n == 0 || errno == ECONNRESET || (ssl_ && SSL_get_error(ssl_, static_cast<int>(n)) != SSL_ERROR_WANT_READ);
      return false;
    }
    buffer_.append(piece, static_cast<size_t>(n));
    return true;
  }

  int fd_ = -1;
  SSL* ssl_ = nullptr;
  std::string buffer_;
  bool ended_ = false;
};

}  // namespace heddle::protocol
