// Owning pointers for OpenSSL's objects and its error queue as text. For the .cc files of this folder only.
#pragma once

#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle::protocol::internal {

template <auto Free>
struct OpenSslDeleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};

using BioPtr = std::unique_ptr<BIO, OpenSslDeleter<BIO_free_all>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, OpenSslDeleter<EVP_PKEY_free>>;
using CertPtr = std::unique_ptr<X509, OpenSslDeleter<X509_free>>;
using RequestPtr = std::unique_ptr<X509_REQ, OpenSslDeleter<X509_REQ_free>>;
using NamePtr = std::unique_ptr<X509_NAME, OpenSslDeleter<X509_NAME_free>>;
using SessionPtr = std::unique_ptr<SSL_SESSION, OpenSslDeleter<SSL_SESSION_free>>;

// Empties this thread's error queue into one line; "no detail from OpenSSL" when it is empty.
std::string TakeOpenSslErrors();
// `code` with "what: the queue's text".
Status OpenSslStatus(Code code, std::string_view what);

// Every certificate of a PEM text. Errors: kInvalidArgument (`what` names the place) when there is none or one is
// broken.
Result<std::vector<CertPtr>> ParseCertificates(std::string_view pem, std::string_view what);
// Errors: kNotFound; kPermissionDenied, also when others than the owner may use the file (its group may read it);
// kInvalidArgument.
Result<KeyPtr> LoadPrivateKey(const std::filesystem::path& path);
Result<KeyPtr> GenerateEcKey();
// Writes a new file of mode 0600.
Status WritePrivateKey(const std::filesystem::path& path, EVP_PKEY* key);

Result<std::string> CertificateToPem(X509* certificate);
// 64 hex digits of the SHA-256 over the DER.
std::string FingerprintOf(X509* certificate);
std::string CommonNameOf(X509* certificate);  // empty when there is none, or it holds a NUL
// Lower case, an even number of digits; a minus before those of a negative one, which no authority of ours issues.
std::string SerialHexOf(X509* certificate);

}  // namespace heddle::protocol::internal
