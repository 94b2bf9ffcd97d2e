#include "coordinator/split/pump.h"

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>

namespace heddle::coordinator {

namespace asio = boost::asio;

struct SplitPump::Impl : std::enable_shared_from_this<SplitPump::Impl> {
  Impl(asio::any_io_executor given, SplitServer& driven, std::function<void()> after)
      : executor(std::move(given)), server(driven), advanced(std::move(after)), timer(executor) {}

  Duration Now() const { return std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now() - start); }

  void Deliver() {
    for (SplitServer::Reply& reply : server.TakeReplies()) {
      auto waiting = replies.extract(reply.ticket);
      if (!waiting.empty()) waiting.mapped()(std::move(reply.frame));
    }
    if (advanced) advanced();
  }

  // One pass at a time, so that frames that have come meanwhile are taken before the next.
  void Run() {
    if (scheduled) return;
    scheduled = true;
    asio::post(executor, [self = shared_from_this()] {
      self->scheduled = false;
      if (self->stopped) return;
      const SplitServer::Turn turn = self->server.Advance(self->Now());
      self->Deliver();
      if (turn.computed) return self->Run();
      if (!turn.wake) return;
      self->timer.expires_at(self->start + std::chrono::duration_cast<std::chrono::steady_clock::duration>(*turn.wake));
      self->timer.async_wait([self](const boost::system::error_code& error) {
        if (!error) self->Run();
      });
    });
  }

  const asio::any_io_executor executor;
  SplitServer& server;
  const std::function<void()> advanced;
  const std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  asio::steady_timer timer;
  std::map<uint64_t, Reply> replies;
  uint64_t last_ticket = 0;
  bool scheduled = false, stopped = false;
};

SplitPump::SplitPump(asio::any_io_executor executor, SplitServer& server, std::function<void()> advanced)
    : impl_(std::make_shared<Impl>(std::move(executor), server, std::move(advanced))) {}
SplitPump::~SplitPump() = default;

void SplitPump::Take(const std::string& device, std::string frame, Reply reply) {
  const uint64_t ticket = ++impl_->last_ticket;
  impl_->replies.emplace(ticket, std::move(reply));
  impl_->server.Submit(ticket, device, frame, impl_->Now());
  impl_->Deliver();
  impl_->Run();
}

void SplitPump::Stop() {
  asio::post(impl_->executor, [impl = impl_] {
    impl->stopped = true;
    impl->timer.cancel();
  });
}

}  // namespace heddle::coordinator
