// Any text as an enrolment token on the device: refused, or read into a secret and a fingerprint that make the same
// token again.
#include "client/daemon/enroll.h"
#include "protocol/limits.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto token = heddle::client::ParseToken(text);
  if (!token.ok()) {
    Require(token.status().code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument");
    return 0;
  }
  Require(!token->secret.empty() && token->secret.size() <= heddle::protocol::kMaxTokenBytes, "a secret has a size");
  Require(token->ca_fingerprint.size() == 64 &&
              token->ca_fingerprint.find_first_not_of("0123456789abcdef") == std::string::npos,
          "a fingerprint is 64 hex digits");
  Require(text.starts_with(token->secret + "."), "the secret is what stands before the fingerprint");
  const auto again = heddle::client::ParseToken(token->secret + "." + token->ca_fingerprint);
  Require(again.ok() && again->secret == token->secret && again->ca_fingerprint == token->ca_fingerprint,
          "a token made of both is the same one");
  return 0;
}
