#include "tests/simulation/system/enrolments.h"

#include <algorithm>
#include <utility>

#include "protocol/refusal.h"
#include "protocol/transport/tls.h"
#include "protocol/validate.h"

namespace heddle::system_simulation {
namespace {

// A machine that no device is.
constexpr size_t kThief = 1000;
constexpr Duration kSlowest = std::chrono::seconds(20);

bool IsBadToken(const Network::Answer& answer) {
  if (answer.status != protocol::HttpStatusOf(v1::REFUSAL_REASON_BAD_TOKEN)) return false;
  const auto refusal = protocol::ParseMessage<v1::Refusal>(answer.body);
  return refusal.ok() && refusal->reason() == v1::REFUSAL_REASON_BAD_TOKEN;
}

}  // namespace

void Enrolments::BeginLater(Machine& machine) {
  time_.After(time_.Between(2, 30), [this, &machine] { Begin(machine); });
}

void Enrolments::Begin(Machine& machine) {
  const std::string secret = "token-" + std::to_string(next_++);
  Token token;
  token.device = machine.device();
  token.expires_at = time_.Now() + (time_.Chance(0.3) ? time_.Between(1, 30) : Seconds(86400));
  if (!host_.up() || !host_.MakeToken(Sha256(secret), DeviceId(token.device), token.expires_at)) {
    return BeginLater(machine);
  }
  time_.Note("a token for " + token.device);
  tokens_[secret] = token;
  time_.After(time_.Skewed(0.1, 60), [this, &machine, secret] { Ask(machine, secret); });
  if (!time_.Chance(0.4)) return;
  time_.After(time_.Skewed(0.1, 60), [this, secret] { Steal(secret); });
  if (time_.Chance(0.5)) time_.After(time_.Between(60, 300), [this, secret] { Steal(secret); });
}

uint64_t Enrolments::Send(size_t from, const std::string& secret, Network::Heard heard) {
  ++tokens_[secret].sent;
  v1::EnrollRequest message;
  message.set_token(secret);
  message.set_csr_der(stage_.csr());
  return network_.Send(from, protocol::Peer{}, {"POST", "/v1/enroll", {}, message.SerializeAsString(), "enrolment"},
                       std::move(heard));
}

void Enrolments::Ask(Machine& machine, const std::string& secret) {
  Send(machine.number(), secret, [this, &machine, secret](const Result<Network::Answer>& answer) {
    // Used, perhaps for an answer that was lost, or expired.
    if (answer.ok() && IsBadToken(*answer)) return BeginLater(machine);
    std::string serial;
    if (answer.ok() && answer->status == 200) {
      const auto response = protocol::ParseMessage<v1::EnrollResponse>(answer->body);
      serial = Stage::SerialOf(response->certificate_pem());
    }
    if (serial.empty()) {
      time_.After(time_.Between(1, 15), [this, &machine, secret] { Ask(machine, secret); });
      return;
    }
    ++checker_.counts.happened["enrolment"];
    time_.Note(machine.device() + " is enrolled");
    if (machine.alive()) machine.Vanish();
    machine.SetSerial(serial);
    machine.Start(Machine::Memory::kKept);
  });
}

void Enrolments::Steal(const std::string& secret) {
  ++checker_.counts.happened["stolen token"];
  Send(kThief, secret, [](const Result<Network::Answer>&) {});
}

void Enrolments::OnAnswer(const Request& request, const Network::Answer& answer) {
  if (request.path != "/v1/enroll" || (answer.status != 200 && !IsBadToken(answer))) return;
  const auto message = protocol::ParseMessage<v1::EnrollRequest>(request.body);
  const auto found = message.ok() ? tokens_.find(message->token()) : tokens_.end();
  if (found == tokens_.end()) {
    if (answer.status == 200) checker_.Breach("what is no token enrolled a device");
    return;
  }
  Token& token = found->second;
  const bool expired = time_.Now() >= token.expires_at;
  // Between the look at a token and the answer slow workers may take a while, and the clock may be set.
  const bool exact = checker_.counts.jumps == 0;
  if (answer.status == 200) {
    if (exact && time_.Now() >= token.expires_at + kSlowest)
      return checker_.Breach("a token of " + token.device + " enrolled after its time");
    return OnEnrolled(token, answer);
  }
  ++checker_.counts.happened[expired ? "expired token" : "used token"];
  // Where the network repeats requests, or one was sent again, an earlier one may have used it; and a clock that was
  // ahead for a while may have had it thrown away.
  if (!expired && exact && token.sent == 1 && network_.weather.duplicates == 0 && !checker_.cleans()) {
    checker_.Breach("a good token of " + token.device + " was refused");
  }
}

void Enrolments::OnEnrolled(Token& token, const Network::Answer& answer) {
  if (++token.enrolled > 1) return checker_.Breach("a token of " + token.device + " enrolled twice");
  const auto response = protocol::ParseMessage<v1::EnrollResponse>(answer.body);
  if (!response.ok()) return checker_.Breach("an answer to an enrolment cannot be read");
  const auto name = protocol::CertificateCommonName(response->certificate_pem());
  if (!name.ok() || *name != token.device || response->device_id() != token.device) {
    return checker_.Breach("a token of " + token.device + " enrolled another device");
  }
  const auto row = host_.store().GetDevice(DeviceId(token.device));
  if (!row.ok()) return;  // the disk
  if (!*row) return checker_.Breach("a device that was enrolled has no row");
  // With another token it may have been enrolled again before this answer was given.
  const auto is_another = [&](const auto& other) {
    return &other.second != &token && other.second.device == token.device && other.second.sent > 0;
  };
  if (std::any_of(tokens_.begin(), tokens_.end(), is_another)) return;
  if (Stage::SerialOf(response->certificate_pem()) != (*row)->serial) {
    checker_.Breach("the row of " + token.device + " tells of another certificate than its answer");
  }
}

}  // namespace heddle::system_simulation
