// A sequence of requests to the loopback API: each gets an answer in JSON or text, and without the token nothing
// changes.
//
// A request of the input is: a byte of what happens, two bytes of length and the head, two bytes of length and the
// body. In both $T is the administrator's token, $F the folder of a recipe, $R a recipe in JSON, $I the run's id.
#include <boost/json.hpp>

#include "tests/fuzz/coordinator/service_world.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using heddle::fuzz::World;
using namespace heddle;

namespace {

constexpr size_t kMostRequests = 12;

std::string Filled(std::string text, const std::string& run) {
  const std::string recipe = boost::json::serialize(boost::json::string(World::Recipe()));
  for (const auto& [what, with] : {std::pair<std::string_view, std::string>{"$T", fuzz::kAdminToken},
                                   {"$F", World::Folder().string()},
                                   {"$R", recipe},
                                   {"$I", run}}) {
    for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size()) {
      text.replace(at, what.size(), with);
    }
  }
  return text;
}

// What a request without the token must leave as it is.
std::string StateOf(World& world) {
  std::string out;
  const auto runs = world.store().ListRuns();
  const auto devices = world.store().ListDevices();
  Require(runs.ok() && devices.ok(), "the state can be read");
  for (const auto& run : *runs) {
    out += run.id.value() + std::to_string(static_cast<int>(run.state));
  }
  for (const auto& device : *devices) {
    out += device.device.value() + (device.revoked_at ? "-" : "+");
  }
  return out;
}

void CheckAnswer(const fuzz::Asked& asked) {
  const auto& answer = asked.exchange->answer();
  if (!answer) {
    Require(asked.exchange->broken(), "a request whose connection holds is answered", asked.exchange->path());
    return;
  }
  Require(answer->status >= 200 && answer->status < 600 && answer->status != 500, "nothing goes wrong inside",
          asked.exchange->path() + "\n" + answer->body);
  if (asked.exchange->method() == "HEAD" || answer->content_type.starts_with("text/plain")) return;
  boost::system::error_code error;
  const auto value = boost::json::parse(answer->body, error);
  Require(!error && value.is_object(), "an answer is a JSON object", answer->body);
  const bool problem = answer->status >= 400;
  Require(problem == (answer->content_type == "application/problem+json"), "an error says that it is one");
  Require(!problem ||
              (value.at("status").to_number<unsigned>() == answer->status && !value.at("detail").as_string().empty()),
          "and what", answer->body);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 8192) return 0;
  fuzz::Input input(data, size);
  World world;
  const std::string run = world.store().ListRuns().value().front().id.value();
  for (size_t i = 0; i < kMostRequests && !input.rest().empty(); ++i) {
    const uint8_t happens = input.TakeByte();
    const size_t head_bytes = input.TakeNumber(2);
    const std::string head = Filled(std::string(input.TakeBytes(head_bytes)), run);
    const size_t body_bytes = input.TakeNumber(2);
    std::string body = Filled(std::string(input.TakeBytes(body_bytes)), run);
    const std::string before = StateOf(world);
    const auto asked = world.Ask(World::Listener::kAdmin, head, std::move(body), "", happens & 1);
    if (!asked) continue;
    CheckAnswer(*asked);
    const bool may = asked->exchange->Header("Authorization") == std::string("Bearer ") + fuzz::kAdminToken;
    Require(may || StateOf(world) == before, "without the token nothing changes", head);
  }
  world.End();
  return 0;
}
