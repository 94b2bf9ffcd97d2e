// asio's TLS stream over TCP for what is built upon it by templates (Beast's WebSocket), with the types of completion
// handlers and buffers erased: each operation of the upper layer would otherwise compile TLS and TCP anew, under names
// of many thousand characters, which took longer than a tenth of the build.
//
// An AsyncStream in Beast's sense. Thread-safety: none; on one strand. Life cycle: construct with a connected or closed
// socket, Handshake, then reads and writes, at most one of each at a time; it outlives its operations.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream_base.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/core/role.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <memory>
#include <utility>
#include <vector>

namespace heddle::protocol::internal {

// A completion handler of any type, with the executor that it is to be called on. Called at most once.
template <typename... Args>
class AnyHandler {
 public:
  using executor_type = boost::asio::any_io_executor;

  template <typename Handler>
  AnyHandler(Handler handler, const executor_type& otherwise)
      : executor_(boost::asio::get_associated_executor(handler, otherwise)),
        held_(std::make_unique<Holder<Handler>>(std::move(handler))) {}

  executor_type get_executor() const { return executor_; }
  void operator()(Args... args) {
    Held& held = *held_;
    held.Call(std::move(held_), args...);
  }

 private:
  struct Held {
    virtual ~Held() = default;
    // Frees `self` before the handler is called, as asio promises its callers.
    virtual void Call(std::unique_ptr<Held> self, Args... args) = 0;
  };
  template <typename Handler>
  struct Holder : Held {
    explicit Holder(Handler given) : handler(std::move(given)) {}
    void Call(std::unique_ptr<Held> self, Args... args) override {
      Handler mine = std::move(handler);
      self.reset();
      mine(args...);
    }
    Handler handler;
  };

  executor_type executor_;
  std::unique_ptr<Held> held_;
};

class TlsLayer {
 public:
  using executor_type = boost::asio::any_io_executor;
  using Error = boost::beast::error_code;
  using Moved = AnyHandler<Error, std::size_t>;
  using Done = AnyHandler<Error>;

  TlsLayer(boost::asio::ip::tcp::socket socket, boost::asio::ssl::context& context);
  ~TlsLayer();

  executor_type get_executor();
  boost::beast::tcp_stream& next_layer();  // the lowest, too
  SSL* native_handle();

  boost::asio::awaitable<Error> Handshake(boost::asio::ssl::stream_base::handshake_type side);

  template <typename Buffers, typename Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return boost::asio::async_initiate<Token, void(Error, std::size_t)>(
        [this](auto handler, const Buffers& given) {
          Read(Listed<boost::asio::mutable_buffer>(given), Moved(std::move(handler), get_executor()));
        },
        token, buffers);
  }
  template <typename Buffers, typename Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return boost::asio::async_initiate<Token, void(Error, std::size_t)>(
        [this](auto handler, const Buffers& given) {
          Write(Listed<boost::asio::const_buffer>(given), Moved(std::move(handler), get_executor()));
        },
        token, buffers);
  }
  // What Beast looks for when a WebSocket has said goodbye: reads what still comes, so that the goodbye is not lost,
  // for two seconds at most, and closes.
  template <typename Handler>
  friend void async_teardown(boost::beast::role_type role, TlsLayer& layer, Handler&& handler) {
    layer.Teardown(role, Done(std::forward<Handler>(handler), layer.get_executor()));
  }

 private:
  template <typename Buffer, typename Buffers>
  static std::vector<Buffer> Listed(const Buffers& buffers) {
    return {boost::asio::buffer_sequence_begin(buffers), boost::asio::buffer_sequence_end(buffers)};
  }
  void Read(std::vector<boost::asio::mutable_buffer> buffers, Moved handler);
  void Write(std::vector<boost::asio::const_buffer> buffers, Moved handler);
  void Teardown(boost::beast::role_type role, Done handler);

  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace heddle::protocol::internal
