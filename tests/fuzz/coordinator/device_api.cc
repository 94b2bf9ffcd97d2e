// A sequence of requests to the devices' API: every one gets one answer that its client can read, no stranger and no
// revoked device gets more than a refusal, a report's verdict never changes, and what is accepted is on disk.
//
// The first byte of the input chooses the run's method. A request is: a byte of what and from whom, a byte of what
// happens, two bytes of length and the head, two bytes of length and a part of the body. In a head $A is the device's
// assignment, $D the digest of its update, $L its length, $U the path of its last upload, $M the digest of the model,
// or of the ledger that is one, $P that of the ledger before it. The whole body is, by its kind, the part alone, the
// update, or a good message with the part's fields merged over its own.
#include <map>
#include <optional>
#include <span>

#include "aggregation/compression/compressor.h"
#include "aggregation/ledger/ledger_model.h"
#include "common/safetensors.h"
#include "protocol/refusal.h"
#include "protocol/short_form.h"
#include "protocol/validate.h"
#include "tests/fuzz/coordinator/service_world.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Asked;
using heddle::fuzz::Require;
using heddle::fuzz::World;
using namespace heddle;

namespace {

constexpr size_t kMostRequests = 24;

struct DeviceState {
  v1::TaskAssignment assignment, lasting;
  std::string update;
  std::string upload;  // its path
  std::optional<Sha256Digest> ledger, earlier_ledger;
};

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

const v1::BlobRef& ModelOf(const v1::TaskPlan& plan) { return *plan.adapter().rbegin(); }

std::string ReplaceAll(std::string text, std::string_view what, const std::string& with) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size()) {
    text.replace(at, what.size(), with);
  }
  return text;
}

class Conversation {
 public:
  explicit Conversation(World::Method method) : method_(method), world_(method) {}

  void Next(fuzz::Input& input) {
    const uint8_t what = input.TakeByte(), happens = input.TakeByte();
    constexpr const char* kDevices[] = {"", "phone-1", "phone-2", "phone-3"};
    const std::string device = kDevices[what % 4];
    const size_t head_bytes = input.TakeNumber(2);
    std::string head = Filled(std::string(input.TakeBytes(head_bytes)), device);
    const size_t part_bytes = input.TakeNumber(2);
    std::string body = BodyOf(what / 4 % 8, device, input.TakeBytes(part_bytes));
    if (happens & 2) world_.Advance(Seconds(happens & 4 ? 700 : 70));
    auto asked = world_.Ask(World::Listener::kDevices, head, std::move(body), device, happens & 1);
    if (!asked) return;
    asked_.push_back(*std::move(asked));
    Learn(asked_.back());
  }

  void End() {
    world_.End();
    for (const Asked& asked : asked_) CheckAnswer(asked);
    CheckStored();
  }

 private:
  std::string Filled(std::string head, const std::string& device) {
    const DeviceState& state = devices_[device];
    head = ReplaceAll(std::move(head), "$A", state.assignment.assignment_id());
    head = ReplaceAll(std::move(head), "$D", Sha256(state.update).ToHex());
    head = ReplaceAll(std::move(head), "$L", std::to_string(state.update.size()));
    head = ReplaceAll(std::move(head), "$U", state.upload);
    const v1::TaskPlan& plan = state.assignment.plan();
    const std::string none(64, '0');
    head = ReplaceAll(std::move(head), "$P", state.earlier_ledger ? state.earlier_ledger->ToHex() : none);
    const std::string model = plan.adapter().empty() ? none : protocol::DigestOf(ModelOf(plan)).value().ToHex();
    return ReplaceAll(std::move(head), "$M", model);
  }

  template <typename Message>
  static std::string Merged(const Message& message, std::string_view part) {
    // Two serialised messages one behind the other are one in which the later fields win.
    return message.SerializeAsString() + std::string(part);
  }

  // That of the method's plans.
  std::string LocalTask() const {
    constexpr const char* kTasks[] = {"lora_sft", "zo_ledger", "sft"};
    return kTasks[static_cast<size_t>(method_)];
  }

  std::string BodyOf(int kind, const std::string& device, std::string_view part) {
    const DeviceState& state = devices_[device];
    switch (kind) {
      case 1:
        return state.update;
      case 2: {
        v1::CheckinRequest checkin;
        checkin.set_protocol_version(protocol::kProtocolVersion);
        checkin.set_software_version("fuzzed");
        checkin.add_local_tasks(LocalTask());
        return Merged(checkin, part);
      }
      case 3:
      case 6: {  // with the update in it
        v1::ReportRequest report;
        report.set_assignment_id(state.assignment.assignment_id());
        report.set_outcome(v1::TASK_OUTCOME_COMPLETED);
        *report.mutable_update() =
            protocol::MakeBlobRef(Sha256(state.update), state.update.size(), "update.safetensors");
        report.mutable_metrics()->set_num_examples(4);
        report.mutable_metrics()->set_steps(2);
        report.mutable_metrics()->set_train_loss(2.5);
        if (kind == 6) report.set_inline_update(state.update);
        return Merged(report, part);
      }
      case 4: {
        v1::EnrollRequest enroll;
        enroll.set_token("token");
        enroll.set_csr_der(World::CsrDer());
        return Merged(enroll, part);
      }
      case 5:  // the update with a part of it changed
        return state.update.substr(0, state.update.size() - std::min(part.size(), state.update.size())) +
               std::string(part);
      case 7: {  // short forms: a report without the update's digest, with its scalars alone, or a check-in
        if (part.starts_with("r") || part.starts_with("s")) {
          v1::ReportRequest report;
          report.set_assignment_id(state.assignment.assignment_id());
          report.set_outcome(v1::TASK_OUTCOME_COMPLETED);
          report.mutable_metrics()->set_num_examples(4);
          report.mutable_metrics()->set_steps(2);
          if (part.starts_with("r")) report.set_inline_update(state.update);
          if (part.starts_with("s")) report.set_scalars(zo::ScalarsOfUpdate(state.update));
          return Merged(report, part.substr(1));
        }
        v1::CheckinRequest checkin;
        checkin.set_protocol_version(protocol::kProtocolVersion);
        checkin.add_local_tasks(LocalTask());
        checkin.set_lasting_key(protocol::LastingKey(state.lasting));
        if (state.ledger) checkin.set_ledger_sha256(std::string(state.ledger->raw()));
        return Merged(checkin, part);
      }
      default:
        return std::string(part);
    }
  }

  // What a device would remember of an answer.
  void Learn(const Asked& asked) {
    const auto& answer = asked.exchange->answer();
    if (!answer) return;
    DeviceState& state = devices_[asked.device];
    if (const auto location = answer->Header("Location")) state.upload = std::string(*location);
    v1::CheckinResponse response;
    if (asked.exchange->path() != "/v1/checkin" || answer->status != 200) return;
    if (!response.ParseFromString(answer->body) || !response.has_assignment()) return;
    state.assignment = response.assignment();
    if (state.assignment.lasting_key() != 0) {
      // Asked for with this key, unless the input wrote another over it.
      const auto whole = protocol::Completed(state.lasting, state.assignment);
      if (!whole.ok()) return void(state.assignment.Clear());
      state.assignment = *whole;
    }
    state.lasting = protocol::LastingPart(state.assignment);
    switch (method_) {
      case World::Method::kFedAvg:
        state.update = SerializeSafetensors(MeanUpdate(state.assignment.plan()));
        break;
      case World::Method::kLedger:
        state.update = ScalarUpdate(state.assignment.plan(), &state);
        break;
      case World::Method::kEncoded:
        state.update = EncodedUpdate(state.assignment.plan());
        break;
    }
    if (!response.assignment().ledger_patch().empty()) {
      v1::CheckinRequest checkin;
      Require(checkin.ParseFromString(asked.body) && state.ledger, "a patch is for who said what it has");
      CheckPatch(Sha256Digest::FromBytes(checkin.ledger_sha256()).value(), *state.ledger,
                 response.assignment().ledger_patch());
    }
  }

  // What a blob of the plan holds.
  StateDict TensorsOf(const v1::BlobRef& blob) {
    const auto mapped = world_.blobs().Map(protocol::DigestOf(blob).value()).value();
    auto parsed = ParseSafetensors(mapped->bytes(), mapped);
    Require(parsed.ok(), "the model that is given out can be read");
    return std::move(parsed->tensors);
  }
  zo::Ledger LedgerOf(const Sha256Digest& digest) {
    const auto mapped = world_.blobs().Map(digest);
    Require(mapped.ok(), "a ledger that is given out is on disk");
    const auto ledger = zo::DecodeLedger((*mapped)->bytes());
    Require(ledger.ok(), "and can be read");
    return *ledger;
  }

  StateDict MeanUpdate(const v1::TaskPlan& plan) {
    StateDict update;
    for (const auto& [name, tensor] : TensorsOf(ModelOf(plan))) {
      const std::vector<float> values(static_cast<size_t>(tensor.numel()), 0.25F);
      update.emplace(name, Tensor::FromFloats(tensor.shape(), values));
    }
    return update;
  }

  std::string EncodedUpdate(const v1::TaskPlan& plan) {
    const auto& words = plan.train().rules().upload();
    const auto stages = compression::Pipeline::Parse(std::vector<std::string>(words.begin(), words.end()));
    Require(stages.ok() && !stages->empty(), "the plan says how updates are encoded");
    const auto encoded = compression::Compressor(*stages, plan.seed()).Encode(MeanUpdate(plan), nullptr);
    Require(encoded.ok(), "and they can be");
    return encoded->bytes;
  }

  // Two steps from the weights that the plan's ledger leads to, which a replay of it has.
  std::string ScalarUpdate(const v1::TaskPlan& plan, DeviceState* state) {
    zo::LedgerHead head;
    head.resolution_bits = static_cast<uint8_t>(plan.train().seeds().resolution_bits());
    head.epsilon = plan.train().zo().zo_eps();
    const StateDict start = TensorsOf(plan.adapter(1));
    auto weights = aggregation::WeightsOf(start, zo::LargestScale(head));
    Require(weights.ok(), "the start can be snapped to its grid");
    const Sha256Digest digest = protocol::DigestOf(ModelOf(plan)).value();
    if (ModelOf(plan).name() == zo::kLedgerFile) {
      const zo::Ledger ledger = LedgerOf(digest);
      const auto moves = zo::MovesBetween(zo::EmptyLedger(ledger.head), ledger);
      Require(zo::ApplyMoves(ledger.head.distribution, moves, weights->parameters).ok() &&
                  zo::DigestOfWeights(weights->parameters) == ledger.weights,
              "a ledger's replay has the weights that it says");
      if (state->ledger != digest) state->earlier_ledger = state->ledger;
      state->ledger = digest;
    }
    const zo::Scalars scalars{
        .steps = {{3, 0.5F}, {7, -0.25F}}, .weights = zo::DigestOfWeights(weights->parameters), .skipped = 0};
    return zo::UpdateOfScalars(zo::EncodeScalars(scalars, zo::ScalarFormat::kFloat32));
  }

  void CheckPatch(const Sha256Digest& from, const Sha256Digest& to, const std::string& patch) {
    const auto patched = zo::ApplyPatch(LedgerOf(from), Bytes(patch));
    Require(patched.ok() && Sha256(zo::EncodeLedger(*patched)) == to, "a patch leads to the ledger that it is for");
  }

  // Of GET /v1/blobs/{sha256}/weights.
  void CheckWeights(const Sha256Digest& of, const std::string& answer) {
    const auto ref = protocol::ParseMessage<v1::BlobRef>(answer);
    Require(ref.ok(), "where weights are can be read");
    const auto size = world_.blobs().Size(protocol::DigestOf(*ref).value());
    Require(size.ok() && *size == ref->size_bytes(), "and they are there");
    const zo::Ledger ledger = LedgerOf(of);
    const StateDict tensors = TensorsOf(*ref);
    const auto weights = aggregation::WeightsOf(tensors, zo::LargestScale(ledger.head));
    Require(weights.ok() && zo::DigestOfWeights(weights->parameters) == ledger.weights, "and are the ledger's");
  }

  void CheckAnswer(const Asked& asked) {
    const auto& answer = asked.exchange->answer();
    if (!answer) {
      // The poll of a device whose connection is whole is always answered; a broken one hears nothing.
      Require(asked.exchange->broken(), "a request whose connection holds is answered", asked.exchange->path());
      return;
    }
    const unsigned status = answer->status;
    const std::string& path = asked.exchange->path();
    Require(status != 500, "nothing goes wrong inside", path + "\n" + answer->body);
    if (status >= 400) {
      const auto refusal = protocol::ParseMessage<v1::Refusal>(answer->body);
      Require(asked.exchange->method() == "HEAD" || (refusal.ok() && !refusal->message().empty()),
              "a refusal says its reason and a sentence", answer->body);
    } else {
      Require(asked.device != "phone-3", "a revoked device gets nothing", path);
      Require(!asked.device.empty() || path == "/v1/enroll", "a stranger may only enrol", path);
    }
    if (status != 200) return;
    if (path == "/v1/checkin") {
      const auto checked = protocol::ParseMessage<v1::CheckinResponse>(answer->body);
      Require(checked.ok(), "an answer to a check-in can be read", checked.status().message());
    } else if (path == "/v1/enroll") {
      const auto enrolled = protocol::ParseMessage<v1::EnrollResponse>(answer->body);
      Require(enrolled.ok() && enrolled->device_id() == "phone-4", "a token enrols the device it was made for");
    } else if (path == "/v1/reports") {
      CheckVerdict(asked, answer->body);
    } else if (asked.exchange->method() == "GET" && path.starts_with(kBlobs)) {
      const std::string_view of = std::string_view(path).substr(kBlobs.size());
      const size_t end = of.find('/');
      const auto digest = Sha256Digest::FromHex(of.substr(0, end));
      if (of.ends_with("/weights")) CheckWeights(digest.value(), answer->body);
      if (const size_t from = of.find(kFrom); from != std::string_view::npos) {
        CheckPatch(Sha256Digest::FromHex(of.substr(from + kFrom.size())).value(), digest.value(), answer->body);
      }
    }
  }

  void CheckVerdict(const Asked& asked, const std::string& answer) {
    const auto verdict = protocol::ParseMessage<v1::ReportResponse>(answer);
    const auto report = protocol::ParseMessage<v1::ReportRequest>(asked.body);
    Require(verdict.ok() && report.ok(), "an answer to a report can be read, and so could the report");
    const auto stored = world_.store().FindAssignment(AssignmentId(report->assignment_id()));
    Require(stored.ok() && stored->has_value(), "a verdict is of an assignment that exists");
    Require((*stored)->device.value() == asked.device, "and of the device's own");
    const auto [first, fresh] = verdicts_.emplace(report->assignment_id(), answer);
    Require(fresh || first->second == answer, "a report gets the same verdict each time", report->assignment_id());
    if (verdict->verdict() == v1::REPORT_VERDICT_ACCEPTED) {
      Require((*stored)->state == coordinator::AssignmentState::kAccepted, "an accepted report is stored as such");
    }
  }

  // Whatever was asked, the rows and the blobs are of one mind.
  void CheckStored() {
    const auto runs = world_.store().ListRuns();
    Require(runs.ok() && runs->size() == 1, "there is the one run");
    const auto rounds = world_.store().ListRounds(runs->front().id);
    Require(rounds.ok(), "its rounds can be read");
    uint32_t committed = 0;
    for (const auto& round : *rounds) {
      if (round.phase == coordinator::RoundPhase::kCommitted) ++committed;
      const auto assignments = world_.store().ListAssignments(round.run, round.round, round.attempt);
      Require(assignments.ok(), "its assignments can be read");
      for (const auto& assignment : *assignments) {
        if (assignment.state != coordinator::AssignmentState::kAccepted) continue;
        const auto small = world_.store().GetSmallUpdate(assignment.id);
        Require(world_.blobs().Has(assignment.update) || (small.ok() && Sha256(*small) == assignment.update),
                "an accepted update is on disk, in a file or beside its row");
        Require(assignment.metrics.num_examples >= 1, "and has a weight");
      }
    }
    Require(committed == runs->front().committed_rounds, "the run counts its committed rounds");
    Require(world_.blobs().Has(runs->front().model), "the run's model is on disk");
  }

  static constexpr std::string_view kBlobs = "/v1/blobs/", kFrom = "/from/";

  const World::Method method_;
  World world_;
  std::map<std::string, DeviceState> devices_;
  std::vector<Asked> asked_;
  std::map<std::string, std::string> verdicts_;  // by assignment
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 16384) return 0;
  fuzz::Input input(data, size);
  Conversation conversation(static_cast<World::Method>(input.TakeByte() % 3));
  for (size_t i = 0; i < kMostRequests && !input.rest().empty(); ++i) conversation.Next(input);
  conversation.End();
  return 0;
}
