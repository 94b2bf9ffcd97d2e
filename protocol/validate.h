// Checks of every message of the protocol against limits.h, and conversions between messages and Heddle's own types.
//
// Whoever receives a message parses it with ParseMessage, which refuses what is too large, malformed or out of bounds,
// and needs no further checks of single fields. Unknown fields and unknown values of enumerations in *answers* pass (a
// newer peer may send them); unknown values in *requests* are refused.
//
// Thread-safety: pure functions.
#pragma once

#include <google/protobuf/message_lite.h>

#include <string>
#include <string_view>

#include "common/digest.h"
#include "common/status.h"
#include "protocol/limits.h"
#include "protocol/v1/device.pb.h"
#include "protocol/v1/task.pb.h"
#include "protocol/v1/worker.pb.h"

namespace heddle::protocol {

// kInvalidArgument: a field is missing, malformed or out of its range. The message names the field by its path
// ("plan.train.beta1") and says what is allowed.
Status Validate(const v1::BlobRef& message);
Status Validate(const v1::DeviceRules& message);
Status Validate(const v1::ZerothOrder& message);
Status Validate(const v1::SharedSeeds& message);
Status Validate(const v1::PseudoLabels& message);
Status Validate(const v1::PromptTemplate& message);
Status Validate(const v1::TrainPlan& message);
Status Validate(const v1::TaskPlan& message);
Status Validate(const v1::TaskAssignment& message);
Status Validate(const v1::TaskMetrics& message);
Status Validate(const v1::Refusal& message);
Status Validate(const v1::EnrollRequest& message);
Status Validate(const v1::EnrollResponse& message);
// kFailedPrecondition: another protocol version (answer it with REFUSAL_REASON_UNSUPPORTED_VERSION).
Status Validate(const v1::CheckinRequest& message);
Status Validate(const v1::Rejection& message);
Status Validate(const v1::CheckinResponse& message);
Status Validate(const v1::ReportRequest& message);
Status Validate(const v1::ReportResponse& message);
Status Validate(const v1::WorkerCommand& message);
Status Validate(const v1::DataFields& message);
Status Validate(const v1::WorkerRun& message);
Status Validate(const v1::WorkerCancel& message);
Status Validate(const v1::WorkerEvent& message);
Status Validate(const v1::WorkerReady& message);
Status Validate(const v1::WorkerProgress& message);
Status Validate(const v1::WorkerDone& message);

// The bytes as a message, not yet validated. Errors: kResourceExhausted beyond kMaxMessageBytes, kInvalidArgument.
Status ParseBounded(std::string_view bytes, google::protobuf::MessageLite* message);

// Parse and Validate in one.
template <typename Message>
Result<Message> ParseMessage(std::string_view bytes) {
  Message message;
  HEDDLE_RETURN_IF_ERROR(ParseBounded(bytes, &message));
  HEDDLE_RETURN_IF_ERROR(Validate(message));
  return message;
}

// One path component, [A-Za-z0-9._-]{1,128}, not starting with a dot.
bool IsValidBlobName(std::string_view name);
// 32 lower-case hex digits.
bool IsValidAssignmentId(std::string_view id);

// `text` as it may go into a string field: bytes that are not UTF-8 become '?', and it is cut to `max_bytes` between
// characters. A message with a broken string is refused as a whole by its receiver, so clean what comes from elsewhere
// (file names, errors of libraries) first.
std::string CleanText(std::string_view text, size_t max_bytes);

v1::BlobRef MakeBlobRef(const Sha256Digest& digest, uint64_t size_bytes, std::string_view name);
// The digest of a validated reference. Errors: kInvalidArgument when it has not 32 bytes.
Result<Sha256Digest> DigestOf(const v1::BlobRef& ref);

}  // namespace heddle::protocol
