#include "protocol/transport/openssl_util.h"

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>

#include "common/digest.h"
#include "common/file.h"

namespace heddle::protocol::internal {
namespace {

constexpr size_t kMaxPemFileBytes = size_t{1} << 20;

// No pass phrase is ever asked on a terminal: an encrypted key is an error.
int NoPassword(char*, int, int, void*) { return 0; }

// A group may read a key, as where a secret store mounts it for a service's group; anything more gives it away.
Status CheckKeyIsPrivate(const std::filesystem::path& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) return ErrnoStatus(errno, "cannot open " + path.string());
  const unsigned open_to = found.st_mode & 0777;
  if ((open_to & 0037) == 0) return OkStatus();
  char mode[8];
  std::snprintf(mode, sizeof mode, "0%o", open_to);
  return PermissionDenied(
      "the private key " + path.string() + " is open to other users (mode " + mode +
      "): whoever read it can act in its name; `chmod 600` it, and replace it if it may have been read");
}

}  // namespace

std::string TakeOpenSslErrors() {
  std::string text;
  char buffer[256];
  while (unsigned long error = ERR_get_error()) {
    ERR_error_string_n(error, buffer, sizeof buffer);
    const char* reason = ERR_reason_error_string(error);
    if (!text.empty()) text += "; ";
    text += reason ? reason : buffer;
  }
  return text.empty() ? "no detail from OpenSSL" : text;
}

Status OpenSslStatus(Code code, std::string_view what) {
  return {code, std::string(what) + ": " + TakeOpenSslErrors()};
}

Result<std::vector<CertPtr>> ParseCertificates(std::string_view pem, std::string_view what) {
  ERR_clear_error();
  if (pem.size() > kMaxPemFileBytes) return InvalidArgument(std::string(what) + " is larger than 1 MiB");
  BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  if (!bio) return OpenSslStatus(Code::kResourceExhausted, what);
  std::vector<CertPtr> certificates;
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, NoPassword, nullptr))
    certificates.emplace_back(certificate);
  const unsigned long error = ERR_peek_last_error();
  const bool clean_end = ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
  if (certificates.empty() || !clean_end)
    return OpenSslStatus(Code::kInvalidArgument, std::string(what) + " is not a certificate in PEM");
  ERR_clear_error();
  return certificates;
}

Result<KeyPtr> LoadPrivateKey(const std::filesystem::path& path) {
  HEDDLE_RETURN_IF_ERROR(CheckKeyIsPrivate(path));
  HEDDLE_ASSIGN_OR_RETURN(std::string pem, ReadFile(path, kMaxPemFileBytes));
  ERR_clear_error();
  BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  KeyPtr key(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassword, nullptr) : nullptr);
  OPENSSL_cleanse(pem.data(), pem.size());
  if (!key)
    return OpenSslStatus(Code::kInvalidArgument, path.string() + " is not a private key in PEM without a pass phrase");
  return key;
}

Result<KeyPtr> GenerateEcKey() {
  ERR_clear_error();
  KeyPtr key(EVP_EC_gen("P-256"));
  if (!key) return OpenSslStatus(Code::kInternal, "cannot make an EC P-256 key");
  return key;
}

Status WritePrivateKey(const std::filesystem::path& path, EVP_PKEY* key) {
  ERR_clear_error();
  BioPtr bio(BIO_new(BIO_s_secmem()));
  if (!bio || PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1)
    return OpenSslStatus(Code::kInternal, "cannot encode the key for " + path.string());
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return WriteFileAtomically(path, std::string_view(data, static_cast<size_t>(size)), 0600);
}

Result<std::string> CertificateToPem(X509* certificate) {
  ERR_clear_error();
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_X509(bio.get(), certificate) != 1)
    return OpenSslStatus(Code::kInternal, "cannot encode a certificate");
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

std::string FingerprintOf(X509* certificate) {
  std::array<uint8_t, Sha256Digest::kSize> bytes{};
  unsigned length = 0;
  if (X509_digest(certificate, EVP_sha256(), bytes.data(), &length) != 1) return {};
  return Sha256Digest(bytes).ToHex();
}

std::string CommonNameOf(X509* certificate) {
  const X509_NAME* subject = X509_get_subject_name(certificate);
  const int index = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (index < 0) return {};
  const ASN1_STRING* value = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, index));
  unsigned char* utf8 = nullptr;
  const int length = ASN1_STRING_to_UTF8(&utf8, value);
  if (length < 0) return {};
  std::string name(reinterpret_cast<char*>(utf8), static_cast<size_t>(length));
  OPENSSL_free(utf8);
  return name.find('\0') == std::string::npos ? name : std::string();
}

std::string SerialHexOf(X509* certificate) {
  std::unique_ptr<BIGNUM, OpenSslDeleter<BN_free>> number(
      ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), nullptr));
  char* hex = number ? BN_bn2hex(number.get()) : nullptr;
  if (!hex) return {};
  std::string text(hex);
  OPENSSL_free(hex);
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

}  // namespace heddle::protocol::internal
