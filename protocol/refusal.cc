#include "protocol/refusal.h"

#include <algorithm>

#include "protocol/limits.h"
#include "protocol/validate.h"

namespace heddle::protocol {
namespace {

struct ReasonRow {
  v1::RefusalReason reason;
  unsigned http_status;
  Code code;
  std::string_view name;
};

// docs/protocol.md has the same table for readers.
constexpr ReasonRow kReasons[] = {
    {v1::REFUSAL_REASON_MALFORMED, 400, Code::kInvalidArgument, "MALFORMED"},
    {v1::REFUSAL_REASON_TOO_LARGE, 413, Code::kResourceExhausted, "TOO_LARGE"},
    {v1::REFUSAL_REASON_UNAUTHENTICATED, 401, Code::kUnauthenticated, "UNAUTHENTICATED"},
    {v1::REFUSAL_REASON_BAD_TOKEN, 403, Code::kPermissionDenied, "BAD_TOKEN"},
    {v1::REFUSAL_REASON_REVOKED, 403, Code::kPermissionDenied, "REVOKED"},
    {v1::REFUSAL_REASON_NOT_YOURS, 403, Code::kPermissionDenied, "NOT_YOURS"},
    {v1::REFUSAL_REASON_NOT_FOUND, 404, Code::kNotFound, "NOT_FOUND"},
    {v1::REFUSAL_REASON_WRONG_OFFSET, 409, Code::kFailedPrecondition, "WRONG_OFFSET"},
    {v1::REFUSAL_REASON_DIGEST_MISMATCH, 422, Code::kDataLoss, "DIGEST_MISMATCH"},
    {v1::REFUSAL_REASON_BAD_UPDATE, 422, Code::kInvalidArgument, "BAD_UPDATE"},
    {v1::REFUSAL_REASON_NOT_FINITE, 422, Code::kInvalidArgument, "NOT_FINITE"},
    {v1::REFUSAL_REASON_OUT_OF_BOUNDS, 422, Code::kOutOfRange, "OUT_OF_BOUNDS"},
    {v1::REFUSAL_REASON_BAD_NUM_EXAMPLES, 422, Code::kInvalidArgument, "BAD_NUM_EXAMPLES"},
    {v1::REFUSAL_REASON_OVERLOADED, 503, Code::kResourceExhausted, "OVERLOADED"},
    {v1::REFUSAL_REASON_UNAVAILABLE, 503, Code::kUnavailable, "UNAVAILABLE"},
    {v1::REFUSAL_REASON_UNSUPPORTED_VERSION, 400, Code::kFailedPrecondition, "UNSUPPORTED_VERSION"},
    {v1::REFUSAL_REASON_INTERNAL, 500, Code::kInternal, "INTERNAL"},
    {v1::REFUSAL_REASON_UNSUPPORTED, 405, Code::kUnimplemented, "UNSUPPORTED"},
    {v1::REFUSAL_REASON_RATE_LIMITED, 429, Code::kResourceExhausted, "RATE_LIMITED"},
    {v1::REFUSAL_REASON_WRONG_TENSORS, 422, Code::kInvalidArgument, "WRONG_TENSORS"},
    {v1::REFUSAL_REASON_WRONG_SHAPE, 422, Code::kInvalidArgument, "WRONG_SHAPE"},
    {v1::REFUSAL_REASON_WRONG_DTYPE, 422, Code::kInvalidArgument, "WRONG_DTYPE"},
    {v1::REFUSAL_REASON_WRONG_RANK, 422, Code::kInvalidArgument, "WRONG_RANK"},
    {v1::REFUSAL_REASON_NORM_TOO_LARGE, 422, Code::kOutOfRange, "NORM_TOO_LARGE"},
    {v1::REFUSAL_REASON_WRONG_BASE, 422, Code::kFailedPrecondition, "WRONG_BASE"},
    {v1::REFUSAL_REASON_WRONG_STATE, 422, Code::kFailedPrecondition, "WRONG_STATE"},
};

const ReasonRow* FindReason(v1::RefusalReason reason) {
  for (const ReasonRow& row : kReasons) {
    if (row.reason == reason) return &row;
  }
  return nullptr;
}

// Rounded up; none for times that have passed.
uint32_t BoundedMilliseconds(Duration time) {
  const int64_t us = std::max<int64_t>(time.count(), 0);
  const int64_t ms = us / 1000 + (us % 1000 != 0 ? 1 : 0);
  return static_cast<uint32_t>(std::min<int64_t>(ms, kMaxRetryAfterMs));
}

}  // namespace

unsigned HttpStatusOf(v1::RefusalReason reason) {
  const ReasonRow* row = FindReason(reason);
  return row ? row->http_status : 500;
}

Code CodeOf(v1::RefusalReason reason) {
  const ReasonRow* row = FindReason(reason);
  return row ? row->code : Code::kUnknown;
}

std::string_view ReasonName(v1::RefusalReason reason) {
  const ReasonRow* row = FindReason(reason);
  return row ? row->name : "UNKNOWN";
}

Status StatusOf(const v1::Refusal& refusal) {
  std::string message(ReasonName(refusal.reason()));
  if (!refusal.message().empty()) message += ": " + refusal.message();
  return {CodeOf(refusal.reason()), std::move(message)};
}

v1::RefusalReason ReasonOf(const Status& status) {
  switch (status.code()) {
    case Code::kInvalidArgument:
    case Code::kOutOfRange:
      return v1::REFUSAL_REASON_MALFORMED;
    case Code::kNotFound:
      return v1::REFUSAL_REASON_NOT_FOUND;
    case Code::kPermissionDenied:
      return v1::REFUSAL_REASON_NOT_YOURS;
    case Code::kUnauthenticated:
      return v1::REFUSAL_REASON_UNAUTHENTICATED;
    case Code::kResourceExhausted:
      return v1::REFUSAL_REASON_OVERLOADED;
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
    case Code::kCancelled:
    case Code::kAborted:
      return v1::REFUSAL_REASON_UNAVAILABLE;
    case Code::kDataLoss:
      return v1::REFUSAL_REASON_DIGEST_MISMATCH;
    case Code::kUnimplemented:
      return v1::REFUSAL_REASON_UNSUPPORTED;
    default:
      return v1::REFUSAL_REASON_INTERNAL;
  }
}

v1::RefusalReason ReasonOfHttpStatus(unsigned http_status) {
  switch (http_status) {
    case 401:
      return v1::REFUSAL_REASON_UNAUTHENTICATED;
    case 403:
      return v1::REFUSAL_REASON_NOT_YOURS;
    case 404:
    case 410:
      return v1::REFUSAL_REASON_NOT_FOUND;
    case 405:
    case 415:
      return v1::REFUSAL_REASON_UNSUPPORTED;
    case 409:
      return v1::REFUSAL_REASON_WRONG_OFFSET;
    case 413:
    case 414:
    case 431:
      return v1::REFUSAL_REASON_TOO_LARGE;
    case 422:
      return v1::REFUSAL_REASON_BAD_UPDATE;
    case 429:
      return v1::REFUSAL_REASON_RATE_LIMITED;
    case 408:
    case 502:
    case 503:
    case 504:
      return v1::REFUSAL_REASON_UNAVAILABLE;
    default:
      return http_status >= 500 ? v1::REFUSAL_REASON_INTERNAL : v1::REFUSAL_REASON_MALFORMED;
  }
}

v1::Refusal MakeRefusal(v1::RefusalReason reason, std::string_view message, Duration retry_after) {
  v1::Refusal refusal;
  refusal.set_reason(reason);
  refusal.set_message(CleanText(message, kMaxRefusalMessageBytes));
  refusal.set_retry_after_ms(BoundedMilliseconds(retry_after));
  return refusal;
}

v1::CheckinResponse MakeRejection(v1::RejectionReason reason, Duration retry_after) {
  v1::CheckinResponse response;
  response.mutable_rejection()->set_reason(reason);
  response.mutable_rejection()->set_retry_after_ms(BoundedMilliseconds(retry_after));
  return response;
}

std::string SerializeRefusal(const v1::Refusal& refusal) { return refusal.SerializeAsString(); }

std::string RetryAfterValue(const v1::Refusal& refusal) {
  if (refusal.retry_after_ms() == 0) return {};
  return std::to_string((uint64_t{refusal.retry_after_ms()} + 999) / 1000);
}

}  // namespace heddle::protocol
