// Enrolment: a token and a certificate request against a certificate.
#include <mutex>
#include <utility>

#include "common/logging.h"
#include "common/test_hooks.h"
#include "coordinator/service/device_api.h"
#include "protocol/limits.h"
#include "protocol/transport/blocking.h"
#include "protocol/validate.h"

namespace heddle::coordinator {

using protocol::Awaitable;

Status DeviceApi::Redeem(const Sha256Digest& token, const DeviceRecord& record, const std::string& from,
                         std::string* replaced) {
  const auto redeem = [&](AuditEvent&) -> Status {
    std::lock_guard writing(context_.directory->writing());
    HEDDLE_ASSIGN_OR_RETURN(const auto before, context_.store->GetDevice(record.device));
    HEDDLE_RETURN_IF_ERROR(context_.store->RedeemToken(token, record.enrolled_at, record));
    HEDDLE_FAILPOINT(kEnrolmentCommitted);
    context_.directory->Put(record);
    if (before) *replaced = before->serial;
    return OkStatus();
  };
  AuditEvent event;
  event.kind = AuditKind::kDeviceEnrolled;
  event.actor = record.device.value();
  event.from = from;
  event.object = record.device.value();
  event.detail = "certificate " + record.serial;
  return context_.audit != nullptr ? Audited(context_.audit->log(), std::move(event), redeem) : redeem(event);
}

Awaitable<void> DeviceApi::Enroll(Exchange& exchange) {
  Refused refused;
  if (context_.authority == nullptr) {
    refused.reason = v1::REFUSAL_REASON_UNSUPPORTED;
    refused.message = "this coordinator runs without TLS; there is nothing to enrol for";
    co_return co_await Refuse(exchange, std::move(refused));
  }
  const std::string network = exchange.peer().network;
  if (const auto wait = limits_.MayTryToken(network)) {
    co_return co_await RefuseLimited(exchange, "bad_tokens",
                                     "too many bad tokens came from this address; come back later", *wait);
  }
  Result<std::string> body = co_await exchange.ReadAll(protocol::kMaxEnrollMessageBytes);
  if (!body.ok()) co_return co_await RefuseBody(exchange, body.status());
  auto request = protocol::ParseMessage<v1::EnrollRequest>(*body);
  if (!request.ok()) {
    refused.reason = v1::REFUSAL_REASON_MALFORMED;
    refused.message = request.status().message();
    co_return co_await Refuse(exchange, std::move(refused));
  }
  v1::EnrollResponse response;
  std::string replaced;
  auto work = [&]() -> Status {
    const Sha256Digest token = Sha256(request->token());
    const Time now = context_.clock->Now();
    HEDDLE_ASSIGN_OR_RETURN(const DeviceId device, context_.store->CheckToken(token, now));
    const Duration validity = Seconds(context_.config->device_certificate_days * 86400);
    HEDDLE_ASSIGN_OR_RETURN(const auto issued, context_.authority->IssueDevice(request->csr_der(), device, validity));
    DeviceRecord record;
    record.device = device;
    record.serial = issued.serial_hex;
    record.not_after = issued.not_after;
    record.enrolled_at = now;
    HEDDLE_RETURN_IF_ERROR(Redeem(token, record, exchange.peer().address, &replaced));
    response.set_certificate_pem(issued.certificate_pem);
    response.set_ca_certificate_pem(context_.authority->certificate_pem());
    response.set_device_id(device.value());
    return OkStatus();
  };
  Status status = co_await protocol::RunBlocking(context_.disk, work);
  if (!status.ok()) {
    if (status.code() != Code::kUnauthenticated && status.code() != Code::kInvalidArgument) {
      co_return co_await RefuseStatus(exchange, status);
    }
    const bool bad_token = status.code() == Code::kUnauthenticated;
    if (bad_token) limits_.CountBadToken(network);
    refused.reason = bad_token ? v1::REFUSAL_REASON_BAD_TOKEN : v1::REFUSAL_REASON_MALFORMED;
    refused.message = status.message();
    co_return co_await Refuse(exchange, std::move(refused));
  }
  if (!replaced.empty() && context_.close_connections) context_.close_connections(replaced);
  Log(Severity::kInfo, "device enrolled", {{"device", response.device_id()}});
  co_await Answer(exchange, 200, response.SerializeAsString());
  HEDDLE_FAILPOINT(kEnrolmentAnswered);
}

}  // namespace heddle::coordinator
