#include "coordinator/service/device_api.h"

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <memory>
#include <utility>

#include "common/logging.h"
#include "common/test_hooks.h"
#include "coordinator/service/pending_answer.h"
#include "protocol/short_form.h"
#include "protocol/transport/blocking.h"
#include "protocol/validate.h"
#include "zo_optim/ledger/ledger.h"

namespace heddle::coordinator {
namespace {

namespace asio = boost::asio;
using protocol::Awaitable;
using protocol::Exchange;
using asio::experimental::awaitable_operators::operator||;

// Until some of a device's bodies may have arrived.
const Duration kRetryFlight = Seconds(1);

// A ledger that may be read while a connection's thread waits: a millisecond's work.
constexpr uint64_t kMostLedgerAtOnce = uint64_t{256} << 10;

// Of the ledgers of a patch: decoding so many bytes is as much work as another request.
constexpr uint64_t kPatchedBytesOfARequest = uint64_t{64} << 10;

constexpr std::string_view kWeightsEnding = "/weights";

// A fixed set, so that labels do not grow with what strangers ask for.
std::string_view EndpointOf(std::string_view path) {
  for (std::string_view known : {"/v1/enroll", "/v1/checkin", "/v1/reports", "/v1/uploads"}) {
    if (path == known) return known;
  }
  if (path.starts_with("/v1/blobs/")) {
    if (path.ends_with(kWeightsEnding)) return "/v1/blobs/{sha256}/weights";
    return path.find("/from/") == std::string_view::npos ? "/v1/blobs/{sha256}" : "/v1/blobs/{sha256}/from/{sha256}";
  }
  if (path.starts_with("/v1/uploads/")) return "/v1/uploads/{id}";
  return "other";
}

DeviceLimitOptions LimitsOf(const CoordinatorConfig& config) {
  DeviceLimitOptions options;
  options.requests = {.per_s = config.device_requests_per_s, .burst = config.device_request_burst};
  options.bad_tokens = {.per_s = config.bad_tokens_per_minute / 60,
                        .burst = std::max(1.0, config.bad_tokens_per_minute)};
  options.bytes_in_flight = config.device_bytes_in_flight;
  return options;
}

// For the metrics. Check-ins for want of memory are counted apart: coming back does not help them.
std::string_view ResultOf(const v1::CheckinResponse& response) {
  if (response.has_assignment()) return "assigned";
  return response.rejection().reason() == v1::REJECTION_REASON_TOO_LITTLE_MEMORY ? "too_little_memory" : "rejected";
}

// How much of the request's body may be in memory at one time, as it is declared.
uint64_t BytesInMemory(const Exchange& exchange) {
  const bool streamed = exchange.path().starts_with("/v1/uploads");
  return std::min<uint64_t>(exchange.content_length().value_or(0),
                            streamed ? protocol::kServerIoBufferBytes : protocol::kMaxMessageBytes);
}

}  // namespace

ByteBudget::Hold::Hold(ByteBudget& budget, uint64_t bytes) : budget_(budget), bytes_(std::min(bytes, budget.total_)) {
  std::unique_lock lock(budget_.mutex_);
  budget_.freed_.wait(lock, [&] { return budget_.free_ >= bytes_; });
  budget_.free_ -= bytes_;
}

ByteBudget::Hold::~Hold() {
  {
    std::lock_guard lock(budget_.mutex_);
    budget_.free_ += bytes_;
  }
  budget_.freed_.notify_all();
}

DeviceApi::DeviceApi(DeviceApiContext context)
    : context_(std::move(context)),
      validation_(context_.config->validation_bytes_in_flight),
      limits_(LimitsOf(*context_.config), context_.clock),
      in_use_(context_.store, context_.blobs,
              [this](const Sha256Digest& blob) { return context_.driver->IsNeeded(blob); }) {}

// ---- the way in ----

Result<DeviceId> DeviceApi::Authenticate(const Exchange& exchange) const {
  if (context_.authority != nullptr) return context_.directory->Authenticate(exchange.peer(), context_.clock->Now());
  // Plain TCP on loopback, which --insecure asked for: the device says its own name.
  std::string name(exchange.Header("Heddle-Device").value_or(""));
  if (!IsValidDeviceName(name)) return Unauthenticated("without TLS a request needs the header Heddle-Device");
  return DeviceId(name);
}

Awaitable<void> DeviceApi::Handle(Exchange& exchange) {
  co_await Dispatch(exchange);
  context_.metrics->AddTraffic(exchange.bytes_in(), exchange.bytes_out());
}

Awaitable<void> DeviceApi::Dispatch(Exchange& exchange) {
  if (exchange.Header("Content-Encoding").value_or("identity") != "identity") {
    Refused refused;
    refused.reason = v1::REFUSAL_REASON_UNSUPPORTED;
    refused.message = "bodies are taken as they are, without a Content-Encoding";
    co_return co_await Refuse(exchange, std::move(refused));
  }
  if (exchange.path() == "/v1/enroll" && exchange.method() == "POST") co_return co_await Enroll(exchange);

  Result<DeviceId> device = Authenticate(exchange);
  if (!device.ok()) co_return co_await RefuseDevice(exchange, device.status());
  if (const auto wait = limits_.CountRequest(*device)) {
    co_return co_await RefuseLimited(exchange, "requests", "the device makes too many requests; come back later",
                                     *wait);
  }
  const auto flight = limits_.BeginFlight(*device, BytesInMemory(exchange));
  if (!flight) {
    co_return co_await RefuseLimited(exchange, "bytes_in_flight",
                                     "the device has too many bodies on their way at one time; come back later",
                                     kRetryFlight);
  }
  co_await Route(exchange, *std::move(device));
}

Awaitable<void> DeviceApi::Route(Exchange& exchange, DeviceId device) {
  const std::string& path = exchange.path();
  const std::string_view method = exchange.method();
  if (path == "/v1/checkin" && method == "POST") co_return co_await Checkin(exchange, std::move(device));
  if (path == "/v1/reports" && method == "POST") co_return co_await Report(exchange, std::move(device));
  if (path == "/v1/uploads" && method == "POST") co_return co_await BeginUpload(exchange, std::move(device));
  constexpr std::string_view kBlobs = "/v1/blobs/", kUploads = "/v1/uploads/";
  if (path.starts_with(kBlobs) && (method == "GET" || method == "HEAD")) {
    const std::string_view rest = std::string_view(path).substr(kBlobs.size());
    if (rest.ends_with(kWeightsEnding) && method == "GET")
      co_return co_await GetWeights(exchange, rest.substr(0, rest.size() - kWeightsEnding.size()));
    constexpr std::string_view kFrom = "/from/";
    const size_t from = rest.find(kFrom);
    if (from == std::string_view::npos) co_return co_await GetBlob(exchange, rest);
    if (method == "GET")
      co_return co_await GetPatch(exchange, std::move(device), rest.substr(0, from), rest.substr(from + kFrom.size()));
  }
  if (path.starts_with(kUploads)) {
    std::string id = path.substr(kUploads.size());
    if (method == "HEAD" || method == "GET")
      co_return co_await UploadOffset(exchange, std::move(device), std::move(id));
    if (method == "PATCH") co_return co_await ContinueUpload(exchange, std::move(device), std::move(id));
  }
  Refused refused;
  const bool known = EndpointOf(path) != "other";
  refused.reason = known ? v1::REFUSAL_REASON_UNSUPPORTED : v1::REFUSAL_REASON_NOT_FOUND;
  refused.message = known ? std::string(method) + " is not something that " + path + " does"
                          : "there is nothing at this path; see docs/protocol.md for those that exist";
  co_await Refuse(exchange, std::move(refused));
}

// ---- answers ----

Awaitable<void> DeviceApi::Answer(Exchange& exchange, unsigned status, std::string body) {
  context_.metrics->CountRequest(EndpointOf(exchange.path()), status);
  // Who names no type knows what comes.
  const bool brief = exchange.content_length().value_or(0) > 0 && !exchange.Header("Content-Type");
  std::string type(brief ? "" : protocol::kProtobufContentType);
  auto ignored = co_await exchange.Respond(status, std::move(type), std::move(body));
}

Awaitable<void> DeviceApi::RefuseLimited(Exchange& exchange, std::string_view limit, std::string message,
                                         Duration retry_after) {
  context_.metrics->CountLimited(limit);
  Refused refused;
  refused.reason = v1::REFUSAL_REASON_RATE_LIMITED;
  refused.message = std::move(message);
  refused.retry_after = retry_after;
  co_await Refuse(exchange, std::move(refused));
}

void DeviceApi::CountRefused(const Exchange& exchange, v1::RefusalReason reason, const std::string& message) const {
  context_.metrics->CountRefusal(protocol::ReasonName(reason));
  if (context_.audit == nullptr) return;
  const protocol::Peer& peer = exchange.peer();
  context_.audit->Refused(protocol::ReasonName(reason), peer.device, peer.address, EndpointOf(exchange.path()),
                          message);
}

Awaitable<void> DeviceApi::Refuse(Exchange& exchange, Refused refused) {
  const v1::Refusal message =
      protocol::MakeRefusal(refused.reason, refused.message, retry_spread_.From(refused.retry_after));
  const unsigned status = protocol::HttpStatusOf(refused.reason);
  CountRefused(exchange, refused.reason, refused.message);
  context_.metrics->CountRequest(EndpointOf(exchange.path()), status);
  if (std::string after = protocol::RetryAfterValue(message); !after.empty()) {
    refused.headers.emplace_back("Retry-After", std::move(after));
  }
  Log(Severity::kDebug, "refused",
      {{"device", exchange.peer().device},
       {"address", exchange.peer().address},
       {"path", exchange.path()},
       {"reason", protocol::ReasonName(refused.reason)},
       {"message", refused.message}});
  std::string type(protocol::kProtobufContentType), body = protocol::SerializeRefusal(message);
  auto ignored = co_await exchange.Respond(status, std::move(type), std::move(body), std::move(refused.headers));
}

Awaitable<void> DeviceApi::RefuseStatus(Exchange& exchange, const Status& status) {
  Refused refused;
  refused.message = status.message();
  switch (status.code()) {
    case Code::kUnauthenticated:
      refused.reason = v1::REFUSAL_REASON_UNAUTHENTICATED;
      break;
    case Code::kPermissionDenied:  // to us, by our own disk: no device may take it for itself and stop
      refused.reason = v1::REFUSAL_REASON_UNAVAILABLE;
      break;
    default:
      refused.reason = protocol::ReasonOf(status);
  }
  const bool ours = status.code() == Code::kInternal || status.code() == Code::kUnavailable ||
                    status.code() == Code::kResourceExhausted || status.code() == Code::kDataLoss ||
                    status.code() == Code::kPermissionDenied;
  if (ours) {
    refused.retry_after = Seconds(5);
    Log(Severity::kError, "a request failed", {{"path", exchange.path()}, {"error", status.message()}});
    // Paths of this machine are nobody's business.
    refused.message = "the coordinator cannot do this now; come back later";
  }
  co_await Refuse(exchange, std::move(refused));
}

Awaitable<void> DeviceApi::RefuseDevice(Exchange& exchange, const Status& status) {
  if (status.code() != Code::kPermissionDenied) co_return co_await RefuseStatus(exchange, status);
  Refused refused;
  refused.reason = v1::REFUSAL_REASON_REVOKED;
  refused.message = status.message();
  co_await Refuse(exchange, std::move(refused));
}

Awaitable<void> DeviceApi::RefuseBody(Exchange& exchange, const Status& status) {
  // The connection broke, or ends because the peer took too long: nobody hears an answer.
  if (status.code() == Code::kUnavailable || status.code() == Code::kDeadlineExceeded) co_return;
  if (status.code() != Code::kResourceExhausted) co_return co_await RefuseStatus(exchange, status);
  Refused refused;
  refused.reason = v1::REFUSAL_REASON_TOO_LARGE;
  refused.message = status.message();
  co_await Refuse(exchange, std::move(refused));
}

// ---- check-in ----

Awaitable<void> DeviceApi::Checkin(Exchange& exchange, DeviceId device) {
  Result<std::string> body = co_await exchange.ReadAll(protocol::kMaxMessageBytes);
  if (!body.ok()) co_return co_await RefuseBody(exchange, body.status());
  auto request = protocol::ParseMessage<v1::CheckinRequest>(*body);
  if (!request.ok()) {
    Refused refused;
    refused.reason = request.status().code() == Code::kFailedPrecondition ? v1::REFUSAL_REASON_UNSUPPORTED_VERSION
                                                                          : v1::REFUSAL_REASON_MALFORMED;
    refused.message = request.status().message();
    co_return co_await Refuse(exchange, std::move(refused));
  }
  auto pending = std::make_shared<Pending>(co_await asio::this_coro::executor);
  std::vector<std::string> tasks(request->local_tasks().begin(), request->local_tasks().end());
  const PollToken token =
      context_.driver->Checkin(device, std::move(tasks), request->memory_bytes(), Pending::Callback(pending));
  if (!pending->answer) {
    boost::system::error_code ignored;
    co_await (pending->timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored)) || exchange.WaitGone());
  }
  if (!pending->answer) {
    context_.driver->PollGone(token);
    if (!exchange.stopping()) co_return;  // nobody is there to hear an answer
    const v1::CheckinResponse response =
        protocol::MakeRejection(v1::REJECTION_REASON_SHUTTING_DOWN, retry_spread_.From(Seconds(2)));
    co_return co_await Answer(exchange, 200, response.SerializeAsString());
  }
  if (const auto* refused = std::get_if<Status>(&*pending->answer)) co_return co_await RefuseDevice(exchange, *refused);
  auto& response = std::get<v1::CheckinResponse>(*pending->answer);
  context_.metrics->CountCheckin(ResultOf(response));
  if (response.has_assignment() && (request->short_forms() || request->lasting_key() != 0)) {
    Shorten(*request, response.mutable_assignment());
  }
  if (response.has_assignment()) HEDDLE_FAILPOINT(kAssignmentUnsent);
  co_await Answer(exchange, 200, response.SerializeAsString());
  if (response.has_assignment()) HEDDLE_FAILPOINT(kAssignmentAnswered);
}

// No coroutine, since it must not wait: were the answer to wait, the verdict on another connection's
// report could be heard before the assignment that it is on.
void DeviceApi::Shorten(const v1::CheckinRequest& request, v1::TaskAssignment* assignment) {
  assignment->set_short_forms(true);
  const auto& adapter = assignment->plan().adapter();
  const auto from = Sha256Digest::FromBytes(request.ledger_sha256());
  const bool known = from.ok() && !adapter.empty() && adapter.rbegin()->name() == zo::kLedgerFile;
  std::string patch;
  if (known && adapter.rbegin()->size_bytes() <= kMostLedgerAtOnce) {
    const Sha256Digest to = protocol::DigestOf(*adapter.rbegin()).value();
    const Result<uint64_t> size = context_.blobs->Size(*from);
    Result<std::string> made = NotFound("");
    if (size.ok() && *size <= kMostLedgerAtOnce) made = MakePatch(*from, to);
    // Without one the device fetches the ledger.
    if (made.ok() && made->size() <= protocol::kMaxInlinePatchBytes) patch = *std::move(made);
  }
  protocol::Shorten(request.lasting_key(), assignment);
  if (!patch.empty()) assignment->set_ledger_patch(std::move(patch));
}

// ---- blobs ----

// What leads from one ledger to another. Nothing: one of them is none, they are of two runs, or too large, or no
// shorter than the ledger itself.
Result<std::string> DeviceApi::MakePatch(const Sha256Digest& from, const Sha256Digest& to) const {
  const auto read = [this](const Sha256Digest& digest) -> Result<zo::Ledger> {
    HEDDLE_ASSIGN_OR_RETURN(const uint64_t size, context_.blobs->Size(digest));
    if (size > protocol::kMaxPatchedLedgerBytes) return NotFound("too large to be patched");
    HEDDLE_ASSIGN_OR_RETURN(const auto mapped, context_.blobs->Map(digest));
    return zo::DecodeLedger(mapped->bytes());
  };
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t whole, context_.blobs->Size(to));
  // First the one that is the run's: the other may be a device's update, of which entries may take far more memory than
  // bytes, and only where there are ledgers are updates too short for that.
  HEDDLE_ASSIGN_OR_RETURN(const zo::Ledger later, read(to));
  HEDDLE_ASSIGN_OR_RETURN(zo::Ledger earlier, read(from));
  if (!(earlier.head == later.head)) return NotFound("ledgers of two runs");
  if (HEDDLE_PLANTED(kPatchFromStart)) earlier.entries.clear();
  std::string patch = zo::EncodePatch(earlier, later);
  if (patch.size() >= whole) return NotFound("the ledger itself is shorter");
  return patch;
}

Awaitable<void> DeviceApi::GetPatch(Exchange& exchange, DeviceId device, std::string_view hex,
                                    std::string_view from_hex) {
  const auto to = Sha256Digest::FromHex(hex), from = Sha256Digest::FromHex(from_hex);
  Result<std::string> patch = NotFound("");
  std::optional<DeviceLimits::Flight> flight;
  if (to.ok() && from.ok() && context_.driver->IsPublished(*to)) {
    // Two ledgers are decoded for it, and the answer, shorter than the later one, stands in memory.
    const auto size_of = [this](const Sha256Digest& ledger) {
      const auto size = context_.blobs->Size(ledger);
      return size.ok() ? std::min<uint64_t>(*size, protocol::kMaxPatchedLedgerBytes) : 0;
    };
    const uint64_t later = size_of(*to), both = later + size_of(*from);
    const auto wait = limits_.CountRequest(device, static_cast<double>(both / kPatchedBytesOfARequest));
    if (!wait) flight = limits_.BeginFlight(device, later);
    if (!flight) {
      co_return co_await RefuseLimited(exchange, wait ? "requests" : "bytes_in_flight",
                                       "the device asks for too many patches; come back later",
                                       wait.value_or(kRetryFlight));
    }
    auto work = [&]() -> Status {
      patch = MakePatch(*from, *to);
      return OkStatus();
    };
    const Status made = co_await protocol::RunBlocking(context_.check, work);
    if (!made.ok()) patch = made;
  }
  if (!patch.ok()) {
    Refused refused;
    refused.reason = v1::REFUSAL_REASON_NOT_FOUND;
    refused.message = "there is no patch between these blobs; fetch the blob itself";
    co_return co_await Refuse(exchange, std::move(refused));
  }
  context_.metrics->CountRequest(EndpointOf(exchange.path()), 200);
  auto ignored = co_await exchange.Respond(200, "application/octet-stream", *std::move(patch), {});
}

// Where the weights are that a ledger stands for: a blob like others, which a device may fetch in place of a long
// replay.
Awaitable<void> DeviceApi::GetWeights(Exchange& exchange, std::string_view hex) {
  const auto ledger = Sha256Digest::FromHex(hex);
  const auto weights = ledger.ok() ? context_.driver->WeightsOf(*ledger) : std::nullopt;
  if (!weights) {
    Refused refused;
    refused.reason = v1::REFUSAL_REASON_NOT_FOUND;
    refused.message = "the weights of this ledger are not kept here; replay it";
    co_return co_await Refuse(exchange, std::move(refused));
  }
  const v1::BlobRef ref = protocol::MakeBlobRef(weights->digest, weights->bytes, zo::kLedgerWeightsFile);
  co_await Answer(exchange, 200, ref.SerializeAsString());
}

Awaitable<void> DeviceApi::GetBlob(Exchange& exchange, std::string_view hex) {
  Refused refused;
  refused.reason = v1::REFUSAL_REASON_NOT_FOUND;
  refused.message = "there is no such blob for devices here";
  auto digest = Sha256Digest::FromHex(hex);
  if (!digest.ok() || !context_.driver->IsPublished(*digest)) co_return co_await Refuse(exchange, std::move(refused));
  Result<uint64_t> size = context_.blobs->Size(*digest);
  if (!size.ok()) co_return co_await Refuse(exchange, std::move(refused));

  const std::string etag = "\"" + digest->ToHex() + "\"";
  protocol::Headers headers = {
      {"ETag", etag}, {"Accept-Ranges", "bytes"}, {"Cache-Control", "private, max-age=31536000, immutable"}};
  std::string type = "application/octet-stream";
  if (exchange.Header("If-None-Match") == std::string_view(etag)) {
    context_.metrics->CountRequest(EndpointOf(exchange.path()), 304);
    auto ignored = co_await exchange.Respond(304, std::move(type), "", std::move(headers));
    co_return;
  }
  std::optional<std::string_view> wanted = exchange.Header("Range");
  if (auto condition = exchange.Header("If-Range"); condition && *condition != etag) wanted.reset();
  auto range = protocol::ParseRange(wanted, *size);
  if (!range.ok()) {
    headers.emplace_back("Content-Range", "bytes */" + std::to_string(*size));
    CountRefused(exchange, v1::REFUSAL_REASON_MALFORMED, range.status().message());
    context_.metrics->CountRequest(EndpointOf(exchange.path()), 416);
    const v1::Refusal message = protocol::MakeRefusal(v1::REFUSAL_REASON_MALFORMED, range.status().message());
    type = std::string(protocol::kProtobufContentType);
    std::string body = protocol::SerializeRefusal(message);
    auto ignored = co_await exchange.Respond(416, std::move(type), std::move(body), std::move(headers));
    co_return;
  }
  uint64_t offset = 0, length = *size;
  unsigned status = 200;
  if (range->has_value()) {
    offset = (*range)->offset;
    length = (*range)->length;
    status = 206;
    headers.emplace_back("Content-Range", "bytes " + std::to_string(offset) + "-" +
                                              std::to_string(offset + length - 1) + "/" + std::to_string(*size));
  }
  context_.metrics->CountRequest(EndpointOf(exchange.path()), status);
  const Status sent = co_await exchange.RespondFile(status, std::move(type), context_.blobs->Path(*digest), offset,
                                                    length, std::move(headers));
  HEDDLE_FAILPOINT(kBlobAnswered);
  // Before the first byte: out of descriptors, say.
  if (sent.code() == Code::kResourceExhausted) co_await RefuseStatus(exchange, sent);
}

}  // namespace heddle::coordinator
