#include "tests/support/local_exchange.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <utility>

#include "common/file.h"
#include "protocol/refusal.h"

namespace heddle::testing {

namespace asio = boost::asio;
using protocol::Awaitable;

namespace {

constexpr size_t kMostFileBytes = size_t{64} << 20;

}  // namespace

LocalExchange::LocalExchange(const asio::any_io_executor& executor, protocol::RequestHead head, protocol::Peer peer)
    : wake_(executor, asio::steady_timer::time_point::max()), head_(std::move(head)), peer_(std::move(peer)) {
  remaining_ = head_.content_length.value_or(0);
}

// ---- the test's side ----

void LocalExchange::Receive(std::string_view bytes) {
  if (broken_) return;
  unread_ += bytes;
  Wake();
}

void LocalExchange::Break() {
  broken_ = true;
  Wake();
}

void LocalExchange::BeginShutdown() {
  stopping_ = true;
  Wake();
}

// ---- protocol::Exchange ----

std::optional<std::string> LocalExchange::Query(std::string_view name) const {
  return protocol::FindQuery(head_.query, name);
}

std::optional<std::string_view> LocalExchange::Header(std::string_view name) const {
  return protocol::FindHeader(head_.headers, name);
}

Awaitable<void> LocalExchange::WaitForNews() {
  boost::system::error_code ignored;
  co_await wake_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

Awaitable<Result<size_t>> LocalExchange::ReadBody(std::span<std::byte> buffer) {
  if (remaining_ == 0 || buffer.empty()) co_return size_t{0};
  while (unread_.empty()) {
    if (broken_) co_return Unavailable("the peer closed the connection in the middle of a body");
    co_await WaitForNews();
  }
  const size_t got = std::min<uint64_t>({unread_.size(), buffer.size(), remaining_});
  std::memcpy(buffer.data(), unread_.data(), got);
  unread_.erase(0, got);
  remaining_ -= got;
  bytes_in_ += got;
  co_return got;
}

Awaitable<Result<std::string>> LocalExchange::ReadAll(size_t limit) {
  if (remaining_ > limit) {
    co_return ResourceExhausted("the body has " + std::to_string(remaining_) + " bytes, more than the limit of " +
                                std::to_string(limit));
  }
  std::string body;
  while (remaining_ > 0) {
    std::byte piece[4096];
    Result<size_t> read = co_await ReadBody(piece);
    if (!read.ok()) co_return read.status();
    body.append(reinterpret_cast<const char*>(piece), *read);
  }
  co_return body;
}

Awaitable<Status> LocalExchange::Respond(unsigned status, std::string content_type, std::string body,
                                         protocol::Headers headers) {
  if (answered_) co_return FailedPrecondition("the request was answered already");
  answered_ = true;
  if (broken_) co_return Unavailable("the peer has gone");
  if (head_.method == "HEAD" || status == 204 || status == 304) body.clear();
  bytes_out_ += body.size();
  Send(LocalAnswer{status, std::move(content_type), std::move(headers), std::move(body)});
  co_return OkStatus();
}

void LocalExchange::Send(LocalAnswer answer) {
  answer_ = std::move(answer);
  if (heard_) heard_(*answer_);
}

Awaitable<Status> LocalExchange::RespondFile(unsigned status, std::string content_type,
                                             const std::filesystem::path& file, uint64_t offset, uint64_t length,
                                             protocol::Headers headers) {
  if (answered_) co_return FailedPrecondition("the request was answered already");
  Result<std::string> content = ReadFile(file, kMostFileBytes);
  if (!content.ok()) co_return content.status();
  if (offset > content->size() || length > content->size() - offset) {
    co_return OutOfRange(file.string() + " has " + std::to_string(content->size()) + " bytes, fewer than asked for");
  }
  co_return co_await Respond(status, std::move(content_type), content->substr(offset, length), std::move(headers));
}

Awaitable<void> LocalExchange::WaitGone() {
  while (!broken_ && !stopping_) {
    co_await WaitForNews();
    // Whoever raced this against an answer and lost interest cancels it.
    const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
    if (state.cancelled() != asio::cancellation_type::none) co_return;
  }
}

void LocalExchange::Finish() {
  finished_ = true;
  if (answered_ || broken_) return;  // nobody is there, or part of an answer has gone out
  answered_ = true;
  std::string body = protocol::SerializeRefusal(
      protocol::MakeRefusal(v1::REFUSAL_REASON_INTERNAL, "the coordinator failed to answer; see its log"));
  Send(LocalAnswer{500, std::string(protocol::kProtobufContentType), {}, std::move(body)});
}

void StartHandling(asio::io_context& io, protocol::Handler handler, std::shared_ptr<LocalExchange> exchange) {
  LocalExchange* raw = exchange.get();
  asio::co_spawn(
      io, [handler = std::move(handler), raw]() -> Awaitable<void> { co_await handler(*raw); },
      [exchange = std::move(exchange)](const std::exception_ptr&) { exchange->Finish(); });
}

}  // namespace heddle::testing
