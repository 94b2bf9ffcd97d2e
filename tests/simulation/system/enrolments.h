// Enrolment while a simulated run goes on: an operator makes tokens, devices redeem them over the network, some of them
// too late, and thieves send copies of them. Whose request comes first has the device's identity; the other hears that
// the token is used, and the device asks for a new one.
//
// Checked: a token enrols once, for ever, whatever crashes; not after its time; a good one is never refused; the
// certificate, the answer and the coordinator's row tell of one device. Not thread-safe; one a world.
#pragma once

#include <map>
#include <string>

#include "tests/simulation/system/machine.h"

namespace heddle::system_simulation {

class Enrolments {
 public:
  Enrolments(const Stage& stage, Timeline& time, CoordinatorHost& host, Network& network, SystemChecker& checker)
      : stage_(stage), time_(time), host_(host), network_(network), checker_(checker) {}

  // The machine gets a token, and goes on with the certificate that it gets for it; it is started then.
  void Begin(Machine& machine);
  // Every answer that the coordinator gives.
  void OnAnswer(const Request& request, const Network::Answer& answer);

 private:
  struct Token {
    std::string device;
    Time expires_at;  // by the coordinator's clock
    int sent = 0, enrolled = 0;
  };

  void BeginLater(Machine& machine);
  void Ask(Machine& machine, const std::string& secret);
  void Steal(const std::string& secret);
  uint64_t Send(size_t from, const std::string& secret, Network::Heard heard);
  void OnEnrolled(Token& token, const Network::Answer& answer);

  const Stage& stage_;
  Timeline& time_;
  CoordinatorHost& host_;
  Network& network_;
  SystemChecker& checker_;
  uint64_t next_ = 1;
  std::map<std::string, Token> tokens_;  // by their secret
};

}  // namespace heddle::system_simulation
