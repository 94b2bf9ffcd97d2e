#include "tests/simulation/system/rogue.h"

#include <algorithm>
#include <utility>

#include "protocol/validate.h"

namespace heddle::system_simulation {
namespace {

std::string HexOf(uint64_t bits) { return Sha256(std::to_string(bits)).ToHex(); }

std::string ReportBody(const std::string& assignment, const MadeUpdate& update) {
  v1::ReportRequest report;
  report.set_assignment_id(assignment);
  report.set_outcome(v1::TASK_OUTCOME_COMPLETED);
  *report.mutable_update() = protocol::MakeBlobRef(update.digest, update.bytes.size(), "update.safetensors");
  report.mutable_metrics()->set_num_examples(update.num_examples);
  return report.SerializeAsString();
}

}  // namespace

Rogue::Attempt Rogue::Garbage() {
  static constexpr const char* kPaths[] = {"/v1/checkin", "/v1/reports", "/v1/enroll"};
  std::string body;
  for (uint32_t i = 1 + time_.Below(40); i > 0; --i) body += static_cast<char>(time_.Below(256));
  // Some garbage is a message: of the fields that may not be empty it says nothing that fits.
  return {{"POST", kPaths[time_.Below(3)], {}, body, "garbage"}, {400}};
}

Rogue::Attempt Rogue::WrongPlace() {
  switch (time_.Below(4)) {
    case 0:
      return {{"POST", "/v1/nothing", {}, "", "no such path"}, {404}};
    case 1:
      return {{"DELETE", "/v1/reports", {}, "", "no such method"}, {405}};
    case 2:
      return {{"GET", "/v1/blobs/" + HexOf(time_.Bits()), {}, "", "no such blob"}, {404}};
    default:
      return {{"PATCH", "/v1/uploads/" + HexOf(time_.Bits()).substr(0, 32), {{"Upload-Offset", "0"}}, "x", "no upload"},
              {404}};
  }
}

Rogue::Attempt Rogue::RepeatedReport(const Machine& machine) {
  const std::vector<std::string>& sent = machine.sent_reports();
  if (sent.empty()) return WrongPlace();
  return {{"POST", "/v1/reports", {}, sent[time_.Below(static_cast<uint32_t>(sent.size()))], "an old report"},
          {200, 400, 404, 422}};
}

Rogue::Attempt Rogue::ReportOnAnother(const Machine& machine) {
  const auto& issued = checker_.issued_list();
  if (issued.empty()) return WrongPlace();
  auto task = issued.begin() + time_.Below(static_cast<uint32_t>(issued.size()));
  if (time_.Chance(0.5)) {  // its own newest, which may be open
    const auto own =
        std::find_if(issued.rbegin(), issued.rend(), [&](const auto& one) { return one.second == machine.device(); });
    if (own != issued.rend()) task = std::prev(own.base());
  }
  const auto& [assignment, owner] = *task;
  MadeUpdate update = MakeUpdate(checker_.model_spec(), time_.Bits(), Flaw::kNone, 0);
  // Or one that another device has made and sent: its digest is no secret.
  const MadeUpdate* other = time_.Chance(0.6) ? checker_.SomeUpdate(time_.Below(1000)) : nullptr;
  if (other != nullptr) update = *other;
  if (owner != machine.device()) {
    return {{"POST", "/v1/reports", {}, ReportBody(assignment, update), "a report on another's task"}, {403, 404}};
  }
  // Its own, perhaps of a closed round, with an update that was never sent: the first story stands.
  return {{"POST", "/v1/reports", {}, ReportBody(assignment, update), "another story"}, {200, 404}};
}

Rogue::Attempt Rogue::UploadForAnother(const Machine& machine) {
  const auto& issued = checker_.issued_list();
  if (issued.empty()) return WrongPlace();
  const auto& [assignment, owner] = issued[time_.Below(static_cast<uint32_t>(issued.size()))];
  const std::string body = "not an update " + std::to_string(time_.Below(1000));
  Request request{"POST", "/v1/uploads", {}, body, "an upload for another's task"};
  request.headers = {{"Heddle-Assignment", assignment},
                     {"Heddle-Digest", Sha256(body).ToHex()},
                     {"Upload-Length", std::to_string(body.size())}};
  if (owner == machine.device()) return {request, {200, 201, 403, 404, 409, 422}};
  return {request, {403, 404}};
}

Rogue::Attempt Rogue::LongUpload(const Machine& machine) {
  const auto& issued = checker_.issued_list();
  if (issued.empty()) return WrongPlace();
  const auto& [assignment, owner] = issued[time_.Below(static_cast<uint32_t>(issued.size()))];
  Request request{"POST", "/v1/uploads", {}, "", "an upload that is too long"};
  const uint64_t bits = time_.Bits();
  request.headers = {{"Heddle-Assignment", assignment}, {"Heddle-Digest", HexOf(bits)}};
  if (time_.Chance(0.5)) {
    // Longer than anything, or than the run's updates by a byte; once the run is over that is a closed task's.
    const bool by_a_byte = bits % 2 == 0;
    const uint64_t length = by_a_byte ? checker_.spec().max_update_bytes + 1 : uint64_t{1} << 40;
    request.headers.emplace_back("Upload-Length", std::to_string(length));
    if (owner != machine.device()) return {request, {403}};
    return {request, by_a_byte ? std::set<unsigned>{413, 200} : std::set<unsigned>{413}};
  }
  static constexpr const char* kNoLengths[] = {"", "0", "-5", "18446744073709551616", "0x10", "1e3"};
  request.headers.emplace_back("Upload-Length", kNoLengths[time_.Below(6)]);
  return {request, {400}};
}

Rogue::Attempt Rogue::UnknownThings() {
  if (time_.Chance(0.5)) {
    const MadeUpdate update = MakeUpdate(checker_.model_spec(), time_.Bits(), Flaw::kNone, 0);
    return {{"POST", "/v1/reports", {}, ReportBody(HexOf(time_.Bits()).substr(0, 32), update), "no such task"}, {404}};
  }
  v1::CheckinRequest message;
  message.set_protocol_version(99);
  message.set_software_version("99");
  message.add_local_tasks("lora_sft");
  return {{"POST", "/v1/checkin", {}, message.SerializeAsString(), "a version to come"}, {400}};
}

void Rogue::Act() {
  ++checker_.counts.rogue;
  const Machine& machine = *machines_[time_.Below(static_cast<uint32_t>(machines_.size()))];
  Attempt attempt;
  switch (time_.Below(10)) {
    case 0:
      attempt = Garbage();
      break;
    case 1:
      attempt = WrongPlace();
      break;
    case 2:
    case 3:
      attempt = RepeatedReport(machine);
      break;
    case 4:
    case 5:
    case 6:
      attempt = ReportOnAnother(machine);
      break;
    case 7:
      attempt = UploadForAnother(machine);
      break;
    case 8:
      attempt = LongUpload(machine);
      break;
    default:
      attempt = UnknownThings();
  }
  protocol::Peer peer = machine.peer();
  if (time_.Chance(0.1)) {  // with a certificate that does not hold
    if (time_.Chance(0.5)) {
      peer = {};
    } else {
      peer.serial_hex = "0badc0de";
    }
    if (attempt.request.path != "/v1/enroll") attempt.expected = {401};
  }
  attempt.expected.insert({401, 403, 429, 500, 503});  // revoked or enrolled again; more than its share; the disk
  const std::string about = attempt.request.about;
  time_.Note("rogue " + machine.device() + ": " + about);
  network_.Send(machine.number(), std::move(peer), std::move(attempt.request),
                [this, about, expected = std::move(attempt.expected)](const Result<Network::Answer>& answer) {
                  if (!answer.ok() || expected.contains(answer->status)) return;
                  checker_.Breach(about + " was answered " + std::to_string(answer->status));
                });
}

}  // namespace heddle::system_simulation
