// What a hostile coordinator answers, at any point of a device's session: the session has at most one operation under
// way, waits for times that are within bounds, and ends once.
//
// The input is a sequence of events: a byte that picks one, then, for an answer, two bytes of length and the answer's
// bytes, which are parsed as the daemon parses them (client/daemon/link.h); between them and the session are the short
// forms, as there: what they make of an assignment is a whole one, or the next check-in is a whole one.
#include "client/daemon/session.h"

#include "client/daemon/link.h"
#include "client/daemon/short_forms.h"
#include "protocol/limits.h"
#include "protocol/validate.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle;
using namespace heddle::client;

namespace {

constexpr Duration kBackoffMax = std::chrono::seconds(300);

CallFailed Broken(Code code, std::string_view what) {
  CallFailed failed;
  failed.status = Status(code, std::string(what));
  return failed;
}

// An answer with another status than 200: two bytes of status, a byte of what Retry-After says, the body.
CallFailed Refused(std::string_view bytes) {
  fuzz::Input input(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  protocol::HttpResponse response;
  response.status = static_cast<unsigned>(input.TakeNumber(2) % 600);
  if (const std::string_view after = input.TakeLine(); !after.empty()) {
    response.headers.emplace_back("Retry-After", std::string(after));
  }
  response.body = std::string(input.rest());
  CallFailed failed = FailureOf(response);
  Require(!failed.status.ok(), "a refusal is never a success");
  Require(
      failed.retry_after >= Duration(0) && failed.retry_after <= std::chrono::milliseconds(protocol::kMaxRetryAfterMs),
      "what the server asks for is at most a day");
  return failed;
}

template <typename Answered, typename Message>
Event AnswerOf(std::string_view bytes) {
  Result<Message> message = protocol::ParseMessage<Message>(bytes);
  if (!message.ok()) return Broken(message.status().code(), "a broken answer");
  Answered event;
  event.response = *std::move(message);
  return event;
}

// What the device says of itself when it checks in.
v1::CheckinRequest CheckinOf(const ShortForms& forms, const std::vector<std::string>& local_tasks, uint64_t memory) {
  std::optional<Sha256Digest> ledger;
  if (forms.WantsLedger()) ledger = Sha256(std::string_view("ledger"));
  v1::CheckinRequest message = forms.Checkin(local_tasks, memory, ledger);
  const Status good = protocol::Validate(message);
  Require(good.ok(), "a check-in is a good message", good.message());
  Require((message.lasting_key() != 0) == forms.on(), "what is kept is named, and nothing else");
  return message;
}

// The answer with the key that the device's check-in named, which a coordinator knows and no mutation would hit.
std::string WithKey(std::string_view bytes, const ShortForms& forms) {
  v1::CheckinResponse response;
  if (!protocol::ParseBounded(bytes, &response).ok() || !response.has_assignment()) return std::string(bytes);
  response.mutable_assignment()->set_lasting_key(CheckinOf(forms, {"lora_sft"}, 0).lasting_key());
  return response.SerializeAsString();
}

Event CheckinAnswer(std::string_view bytes, ShortForms* forms) {
  Result<v1::CheckinResponse> parsed = protocol::ParseMessage<v1::CheckinResponse>(bytes);
  if (!parsed.ok()) return Broken(parsed.status().code(), "a broken answer");
  if (forms->on() && parsed->rejection().reason() == v1::REJECTION_REASON_UNSUPPORTED_TASK) {
    forms->Forget();
    return Broken(Code::kUnavailable, "the daemon asks once more, and here that fails");
  }
  if (parsed->has_assignment()) {
    const v1::TaskAssignment sent = parsed->assignment();
    std::string patch;
    Result<v1::TaskAssignment> whole = forms->Take(sent, &patch);
    if (!whole.ok()) {
      Require(whole.status().code() == Code::kInvalidArgument, "a refusal is an invalid argument");
      Require(!forms->on(), "after which the next check-in is a whole one");
      return Broken(whole.status().code(), "an answer that leaves out too much");
    }
    const Status good = protocol::Validate(*whole);
    Require(good.ok(), "an assignment that is made whole is a good one", good.message());
    Require(whole->lasting_key() == 0 && whole->ledger_patch().empty(), "and a whole one");
    Require(whole->assignment_id() == sent.assignment_id() && whole->round() == sent.round() &&
                whole->attempt() == sent.attempt() && whole->deadline_unix_us() == sent.deadline_unix_us() &&
                whole->plan().seed() == sent.plan().seed(),
            "of the round that was sent, not of the one before");
    Require(patch == sent.ledger_patch(), "what leads to its ledger is given on");
    Require(forms->on() == whole->short_forms(), "something is kept of those who know short forms alone");
    *parsed->mutable_assignment() = *std::move(whole);
  }
  CheckinAnswered event;
  event.response = *std::move(parsed);
  return event;
}

Event Next(fuzz::Input& input, ShortForms* forms) {
  const uint8_t kind = input.TakeByte();
  const auto answer = [&input] {
    const size_t bytes = input.TakeNumber(2);
    return input.TakeBytes(bytes);
  };
  switch (kind % 16) {
    case 0: {
      Started started;
      auto report = protocol::ParseMessage<v1::ReportRequest>(answer());
      if (report.ok()) started.unreported = *std::move(report);
      return started;
    }
    case 1:
      return EligibilityChanged{true, ""};
    case 2:
      return EligibilityChanged{false, "no power"};
    case 3:
      return ShutdownRequested{};
    case 4:
      return GraceExpired{};
    case 5:
    case 6:
      return TimerFired{};
    case 7:
      return WorkerProbed{{"lora_sft"}};
    case 8:
      return CheckinAnswer(answer(), forms);
    case 9:
      return Fetched{};
    case 10: {
      Trained trained;
      trained.outcome = static_cast<Trained::Outcome>(input.TakeByte() % 3);
      trained.message = std::string(answer());
      trained.update = protocol::MakeBlobRef(Sha256(std::string_view("update")), 6, "update.safetensors");
      trained.metrics.set_num_examples(1);
      trained.metrics.set_steps(1);
      trained.out_of_memory = input.TakeByte() % 2 == 1;
      return trained;
    }
    case 11:
      return Uploaded{};
    case 12:
      return AnswerOf<ReportAnswered, v1::ReportResponse>(answer());
    case 13:
      return Refused(answer());
    case 15:
      return CheckinAnswer(WithKey(answer(), *forms), forms);
    default:
      return Broken(static_cast<Code>(1 + input.TakeByte() % 16), "a broken connection");
  }
}

bool IsOperation(const Action& action) {
  return std::holds_alternative<ProbeWorker>(action) || std::holds_alternative<CheckIn>(action) ||
         std::holds_alternative<Fetch>(action) || std::holds_alternative<Train>(action) ||
         std::holds_alternative<Upload>(action) || std::holds_alternative<Report>(action) ||
         std::holds_alternative<Wait>(action);
}

void CheckReport(const v1::ReportRequest& report, const ShortForms& forms) {
  const Status good = protocol::Validate(report);
  Require(good.ok(), "a report that is sent is a good message", good.message());
  const std::string update = "update";
  if (report.update().sha256() != Sha256(update).raw() || report.update().size_bytes() != update.size()) return;
  v1::ReportRequest with = report;
  forms.AddUpdate(update, &with);
  const Status still = protocol::Validate(with);
  Require(still.ok(), "and so is one that its update goes along with", still.message());
  Require(with.inline_update() == update && with.has_update() != forms.on(), "in the form that the coordinator knows");
}

void CheckAction(const Action& action, const SessionOptions& options, const ShortForms& forms) {
  if (const auto* wait = std::get_if<Wait>(&action)) {
    Require(wait->time > Duration(0) && wait->time <= std::chrono::milliseconds(protocol::kMaxRetryAfterMs),
            "a pause is longer than nothing and at most a day");
  }
  if (const auto* checkin = std::get_if<CheckIn>(&action)) {
    Require(checkin->memory_bytes > 0 && checkin->memory_bytes <= options.memory_limit_bytes,
            "what a device tells of its memory is at most what it may use, and never that there is no limit");
    CheckinOf(forms, checkin->local_tasks, checkin->memory_bytes);
  }
  if (const auto* report = std::get_if<Report>(&action)) CheckReport(report->report, forms);
  if (const auto* save = std::get_if<SaveReport>(&action)) {
    const Status good = protocol::Validate(save->report);
    Require(good.ok(), "a report that is kept is a good message", good.message());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 8192) return 0;
  heddle::fuzz::Input input(data, size);
  SessionOptions options;
  options.backoff_max = kBackoffMax;
  options.memory_limit_bytes = uint64_t{1} << 30;
  Session session(options);
  ShortForms forms;
  bool finished = false;
  while (!input.rest().empty()) {
    const Event event = Next(input, &forms);
    size_t operations = 0;
    for (const Action& action : session.Handle(event)) {
      Require(!finished, "nothing follows the end");
      if (IsOperation(action)) ++operations;
      CheckAction(action, options, forms);
      finished = finished || std::holds_alternative<Finish>(action);
    }
    Require(operations <= 1, "one operation is begun at a time");
    Require(!finished || session.state() == SessionState::kStopped, "the end is the end");
  }
  return 0;
}
