// Enrolment: a one-time token becomes the device's identity in state_dir: device.key (0600, made here, never leaves),
// device.crt, ca.crt.
#pragma once

#include <filesystem>
#include <string>

#include "client/daemon/config.h"
#include "common/status.h"

namespace heddle::client {

struct IdentityFiles {
  std::filesystem::path key, certificate, ca;
};
IdentityFiles IdentityIn(const std::filesystem::path& state_dir);

struct EnrolmentToken {
  std::string secret;          // goes to the coordinator
  std::string ca_fingerprint;  // 64 hex digits; stays here and says whom to trust
};
// "<random>.<fingerprint>". Errors: kInvalidArgument.
Result<EnrolmentToken> ParseToken(const std::string& text);

// Blocks. The value is the device's name. The certificate is written last, so a device is enrolled wholly or not at
// all; a key left by an attempt that failed is used again.
// Errors: kInvalidArgument (token), kAlreadyExists (enrolled before), kPermissionDenied (the coordinator refuses the
// token), kUnauthenticated (it is not the coordinator the token is for), kUnavailable, those of the disk.
Result<std::string> Enroll(const ClientConfig& config, const std::string& token);

}  // namespace heddle::client
