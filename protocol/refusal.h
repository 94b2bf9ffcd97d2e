// Refusals: which HTTP status and which canonical code go with each reason, and the body that carries it.
//
// Thread-safety: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/status.h"
#include "protocol/v1/device.pb.h"

namespace heddle::protocol {

// The HTTP status of a refusal; 500 for reasons this version does not know.
unsigned HttpStatusOf(v1::RefusalReason reason);

// What a device makes of a refusal: a Status whose message is the refusal's.
Code CodeOf(v1::RefusalReason reason);
Status StatusOf(const v1::Refusal& refusal);

// The reason that fits a failed Status of our own, for errors without a more special reason: kInvalidArgument ->
// MALFORMED, kResourceExhausted -> OVERLOADED, kUnavailable -> UNAVAILABLE, … and INTERNAL for the rest.
v1::RefusalReason ReasonOf(const Status& status);

// The best guess for an answer without a Refusal in its body (a proxy's, say).
v1::RefusalReason ReasonOfHttpStatus(unsigned http_status);

// The message is cleaned and cut to its limit (CleanText); retry_after is rounded up to milliseconds and bounded.
v1::Refusal MakeRefusal(v1::RefusalReason reason, std::string_view message, Duration retry_after = Duration(0));

// A check-in's answer that has no work; retry_after as above.
v1::CheckinResponse MakeRejection(v1::RejectionReason reason, Duration retry_after);

// The refusal, serialised; and the value of Retry-After in whole seconds, rounded up; empty when there is none.
std::string SerializeRefusal(const v1::Refusal& refusal);
std::string RetryAfterValue(const v1::Refusal& refusal);

// "NOT_FINITE": the reason's name without its prefix, for logs and metric labels; "UNKNOWN" for unknown values.
std::string_view ReasonName(v1::RefusalReason reason);

inline constexpr std::string_view kProtobufContentType = "application/x-protobuf";

}  // namespace heddle::protocol
