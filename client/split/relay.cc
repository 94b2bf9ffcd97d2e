#include "client/split/relay.h"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <thread>

#include "client/split/pipe.h"
#include "common/logging.h"
#include "common/subprocess.h"

namespace heddle::client {

namespace asio = boost::asio;
using protocol::FrameSocket;

namespace {

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr auto kNever = std::chrono::steady_clock::time_point::max();
constexpr auto kLook = std::chrono::milliseconds(100);  // between two questions whether to go on

// What became of a connection.
enum class End { kBroken, kRefused };

// Frames between two threads.
class FrameQueue {
 public:
  void Push(std::string frame) {
    {
      std::lock_guard lock(mutex_);
      frames_.push_back(std::move(frame));
    }
    filled_.notify_one();
  }
  void Close() {
    {
      std::lock_guard lock(mutex_);
      closed_ = true;
    }
    filled_.notify_all();
  }
  // Waits; nothing once it is closed.
  std::optional<std::string> Pop() {
    std::unique_lock lock(mutex_);
    filled_.wait(lock, [this] { return closed_ || !frames_.empty(); });
    if (closed_) return std::nullopt;
    std::string frame = std::move(frames_.front());
    frames_.pop_front();
    return frame;
  }

 private:
  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<std::string> frames_;
  bool closed_ = false;
};

// Two threads for the worker's pipes, and the calling one for the connection, so that while one frame travels the
// worker computes the next. The queues are bounded, whatever the server sends: what it sends unasked ends the relay,
// and what it makes the worker ask is at most max_on_the_way frames.
class Relay {
 public:
  explicit Relay(const RelayOptions& options) : options_(options) {}

  Status Run() {
    HEDDLE_ASSIGN_OR_RETURN(Subprocess worker,
                            Subprocess::Start({.argv = options_.worker, .pipe_stdin = true, .pipe_stdout = true}));
    std::thread writer([this, fd = worker.stdin_fd()] {
      while (const std::optional<std::string> frame = to_worker_.Pop()) {
        if (!WritePipeFrame(fd, *frame).ok()) break;
      }
    });
    std::thread reader([this, fd = worker.stdout_fd()] {
      for (;;) {
        Result<std::optional<std::string>> frame = ReadPipeFrame(fd);
        const bool ended = !frame.ok() || !*frame;
        asio::post(io_, [this, ended, sent = ended ? std::string() : **std::move(frame)]() mutable {
          FromWorker(ended, std::move(sent));
        });
        if (ended) return;
      }
    });
    const Status status = Connections();
    if (!status.ok()) worker.Signal(SIGKILL);
    const int ended = worker.Wait();
    to_worker_.Close();
    writer.join();
    reader.join();
    if (!status.ok() || ended == 0) return status;
    // Who stops a service signals all of its processes, and the worker may be the first to hear it.
    if (!options_.go_on()) return Cancelled("the relay was stopped");
    return Internal("the split worker ended with status " + std::to_string(ended));
  }

 private:
  // Until the worker is done.
  Status Connections() {
    Duration wait = options_.retry_base;
    for (;;) {
      io_.restart();
      io_.poll();  // what the worker has said meanwhile
      if (worker_ended_) return OkStatus();
      io_.restart();  // poll ends it where there is nothing to do
      end_ = End::kBroken;
      over_ = false;
      asio::steady_timer tick(io_);
      asio::co_spawn(
          io_, [this]() { return Converse(); },
          [this, &tick](std::exception_ptr failure) {
            over_ = true;
            tick.cancel();
            if (failure) std::rethrow_exception(failure);
          });
      asio::co_spawn(
          io_, [this, &tick]() { return WatchForStop(tick); },
          [](std::exception_ptr failure) {
            if (failure) std::rethrow_exception(failure);
          });
      io_.run();
      if (worker_ended_) return OkStatus();
      if (stopped_) return Cancelled("the relay was stopped");
      if (end_ == End::kRefused) return why_;
      if (progress_) wait = options_.retry_base;
      progress_ = false;
      Log(Severity::kInfo, "the split connection ended, a new one follows", {{"error", why_.message()}});
      const auto until = std::chrono::steady_clock::now() + wait;
      for (auto now = until - wait; now < until; now = std::chrono::steady_clock::now()) {
        if (!options_.go_on()) return Cancelled("the relay was stopped");
        std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(kLook, until - now));
      }
      wait = std::min(2 * wait, options_.retry_max);
    }
  }

  // Ends the conversation when the relay is to stop.
  asio::awaitable<void> WatchForStop(asio::steady_timer& tick) {
    while (!over_) {
      if (!options_.go_on()) {
        stopped_ = true;
        if (wake_ == nullptr) {
          io_.stop();  // there is no connection yet: what waits for one goes with io_
        } else {
          socket_->Close();
          wake_->cancel();
        }
        co_return;
      }
      tick.expires_after(kLook);
      co_await tick.async_wait(kTuple);
    }
  }

  // On io_, whatever connection there is.
  void FromWorker(bool ended, std::string frame) {
    if (ended) {
      worker_ended_ = true;
    } else if (frame.empty()) {
      --unheard_;  // what follows belongs to the next connection that the worker was told of
      return;
    } else if (unheard_ > 0) {
      return;
    } else {
      from_worker_.push_back(std::move(frame));
      if (wake_ != nullptr && from_worker_.size() + owed_ > options_.max_on_the_way) {
        if (why_.ok()) why_ = ResourceExhausted("more is on the way to the split server than the plan lets be");
        socket_->Close();
      }
    }
    if (wake_ != nullptr) wake_->cancel();
  }

  asio::awaitable<void> Converse() {
    auto socket = co_await FrameSocket::Connect(options_.server, options_.socket);
    if (!socket.ok()) {
      why_ = socket.status();
      if (why_.code() == Code::kUnauthenticated || why_.code() == Code::kInvalidArgument) end_ = End::kRefused;
      co_return;
    }
    from_worker_.clear();
    ++unheard_;
    why_ = OkStatus();
    owed_ = 0;
    to_worker_.Push("");  // a new connection
    asio::steady_timer wake(io_);
    wake_ = &wake;
    socket_ = socket->get();
    bool reading = true;
    asio::co_spawn(
        io_, [this, &socket, &reading]() { return ReadAnswers(**socket, &reading); },
        [](std::exception_ptr failure) {
          if (failure) std::rethrow_exception(failure);
        });
    while (reading && !worker_ended_ && !stopped_) {
      if (from_worker_.empty()) {
        const auto due = owed_ > 0 ? answered_ + options_.answer_timeout : kNever;
        if (std::chrono::steady_clock::now() >= due) {
          why_ = DeadlineExceeded("the split server does not answer");
          break;
        }
        wake.expires_at(due);
        co_await wake.async_wait(kTuple);
        continue;
      }
      const std::string frame = std::move(from_worker_.front());
      from_worker_.pop_front();
      if (owed_++ == 0) answered_ = std::chrono::steady_clock::now();
      const Status written = co_await (*socket)->Write(frame, options_.answer_timeout);
      if (!written.ok()) {
        if (why_.ok()) why_ = written;
        break;
      }
    }
    (*socket)->Close();
    while (reading) {  // its last read comes back with an error
      wake.expires_at(kNever);
      co_await wake.async_wait(kTuple);
    }
    wake_ = nullptr;
  }

  asio::awaitable<void> ReadAnswers(FrameSocket& socket, bool* reading) {
    for (;;) {
      // Converse has the deadline, which is for frames that wait for an answer and not for a device that computes.
      Result<std::string> answer = co_await socket.Read(Duration::max());
      if (!answer.ok()) {
        if (why_.ok()) why_ = answer.status();
        break;
      }
      if (owed_ == 0) {
        why_ = InvalidArgument("the split server sent a frame that answers nothing");
        end_ = End::kRefused;
        socket.Close();
        break;
      }
      progress_ = true;
      --owed_;
      answered_ = std::chrono::steady_clock::now();
      to_worker_.Push(*std::move(answer));
    }
    *reading = false;
    if (wake_ != nullptr) wake_->cancel();
  }

  const RelayOptions& options_;
  FrameQueue to_worker_;
  asio::io_context io_{1};
  End end_ = End::kBroken;
  Status why_;
  bool progress_ = false;
  bool over_ = false;     // the conversation is
  bool stopped_ = false;  // by go_on

  // On io_.
  std::deque<std::string> from_worker_;
  asio::steady_timer* wake_ = nullptr;              // of the connection
  FrameSocket* socket_ = nullptr;                   // the connection, as long as there is wake_
  size_t owed_ = 0;                                 // frames that were sent on it and wait for an answer
  std::chrono::steady_clock::time_point answered_;  // the last one was; or that from which it is waited for
  bool worker_ended_ = false;
  int unheard_ = 0;  // connections that the worker was told of and has not begun to speak on
};

}  // namespace

Status RelaySplit(const RelayOptions& options) { return Relay(options).Run(); }

}  // namespace heddle::client
