// Validation of device.proto and worker.proto.
#include "protocol/validate.h"

#include <google/protobuf/stubs/logging.h>

#include <algorithm>

#include "protocol/validate_internal.h"

namespace heddle::protocol {

using internal::Bad;
using internal::CheckBytes;
using internal::CheckName;
using internal::CheckRange;

namespace {

template <typename Names>
Status ValidateLocalTasks(const Names& names, int at_least) {
  if (names.size() < at_least || static_cast<size_t>(names.size()) > kMaxLocalTasks)
    return Bad("local_tasks", "has " + std::to_string(names.size()) + " names but must have " +
                                  std::to_string(at_least) + " to " + std::to_string(kMaxLocalTasks));
  for (const std::string& name : names) HEDDLE_RETURN_IF_ERROR(CheckName("local_tasks", name, 1, kMaxNameBytes));
  return OkStatus();
}

// Bytes of the UTF-8 character at the beginning of `text`; 0 when there is none that is valid (RFC 3629).
size_t Utf8Length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xC2 && first <= 0xDF   ? 2
                        : first >= 0xE0 && first <= 0xEF ? 3
                        : first >= 0xF0 && first <= 0xF4 ? 4
                                                         : 0;
  if (length == 0 || length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, beyond U+10FFFF.
  if ((first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) > 0x9F) || (first == 0xF0 && byte(1) < 0x90) ||
      (first == 0xF4 && byte(1) > 0x8F))
    return 0;
  return length;
}

// Protobuf writes a line to stderr for each broken string that a peer sends; our own log says what is refused.
void SilenceProtobuf() { [[maybe_unused]] static const bool once = (google::protobuf::SetLogHandler(nullptr), true); }

}  // namespace

std::string CleanText(std::string_view text, size_t max_bytes) {
  std::string clean;
  clean.reserve(std::min(text.size(), max_bytes));
  while (!text.empty()) {
    const size_t length = Utf8Length(text);
    if (clean.size() + std::max<size_t>(length, 1) > max_bytes) break;
    clean += length > 0 ? text.substr(0, length) : std::string_view("?");
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return clean;
}

Status ParseBounded(std::string_view bytes, google::protobuf::MessageLite* message) {
  if (bytes.size() > kMaxMessageBytes)
    return ResourceExhausted("the message has " + std::to_string(bytes.size()) + " bytes, more than the limit of " +
                             std::to_string(kMaxMessageBytes));
  SilenceProtobuf();
  if (!message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return InvalidArgument("the body is not a " + message->GetTypeName() + " message");
  return OkStatus();
}

Status Validate(const v1::Refusal& m) {
  HEDDLE_RETURN_IF_ERROR(CheckBytes("message", m.message(), 0, kMaxRefusalMessageBytes));
  return CheckRange("retry_after_ms", m.retry_after_ms(), 0, kMaxRetryAfterMs);
}

Status Validate(const v1::EnrollRequest& m) {
  HEDDLE_RETURN_IF_ERROR(CheckName("token", m.token(), 1, kMaxTokenBytes));
  return CheckBytes("csr_der", m.csr_der(), 1, kMaxCsrBytes);
}

Status Validate(const v1::EnrollResponse& m) {
  HEDDLE_RETURN_IF_ERROR(CheckBytes("certificate_pem", m.certificate_pem(), 1, kMaxCertificateBytes));
  HEDDLE_RETURN_IF_ERROR(CheckBytes("ca_certificate_pem", m.ca_certificate_pem(), 1, kMaxCertificateBytes));
  return CheckName("device_id", m.device_id(), 1, kMaxNameBytes);
}

Status Validate(const v1::CheckinRequest& m) {
  if (m.protocol_version() != kProtocolVersion)
    return FailedPrecondition("the device speaks protocol version " + std::to_string(m.protocol_version()) +
                              " but this coordinator speaks version " + std::to_string(kProtocolVersion) +
                              "; install a client of the same major version");
  HEDDLE_RETURN_IF_ERROR(CheckName("software_version", m.software_version(), 0, kMaxNameBytes));
  if (!m.ledger_sha256().empty() && m.ledger_sha256().size() != Sha256Digest::kSize)
    return Bad("ledger_sha256", "must be 32 bytes or empty");
  return ValidateLocalTasks(m.local_tasks(), 1);
}

Status Validate(const v1::Rejection& m) {
  return CheckRange("rejection.retry_after_ms", m.retry_after_ms(), 0, kMaxRetryAfterMs);
}

Status Validate(const v1::CheckinResponse& m) {
  switch (m.answer_case()) {
    case v1::CheckinResponse::kAssignment:
      // Of the short form there is more to see once it is whole (short_form.h).
      if (m.assignment().lasting_key() == 0) return Validate(m.assignment());
      if (!IsValidAssignmentId(m.assignment().assignment_id()))
        return Bad("assignment_id", "must be 32 lower-case hex digits");
      return CheckBytes("ledger_patch", m.assignment().ledger_patch(), 0, kMaxInlinePatchBytes);
    case v1::CheckinResponse::kRejection:
      return Validate(m.rejection());
    case v1::CheckinResponse::ANSWER_NOT_SET:
      break;
  }
  return Bad("answer", "is missing");
}

Status Validate(const v1::ReportRequest& m) {
  if (!IsValidAssignmentId(m.assignment_id())) return Bad("assignment_id", "must be 32 lower-case hex digits");
  if (m.outcome() < v1::TASK_OUTCOME_COMPLETED || m.outcome() > v1::TASK_OUTCOME_FAILED)
    return Bad("outcome", "must be completed, interrupted or failed");
  const bool completed = m.outcome() == v1::TASK_OUTCOME_COMPLETED;
  const bool here = !m.inline_update().empty() || !m.scalars().empty();
  if (completed && !m.has_update() && !here) return Bad("update", "is missing");
  if (!completed && m.has_update()) return Bad("update", "goes with a completed task only");
  if (m.has_update()) HEDDLE_RETURN_IF_ERROR(Validate(m.update()).Annotate("update"));
  if (completed && !m.has_metrics()) return Bad("metrics", "is missing");
  if (m.has_metrics()) HEDDLE_RETURN_IF_ERROR(Validate(m.metrics()));
  if (here) {
    if (!completed) return Bad("inline_update", "goes with a completed task only");
    HEDDLE_RETURN_IF_ERROR(CheckBytes("inline_update", m.inline_update(), 0, kMaxInlineUpdateBytes));
    HEDDLE_RETURN_IF_ERROR(CheckBytes("scalars", m.scalars(), 0, kMaxInlineUpdateBytes));
    if (!m.scalars().empty() && (!m.inline_update().empty() || m.has_update()))
      return Bad("scalars", "stand for the whole update, so nothing else may");
    if (m.has_update() && m.inline_update().size() != m.update().size_bytes())
      return Bad("inline_update", "has not the number of bytes that update.size_bytes says");
  }
  if (!m.parent_sha256().empty() && m.parent_sha256().size() != Sha256Digest::kSize)
    return Bad("parent_sha256", "must be 32 bytes or empty");
  return CheckBytes("message", m.message(), 0, kMaxReportMessageBytes);
}

Status Validate(const v1::ReportResponse& m) {
  if (m.verdict() == v1::REPORT_VERDICT_UNSPECIFIED) return Bad("verdict", "is missing");
  if (m.verdict() == v1::REPORT_VERDICT_INVALID && !m.has_refusal()) return Bad("refusal", "is missing");
  return m.has_refusal() ? Validate(m.refusal()) : OkStatus();
}

Status Validate(const v1::WorkerCommand& m) {
  switch (m.command_case()) {
    case v1::WorkerCommand::kRun:
      return Validate(m.run());
    case v1::WorkerCommand::kCancel:
      return Validate(m.cancel());
    case v1::WorkerCommand::COMMAND_NOT_SET:
      break;
  }
  return Bad("command", "is missing");
}

Status Validate(const v1::DataFields& m) {
  for (const auto* names : {&m.columns(), &m.text()}) {
    HEDDLE_RETURN_IF_ERROR(CheckRange("data_fields: names", static_cast<uint64_t>(names->size()), 0, kMaxDataFields));
    // A column that nobody reads may have no name.
    for (const std::string& name : *names) {
      HEDDLE_RETURN_IF_ERROR(CheckBytes("data_fields: a name", name, 0, kMaxNameBytes));
    }
  }
  for (const std::string* name : {&m.pair(), &m.label(), &m.prompt(), &m.completion()}) {
    HEDDLE_RETURN_IF_ERROR(CheckBytes("data_fields: a name", *name, 0, kMaxNameBytes));
  }
  return OkStatus();
}

Status Validate(const v1::WorkerRun& m) {
  HEDDLE_RETURN_IF_ERROR(Validate(m.data_fields()));
  HEDDLE_RETURN_IF_ERROR(CheckName("run.local_task", m.local_task(), 1, kMaxNameBytes));
  if (!m.has_train()) return Bad("run.train", "is missing");
  HEDDLE_RETURN_IF_ERROR(Validate(m.train()));
  HEDDLE_RETURN_IF_ERROR(CheckBytes("run.base_model_dir", m.base_model_dir(), 1, kMaxPathBytes));
  HEDDLE_RETURN_IF_ERROR(CheckBytes("run.adapter_dir", m.adapter_dir(), 1, kMaxPathBytes));
  HEDDLE_RETURN_IF_ERROR(CheckBytes("run.data_path", m.data_path(), 1, kMaxPathBytes));
  HEDDLE_RETURN_IF_ERROR(CheckBytes("run.update_path", m.update_path(), 1, kMaxPathBytes));
  HEDDLE_RETURN_IF_ERROR(CheckBytes("run.personal_path", m.personal_path(), 0, kMaxPathBytes));
  return CheckBytes("run.next_personal_path", m.next_personal_path(), 0, kMaxPathBytes);
}

Status Validate(const v1::WorkerCancel&) { return OkStatus(); }

Status Validate(const v1::WorkerEvent& m) {
  switch (m.event_case()) {
    case v1::WorkerEvent::kReady:
      return Validate(m.ready());
    case v1::WorkerEvent::kProgress:
      return Validate(m.progress());
    case v1::WorkerEvent::kDone:
      return Validate(m.done());
    case v1::WorkerEvent::EVENT_NOT_SET:
      break;
  }
  return Bad("event", "is missing");
}

Status Validate(const v1::WorkerReady& m) {
  HEDDLE_RETURN_IF_ERROR(CheckName("software_version", m.software_version(), 0, kMaxNameBytes));
  return ValidateLocalTasks(m.local_tasks(), 0);
}

Status Validate(const v1::WorkerProgress& m) {
  HEDDLE_RETURN_IF_ERROR(CheckRange("progress.total_steps", m.total_steps(), 0, kMaxLocalSteps));
  return CheckRange("progress.step", m.step(), 0, m.total_steps());
}

Status Validate(const v1::WorkerDone& m) {
  if (m.code() < 0 || m.code() > static_cast<int>(Code::kUnauthenticated))
    return Bad("done.code", "is not a canonical code");
  HEDDLE_RETURN_IF_ERROR(CheckBytes("done.message", m.message(), 0, kMaxWorkerErrorBytes));
  if (m.code() == 0 && !m.has_metrics()) return Bad("done.metrics", "is missing");
  return m.has_metrics() ? Validate(m.metrics()) : OkStatus();
}

}  // namespace heddle::protocol
