// TLS contexts, the coordinator's private certificate authority, and keys and requests of devices. OpenSSL 3 behind a
// wall: its errors become Statuses with the file's name in them.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/ids.h"
#include "common/status.h"

namespace heddle::protocol {

// A private authority: EC P-256 key and self-signed certificate. Immutable after Load; thread-safe.
class CertificateAuthority {
 public:
  // Makes key (0600) and certificate files in `directory`: ca.key, ca.crt. Errors: kAlreadyExists when there is one.
  static Status Create(const std::filesystem::path& directory, const std::string& common_name, Duration validity);
  // Errors: kNotFound, kInvalidArgument (not a key or certificate; they do not belong together), kFailedPrecondition
  // (expired).
  static Result<CertificateAuthority> Load(const std::filesystem::path& directory);

  // Issues a server certificate and key in `directory` (server.crt, server.key 0600) for the names and addresses given.
  Status IssueServer(const std::filesystem::path& directory, const std::vector<std::string>& names,
                     Duration validity) const;

  struct Issued {
    std::string certificate_pem;
    std::string serial_hex;  // lower case
    Time not_after;
  };
  // Checks the request's self-signature and key (EC P-256/P-384, Ed25519, or RSA >= 2048) and issues a client
  // certificate whose common name is `device`, whatever subject the request names. Errors: kInvalidArgument.
  Result<Issued> IssueDevice(std::string_view csr_der, const DeviceId& device, Duration validity) const;

  const std::string& certificate_pem() const { return certificate_pem_; }
  // SHA-256 of the certificate's DER, 64 hex digits: what an enrolling device pins.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  struct Keys;
  std::shared_ptr<const Keys> keys_;
  std::string certificate_pem_;
  std::string fingerprint_;
};

// A device's key and request. The key file is made with mode 0600 and never leaves the device.
Status GenerateKeyFile(const std::filesystem::path& path);
Result<std::string> MakeCsrDer(const std::filesystem::path& key_path, const std::string& common_name);
// SHA-256 of the certificate's DER as 64 hex digits. Errors: kInvalidArgument.
Result<std::string> CertificateFingerprint(std::string_view certificate_pem);
// Common name of a PEM certificate. Errors: kInvalidArgument.
Result<std::string> CertificateCommonName(std::string_view certificate_pem);

struct ServerTlsOptions {
  std::filesystem::path certificate, key;  // PEM
  std::string ca_pem;                      // authority of client certificates
};
// TLS 1.3 only; asks for a client certificate and verifies one that is given; a connection without any gets through, so
// that /v1/enroll can be reached, and is refused path by path (Peer::authenticated). Session tickets on, so a device
// resumes cheaply.
Result<std::shared_ptr<boost::asio::ssl::context>> MakeServerTls(const ServerTlsOptions& options);

struct ClientTlsOptions {
  std::string ca_pem;                      // trust anchor; may be empty while enrolling with a fingerprint
  std::string pinned_ca_fingerprint;       // enrolment: the chain must hold a certificate with this SHA-256
  std::filesystem::path certificate, key;  // the device's; empty while enrolling
};
Result<std::shared_ptr<boost::asio::ssl::context>> MakeClientTls(const ClientTlsOptions& options);

}  // namespace heddle::protocol
