// Certificates that no honest authority would issue: any time, any subject, signed by whom one likes.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <ctime>
#include <filesystem>
#include <memory>
#include <string>

namespace heddle::coordinator {

struct ForgedCertificate {
  std::string device;
  time_t not_before = 0, not_after = 0;  // from now, in seconds
  std::filesystem::path authority;       // folder with ca.key and ca.crt that signs it; empty: it signs itself
  std::filesystem::path key;             // the device's key file, which exists
  bool is_authority = false;
};

// Writes the certificate in PEM.
void Forge(const ForgedCertificate& what, const std::filesystem::path& certificate);

}  // namespace heddle::coordinator
