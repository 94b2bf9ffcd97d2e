// The upload endpoints of DeviceApi: begin, ask for the offset, continue.
#include <algorithm>
#include <charconv>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/logging.h"
#include "common/test_hooks.h"
#include "coordinator/service/device_api.h"
#include "protocol/transport/blocking.h"
#include "protocol/validate.h"

namespace heddle::coordinator {
namespace {

using protocol::Awaitable;

// Until an upload that its device has open may have ended.
const Duration kRetryUploads = Seconds(10);

std::optional<uint64_t> ParseNumber(std::optional<std::string_view> text) {
  uint64_t value = 0;
  if (!text || text->empty()) return std::nullopt;
  auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size()) return std::nullopt;
  return value;
}

protocol::Headers OffsetHeaders(const UploadSpec& spec, uint64_t offset, bool finished) {
  protocol::Headers headers = {{"Upload-Offset", std::to_string(offset)},
                               {"Upload-Length", std::to_string(spec.size_bytes)},
                               {"Cache-Control", "no-store"}};
  if (finished) headers.emplace_back("Upload-Complete", "1");
  return headers;
}

protocol::Headers OffsetHeaders(const Upload& upload) {
  return OffsetHeaders(upload.spec(), upload.offset(), upload.finished());
}

}  // namespace

// Streams the body, which goes on at `position`, into the upload and answers. What arrived before a break stays, for
// the device to go on from.
Awaitable<void> DeviceApi::ReceiveInto(Exchange& exchange, Upload& upload, uint64_t position, unsigned status,
                                       protocol::Headers headers) {
  const size_t piece = static_cast<size_t>(std::clamp<uint64_t>(
      exchange.content_length().value_or(protocol::kServerIoBufferBytes), 1, protocol::kServerIoBufferBytes));
  const auto storage = std::make_unique_for_overwrite<std::byte[]>(piece);
  const std::span<std::byte> buffer(storage.get(), piece);
  // `position` is this body's own place in the file: a device that came back over another connection may be writing to
  // the same upload, and the bytes of two bodies must not stand one behind the other.
  for (;;) {
    Result<size_t> got = co_await exchange.ReadBody(buffer);
    if (!got.ok()) co_return;  // the connection broke: nobody hears an answer
    if (*got == 0) break;
    if (HEDDLE_PLANTED(kMixBodies)) position = upload.offset();
    Status appended = upload.Append(position, buffer.first(*got));
    if (appended.ok()) position += *got;
    if (appended.code() == Code::kOutOfRange && upload.offset() != position) {
      Refused refused;
      refused.reason = v1::REFUSAL_REASON_WRONG_OFFSET;
      refused.message =
          "another request has continued this upload meanwhile; it goes on at byte " + std::to_string(upload.offset());
      refused.headers = std::move(headers);
      for (auto& header : OffsetHeaders(upload)) refused.headers.push_back(std::move(header));
      co_return co_await Refuse(exchange, std::move(refused));
    }
    if (appended.code() == Code::kOutOfRange) {
      Refused refused;
      refused.reason = v1::REFUSAL_REASON_TOO_LARGE;
      refused.message =
          "the body goes beyond the declared Upload-Length of " + std::to_string(upload.spec().size_bytes) + " bytes";
      refused.headers = OffsetHeaders(upload);
      co_return co_await Refuse(exchange, std::move(refused));
    }
    if (!appended.ok()) co_return co_await RefuseStatus(exchange, appended);
  }
  if (upload.offset() == upload.spec().size_bytes) {
    auto finish = [&]() -> Status {
      // Until a row names it, nobody else may find that none does.
      UpdatesInUse::Hold hold = in_use_.Take(upload.spec().digest);
      HEDDLE_RETURN_IF_ERROR(upload.Finish());
      // Finished by an earlier request, and replaced by another upload since.
      if (!context_.blobs->Has(upload.spec().digest)) return NotFound("what was uploaded is gone; begin it again");
      HEDDLE_ASSIGN_OR_RETURN(const RecordedUpload recorded,
                              context_.store->RecordUpload(upload.spec().assignment, upload.spec().digest,
                                                           upload.spec().size_bytes, context_.clock->Now()));
      HEDDLE_FAILPOINT(kUploadRecorded);
      // A device that sends one update after the other, for one task or for many, keeps one on the disk. What it sent
      // may be a file of the run, which stays.
      hold = {};
      in_use_.DeleteUnneeded(recorded.unneeded);
      return OkStatus();
    };
    Status finished = co_await protocol::RunBlocking(context_.disk, finish);
    if (finished.code() == Code::kDataLoss) {
      Refused refused;
      refused.reason = v1::REFUSAL_REASON_DIGEST_MISMATCH;
      refused.message = finished.message();
      co_return co_await Refuse(exchange, std::move(refused));
    }
    if (!finished.ok()) co_return co_await RefuseStatus(exchange, finished);
  }
  for (auto& header : OffsetHeaders(upload)) headers.push_back(std::move(header));
  context_.metrics->CountRequest(exchange.method() == "POST" ? "/v1/uploads" : "/v1/uploads/{id}", status);
  std::string type = "application/octet-stream", empty;
  if (upload.finished()) HEDDLE_FAILPOINT(kUploadUnsent);
  auto ignored = co_await exchange.Respond(status, std::move(type), std::move(empty), std::move(headers));
  if (upload.finished()) HEDDLE_FAILPOINT(kUploadAnswered);
}

Awaitable<void> DeviceApi::BeginUpload(Exchange& exchange, DeviceId device) {
  UploadSpec spec;
  spec.device = std::move(device);
  spec.assignment = AssignmentId(std::string(exchange.Header("Heddle-Assignment").value_or("")));
  auto digest = Sha256Digest::FromHex(exchange.Header("Heddle-Digest").value_or(""));
  auto length = ParseNumber(exchange.Header("Upload-Length"));
  Refused refused;
  if (!protocol::IsValidAssignmentId(spec.assignment.value()) || !digest.ok() || !length || *length == 0) {
    refused.reason = v1::REFUSAL_REASON_MALFORMED;
    refused.message =
        "an upload needs the headers Heddle-Assignment (32 hex digits), Heddle-Digest (64 hex digits) and "
        "Upload-Length (bytes, at least 1)";
    co_return co_await Refuse(exchange, std::move(refused));
  }
  spec.digest = *digest;
  spec.size_bytes = *length;

  uint64_t limit = context_.config->max_upload_bytes;
  if (const uint64_t own = context_.config->max_device_upload_bytes; own > 0) limit = std::min(limit, own);
  const std::optional<RunProgress> progress = context_.driver->Progress();
  std::optional<AssignmentRecord> assignment;
  bool begun_before = false, anothers = false;
  std::unique_ptr<Upload> upload;
  auto begin = [&]() -> Status {
    HEDDLE_ASSIGN_OR_RETURN(assignment, context_.store->FindAssignment(spec.assignment));
    if (!assignment) return NotFound("there is no assignment with this id");
    anothers = assignment->device != spec.device;
    if (anothers) return NotFound("the assignment belongs to another device");
    if (progress && progress->run.id == assignment->run) limit = std::min(limit, progress->max_update_bytes);
    if (spec.size_bytes > limit) return OutOfRange("");
    if (assignment->state != AssignmentState::kOpen) return OkStatus();
    begun_before = context_.blobs->FindUpload(UploadId(spec)).ok();
    HEDDLE_ASSIGN_OR_RETURN(const auto uploaded, context_.store->FindUpload(spec.assignment));
    const bool proven = uploaded == spec.digest;
    auto made = context_.blobs->BeginUpload(spec, proven);
    // Replaced in this moment by what the device sends over another connection.
    if (proven && made.status().code() == Code::kNotFound) made = context_.blobs->BeginUpload(spec, false);
    HEDDLE_ASSIGN_OR_RETURN(upload, std::move(made));
    return OkStatus();
  };
  Status begun = co_await protocol::RunBlocking(context_.disk, begin);
  if (!begun.ok()) {
    if (begun.code() == Code::kNotFound) {
      refused.reason = anothers ? v1::REFUSAL_REASON_NOT_YOURS : v1::REFUSAL_REASON_NOT_FOUND;
      refused.message = begun.message();
    } else if (begun.code() == Code::kOutOfRange) {
      refused.reason = v1::REFUSAL_REASON_TOO_LARGE;
      refused.message = "the upload has " + std::to_string(spec.size_bytes) + " bytes; at most " +
                        std::to_string(limit) + " are taken";
    } else if (begun.code() == Code::kInvalidArgument) {
      refused.reason = v1::REFUSAL_REASON_MALFORMED;
      refused.message = begun.message();
    } else if (begun.code() == Code::kFailedPrecondition) {
      co_return co_await RefuseLimited(exchange, "unfinished_uploads", begun.message(), kRetryUploads);
    } else {
      co_return co_await RefuseStatus(exchange, begun);
    }
    co_return co_await Refuse(exchange, std::move(refused));
  }
  if (upload == nullptr) {  // nobody needs it any more; the report will hear what became of the task
    context_.metrics->CountRequest("/v1/uploads", 200);
    std::string type = "application/octet-stream", empty;
    auto ignored = co_await exchange.Respond(200, std::move(type), std::move(empty),
                                             OffsetHeaders(spec, spec.size_bytes, /*finished=*/true));
    co_return;
  }
  protocol::Headers headers = {{"Location", "/v1/uploads/" + upload->id()}};
  const unsigned status = begun_before ? 200 : 201;
  // A body is the beginning of the file: of use only where nothing is there yet.
  if (upload->offset() == 0 && exchange.content_length().value_or(0) > 0) {
    co_return co_await ReceiveInto(exchange, *upload, /*position=*/0, status, std::move(headers));
  }
  for (auto& header : OffsetHeaders(*upload)) headers.push_back(std::move(header));
  context_.metrics->CountRequest("/v1/uploads", status);
  std::string type = "application/octet-stream", empty;
  auto ignored = co_await exchange.Respond(status, std::move(type), std::move(empty), std::move(headers));
}

std::unique_ptr<Upload> DeviceApi::FindOwnUpload(const DeviceId& device, const std::string& id, Refused* refused) {
  Result<std::unique_ptr<Upload>> upload = context_.blobs->FindUpload(id);
  if (!upload.ok()) {
    refused->reason = v1::REFUSAL_REASON_NOT_FOUND;
    refused->message = "there is no such upload (any more); begin it again";
    return nullptr;
  }
  if ((*upload)->spec().device != device) {
    refused->reason = v1::REFUSAL_REASON_NOT_YOURS;
    refused->message = "the upload belongs to another device";
    return nullptr;
  }
  return *std::move(upload);
}

Awaitable<void> DeviceApi::UploadOffset(Exchange& exchange, DeviceId device, std::string id) {
  Refused refused;
  const std::unique_ptr<Upload> upload = FindOwnUpload(device, id, &refused);
  if (upload == nullptr) co_return co_await Refuse(exchange, std::move(refused));
  context_.metrics->CountRequest("/v1/uploads/{id}", 200);
  std::string type = "application/octet-stream", empty;
  protocol::Headers headers = OffsetHeaders(*upload);
  auto ignored = co_await exchange.Respond(200, std::move(type), std::move(empty), std::move(headers));
}

Awaitable<void> DeviceApi::ContinueUpload(Exchange& exchange, DeviceId device, std::string id) {
  Refused refused;
  const std::unique_ptr<Upload> upload = FindOwnUpload(device, id, &refused);
  if (upload == nullptr) co_return co_await Refuse(exchange, std::move(refused));
  auto offset = ParseNumber(exchange.Header("Upload-Offset"));
  if (!offset || *offset != upload->offset()) {
    refused.reason = offset ? v1::REFUSAL_REASON_WRONG_OFFSET : v1::REFUSAL_REASON_MALFORMED;
    refused.message = "the upload goes on at byte " + std::to_string(upload->offset()) + "; say so in Upload-Offset";
    refused.headers = OffsetHeaders(*upload);
    co_return co_await Refuse(exchange, std::move(refused));
  }
  protocol::Headers headers;
  co_await ReceiveInto(exchange, *upload, *offset, 204, std::move(headers));
}

}  // namespace heddle::coordinator
