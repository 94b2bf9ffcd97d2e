#include "client/split/relay.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <thread>

#include "client/split/pipe.h"
#include "common/logging.h"
#include "common/subprocess.h"

namespace heddle::client {

namespace asio = boost::asio;
using protocol::FrameSocket;

namespace {

// What became of a connection.
enum class End { kBroken, kWorkerDone, kRefused };

class Relay {
 public:
  explicit Relay(const RelayOptions& options) : options_(options) {}

  Status Run() {
    HEDDLE_ASSIGN_OR_RETURN(Subprocess worker,
                            Subprocess::Start({.argv = options_.worker, .pipe_stdin = true, .pipe_stdout = true}));
    to_ = worker.stdin_fd();
    from_ = worker.stdout_fd();
    Duration wait = options_.retry_base;
    for (;;) {
      asio::io_context io;
      asio::co_spawn(
          io, [this]() { return Converse(); },
          [](std::exception_ptr failure) {
            if (failure) std::rethrow_exception(failure);
          });
      io.run();
      if (end_ == End::kWorkerDone) break;
      if (end_ == End::kRefused) return why_;
      if (progress_) wait = options_.retry_base;
      progress_ = false;
      if (!options_.go_on()) return Cancelled("the relay was stopped");
      Log(Severity::kInfo, "the split connection ended, a new one follows", {{"error", why_.message()}});
      std::this_thread::sleep_for(wait);
      wait = std::min(2 * wait, options_.retry_max);
    }
    worker.CloseStdin();
    const int status = worker.Wait();
    if (status == 0) return OkStatus();
    return Internal("the split worker ended with status " + std::to_string(status));
  }

 private:
  asio::awaitable<void> Converse() {
    end_ = End::kBroken;
    FrameSocket::Target target = options_.server;
    auto socket = co_await FrameSocket::Connect(target, options_.socket);
    if (!socket.ok()) {
      why_ = socket.status();
      if (why_.code() == Code::kUnauthenticated || why_.code() == Code::kInvalidArgument) end_ = End::kRefused;
      co_return;
    }
    std::string to_worker;  // empty: a new connection
    for (;;) {
      auto frame = AskWorker(to_worker);
      if (!frame.ok() || !*frame) {
        end_ = End::kWorkerDone;
        co_return;
      }
      why_ = co_await (*socket)->Write(**frame, options_.answer_timeout);
      if (!why_.ok()) co_return;
      Result<std::string> answer = co_await (*socket)->Read(options_.answer_timeout);
      why_ = answer.status();
      if (!why_.ok()) co_return;
      progress_ = true;
      to_worker = *std::move(answer);
    }
  }

  // Nothing: the worker has ended. Blocks: there is nothing else to do while it computes.
  Result<std::optional<std::string>> AskWorker(const std::string& frame) const {
    HEDDLE_RETURN_IF_ERROR(WritePipeFrame(to_, frame));
    return ReadPipeFrame(from_);
  }

  const RelayOptions& options_;
  int to_ = -1, from_ = -1;
  End end_ = End::kBroken;
  Status why_;
  bool progress_ = false;
};

}  // namespace

Status RelaySplit(const RelayOptions& options) { return Relay(options).Run(); }

}  // namespace heddle::client
