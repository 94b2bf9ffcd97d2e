// The report endpoint of DeviceApi: looks at the update, then asks the run.
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <memory>
#include <utility>

#include "common/safetensors.h"
#include "common/test_hooks.h"
#include "coordinator/service/device_api.h"
#include "coordinator/service/pending_answer.h"
#include "protocol/transport/blocking.h"
#include "protocol/validate.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::coordinator {
namespace {

namespace asio = boost::asio;
using protocol::Awaitable;

constexpr std::string_view kUpdateName = "update.safetensors";  // of an update that came without one

std::string_view VerdictName(v1::ReportVerdict verdict) {
  switch (verdict) {
    case v1::REPORT_VERDICT_ACCEPTED:
      return "accepted";
    case v1::REPORT_VERDICT_LATE:
      return "late";
    case v1::REPORT_VERDICT_INVALID:
      return "invalid";
    case v1::REPORT_VERDICT_SUPERSEDED:
      return "superseded";
    default:
      return "noted";
  }
}

ReportMetrics MetricsOf(const v1::TaskMetrics& metrics) {
  return {.num_examples = metrics.num_examples(),
          .num_tokens = metrics.num_tokens(),
          .steps = metrics.steps(),
          .train_loss = metrics.train_loss(),
          .first_loss = metrics.first_loss(),
          .last_loss = metrics.last_loss(),
          .train_seconds = metrics.train_seconds(),
          .peak_memory_bytes = metrics.peak_memory_bytes()};
}

}  // namespace

Result<StateDict> DeviceApi::OpenUpdate(const RunDriver::Expectation& expected, const v1::ReportRequest& request,
                                        const InlineContent& content, ReportEvent* event) {
  const auto read = [&](std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
    return expected.reader->Read(bytes, std::move(owner), event->device, expected.view);
  };
  if (content) return read(std::as_bytes(std::span(*content)), content);
  HEDDLE_ASSIGN_OR_RETURN(const auto uploaded, context_.store->FindUpload(event->assignment));
  const bool sent = uploaded && *uploaded == event->update;
  if (!sent && !HEDDLE_PLANTED(kIgnoreUploader)) return NotFound("");
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t size, context_.blobs->Size(event->update));
  if (size != request.update().size_bytes()) {
    return InvalidArgument("the update has " + std::to_string(size) + " bytes, the report says " +
                           std::to_string(request.update().size_bytes()));
  }
  HEDDLE_ASSIGN_OR_RETURN(const auto mapped, context_.blobs->Map(event->update));
  return read(mapped->bytes(), mapped);
}

// Looks at an open assignment's update; `event` gets what is wrong with it. Errors: the update is not here.
Awaitable<Status> DeviceApi::CheckUpdate(const v1::ReportRequest& request, InlineContent content, ReportEvent* event,
                                         bool* looked_at, UpdatesInUse::Hold* hold) {
  auto work = [&]() -> Status {
    const auto expected = context_.driver->ExpectationOf(event->assignment, event->device);
    if (!expected) return OkStatus();
    *looked_at = true;
    const auto invalid = [event](v1::RefusalReason reason, const std::string& message) {
      event->validity = InvalidArgument(message);
      event->refusal_reason = reason;
      return OkStatus();
    };
    // A device may have been told before a restart what cannot be read now.
    if (!expected->start) return Unavailable("what the task starts from cannot be read now");
    if (!request.parent_sha256().empty() && request.parent_sha256() != expected->start->raw()) {
      return invalid(
          v1::REFUSAL_REASON_WRONG_BASE,
          "the update was trained from another adapter than the task's, which is " + expected->start->ToHex());
    }
    const ByteBudget::Hold budget(validation_,
                                  request.update().size_bytes() + expected->reader->ExtraBytes(expected->view.rank));
    if (!content) *hold = in_use_.Take(event->update);
    const Result<StateDict> update = OpenUpdate(*expected, request, content, event);
    if (update.status().code() == Code::kInvalidArgument || update.status().code() == Code::kDataLoss) {
      return invalid(v1::REFUSAL_REASON_BAD_UPDATE, update.status().message());
    }
    if (update.status().code() == Code::kOutOfRange) {  // of an encoded one, a number or a scale
      return invalid(v1::REFUSAL_REASON_NOT_FINITE, update.status().message());
    }
    HEDDLE_RETURN_IF_ERROR(update.status());
    const auto validity =
        expected->validator->Validate(*update, UpdateInfoOf(expected->view, event->device, event->metrics));
    if (!validity.ok()) return invalid(static_cast<v1::RefusalReason>(validity.refusal), validity.message);
    return OkStatus();
  };
  co_return co_await protocol::RunBlocking(context_.check, work);
}

Awaitable<void> DeviceApi::Report(Exchange& exchange, DeviceId device) {
  Result<std::string> body = co_await exchange.ReadAll(protocol::kMaxMessageBytes);
  if (!body.ok()) co_return co_await RefuseBody(exchange, body.status());
  auto request = protocol::ParseMessage<v1::ReportRequest>(*body);
  Refused refused;
  if (!request.ok()) {
    refused.reason = v1::REFUSAL_REASON_MALFORMED;
    refused.message = request.status().message();
    co_return co_await Refuse(exchange, std::move(refused));
  }
  bool looked_at = false;
  InlineContent content;
  UpdatesInUse::Hold hold;
  ReportEvent event;
  event.assignment = AssignmentId(request->assignment_id());
  event.device = std::move(device);
  event.completed = request->outcome() == v1::TASK_OUTCOME_COMPLETED;
  event.metrics = MetricsOf(request->metrics());
  event.message = request->message();
  if (event.completed) {
    if (!request->scalars().empty()) request->set_inline_update(zo::UpdateOfScalars(request->scalars()));
    if (!request->has_update()) {
      const std::string& update = request->inline_update();
      *request->mutable_update() = protocol::MakeBlobRef(Sha256(update), update.size(), kUpdateName);
    }
    event.update = protocol::DigestOf(request->update()).value();  // validated with the message
    event.update_bytes = request->update().size_bytes();
    if (!request->inline_update().empty()) {
      content = std::make_shared<const std::string>(std::move(*request->mutable_inline_update()));
      if (Sha256(*content) != event.update) {
        refused.reason = v1::REFUSAL_REASON_DIGEST_MISMATCH;
        refused.message = "inline_update has not the SHA-256 that update names";
        co_return co_await Refuse(exchange, std::move(refused));
      }
    }
    Status checked = co_await CheckUpdate(*request, content, &event, &looked_at, &hold);
    if (checked.code() == Code::kNotFound) {
      refused.reason = v1::REFUSAL_REASON_NOT_FOUND;
      refused.message = "the update " + event.update.ToHex() + " has not been uploaded; upload it, then report";
      co_return co_await Refuse(exchange, std::move(refused));
    }
    if (!checked.ok()) co_return co_await RefuseStatus(exchange, checked);
    context_.metrics->ObserveUpdateBytes(event.update_bytes);
  }
  auto pending = std::make_shared<Pending>(co_await asio::this_coro::executor);
  // Until the verdict, also when the device does not wait for it.
  AnswerCallback answer = [held = std::make_shared<UpdatesInUse::Hold>(std::move(hold)),
                           callback = Pending::Callback(pending)](coordinator::Answer verdict) {
    callback(std::move(verdict));
    *held = {};
  };
  context_.driver->Report(std::move(event), looked_at, std::move(content), std::move(answer));
  while (!pending->answer) {  // the driver always answers
    boost::system::error_code ignored;
    co_await pending->timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  if (const auto* status = std::get_if<Status>(&*pending->answer)) {
    if (status->code() == Code::kUnavailable) co_return co_await RefuseStatus(exchange, *status);
    refused.reason =
        status->code() == Code::kPermissionDenied ? v1::REFUSAL_REASON_NOT_YOURS : v1::REFUSAL_REASON_NOT_FOUND;
    refused.message = status->message();
    co_return co_await Refuse(exchange, std::move(refused));
  }
  const auto& response = std::get<v1::ReportResponse>(*pending->answer);
  context_.metrics->CountUpdate(VerdictName(response.verdict()));
  if (looked_at && response.verdict() == v1::REPORT_VERDICT_ACCEPTED) {  // not when it is told again
    context_.metrics->CountZerothOrder(request->metrics().skipped_directions(), request->metrics().loss_stalled());
    context_.metrics->CountPseudoLabels(request->metrics().pseudo_labels());
  }
  if (response.has_refusal()) CountRefused(exchange, response.refusal().reason(), response.refusal().message());
  HEDDLE_FAILPOINT(kVerdictUnsent);
  co_await Answer(exchange, 200, response.SerializeAsString());
  HEDDLE_FAILPOINT(kVerdictAnswered);
}

}  // namespace heddle::coordinator
