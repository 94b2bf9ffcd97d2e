// Hostile certificates and certificate requests. The first byte says what the rest is:
//   r  a request in DER           s  the same, given a key of ours and signed anew, so that all behind the check of the
//   p  certificates in PEM           signature is reached
//   d  a certificate in DER
// A certificate that is issued is for the device it was issued for, whatever the request's subject; a certificate's
// name is a text without NUL, or there is none.
#include <openssl/pem.h>

#include "protocol/limits.h"
#include "protocol/transport/openssl_util.h"
#include "protocol/transport/tls.h"
#include "tests/fuzz/scratch.h"

using heddle::fuzz::Require;
using namespace heddle;
using namespace heddle::protocol;

namespace {

struct World {
  fuzz::Scratch scratch;
  CertificateAuthority authority;
  internal::KeyPtr key;
  World() {
    Require(CertificateAuthority::Create(scratch.path(), "fuzzed authority", Seconds(86400)).ok(), "an authority");
    auto loaded = CertificateAuthority::Load(scratch.path());
    Require(loaded.ok(), "the authority can be loaded", loaded.status().message());
    authority = *std::move(loaded);
    auto made = internal::GenerateEcKey();
    Require(made.ok(), "a key can be made");
    key = *std::move(made);
  }
};

World& TheWorld() {
  static World world;
  return world;
}

void CheckCertificates(const std::string& pem) {
  const auto fingerprint = CertificateFingerprint(pem);
  const auto name = CertificateCommonName(pem);
  if (!fingerprint.ok()) {
    Require(fingerprint.status().code() == Code::kInvalidArgument && !name.ok(), "a refusal is an invalid argument");
    return;
  }
  Require(fingerprint->size() == 64 && fingerprint->find_first_not_of("0123456789abcdef") == std::string::npos,
          "a fingerprint is 64 hex digits", *fingerprint);
  if (name.ok()) Require(!name->empty() && name->find('\0') == std::string::npos, "a name has no NUL in it", *name);
  const auto parsed = internal::ParseCertificates(pem, "the input");
  Require(parsed.ok(), "what has a fingerprint can be parsed");
  for (const auto& certificate : *parsed) {
    const std::string serial = internal::SerialHexOf(certificate.get());
    Require((serial.size() - (serial.starts_with('-') ? 1 : 0)) % 2 == 0, "a serial number has whole bytes", serial);
    const auto written = internal::CertificateToPem(certificate.get());
    Require(written.ok() && CertificateFingerprint(*written).value() == internal::FingerprintOf(certificate.get()),
            "what is written is the same certificate");
  }
}

void CheckRequest(std::string_view der) {
  const auto issued = TheWorld().authority.IssueDevice(der, DeviceId("phone-1"), Seconds(3600));
  if (!issued.ok()) {
    Require(issued.status().code() == Code::kInvalidArgument, "a refusal is an invalid argument",
            issued.status().ToString());
    return;
  }
  Require(CertificateCommonName(issued->certificate_pem).value() == "phone-1", "the certificate is for the device");
  const auto parsed = internal::ParseCertificates(issued->certificate_pem, "the certificate");
  Require(parsed.ok() && parsed->size() == 1, "one certificate is issued");
  X509* certificate = parsed->front().get();
  Require(internal::SerialHexOf(certificate) == issued->serial_hex, "the serial number is the certificate's");
  Require(X509_check_ca(certificate) == 0, "no authority is issued");
  Require((X509_get_extended_key_usage(certificate) & ~static_cast<uint32_t>(XKU_SSL_CLIENT)) == 0,
          "a device's certificate is for clients only");
}

// The request under a key of ours; empty when the bytes are not a request at all.
std::string SignedAnew(std::string_view der) {
  const auto* cursor = reinterpret_cast<const unsigned char*>(der.data());
  const internal::RequestPtr request(d2i_X509_REQ(nullptr, &cursor, static_cast<long>(der.size())));
  EVP_PKEY* key = TheWorld().key.get();
  if (!request || X509_REQ_set_pubkey(request.get(), key) != 1 ||
      X509_REQ_sign(request.get(), key, EVP_sha256()) <= 0) {
    return {};
  }
  unsigned char* out = nullptr;
  const int size = i2d_X509_REQ(request.get(), &out);
  if (size <= 0) return {};
  std::string written(reinterpret_cast<char*>(out), static_cast<size_t>(size));
  OPENSSL_free(out);
  return written;
}

std::string PemOf(std::string_view der) {
  const internal::BioPtr out(BIO_new(BIO_s_mem()));
  PEM_write_bio(out.get(), "CERTIFICATE", "", reinterpret_cast<const unsigned char*>(der.data()),
                static_cast<long>(der.size()));
  char* text = nullptr;
  const long size = BIO_get_mem_data(out.get(), &text);
  return {text, static_cast<size_t>(size)};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  heddle::fuzz::Input input(data, size);
  switch (input.TakeByte()) {
    case 'r':
      CheckRequest(input.rest());
      break;
    case 's':
      if (const std::string der = SignedAnew(input.rest()); !der.empty() && der.size() <= kMaxCsrBytes) {
        CheckRequest(der);
      }
      break;
    case 'd':
      CheckCertificates(PemOf(input.rest()));
      break;
    default:
      CheckCertificates(std::string(input.rest()));
  }
  return 0;
}
