// Seeds of fuzz_certificates and fuzz_tls_handshake. Signatures are Ed25519 under a key made of fixed bytes, so that
// they are the same in every run; a request of an EC key bears a signature that is not its own.
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <functional>

#include "protocol/transport/openssl_util.h"
#include "tests/fuzz/seeds.h"

namespace heddle::fuzz {
namespace {

using protocol::internal::CertPtr;
using protocol::internal::KeyPtr;
using protocol::internal::RequestPtr;

KeyPtr SigningKey() {
  unsigned char secret[32];
  for (size_t i = 0; i < sizeof secret; ++i) secret[i] = static_cast<unsigned char>(i);
  return KeyPtr(EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, secret, sizeof secret));
}

// The public key whose point is the curve's generator.
KeyPtr EcPublicKey(int curve, const char* name) {
  EC_GROUP* group = EC_GROUP_new_by_curve_name(curve);
  unsigned char point[133];
  const size_t size = EC_POINT_point2oct(group, EC_GROUP_get0_generator(group), POINT_CONVERSION_UNCOMPRESSED, point,
                                         sizeof point, nullptr);
  EC_GROUP_free(group);
  OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string("group", const_cast<char*>(name), 0),
                         OSSL_PARAM_construct_octet_string("pub", point, size), OSSL_PARAM_construct_end()};
  EVP_PKEY* key = nullptr;
  EVP_PKEY_CTX* context = EVP_PKEY_CTX_new_from_name(nullptr, "EC", nullptr);
  if (EVP_PKEY_fromdata_init(context) != 1 || EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, params) != 1) {
    Fail("cannot make a public key");
  }
  EVP_PKEY_CTX_free(context);
  return KeyPtr(key);
}

void AddName(X509_NAME* name, int type, std::string_view value) {
  X509_NAME_add_entry_by_NID(name, NID_commonName, type, reinterpret_cast<const unsigned char*>(value.data()),
                             static_cast<int>(value.size()), -1, 0);
}

std::string RequestDer(EVP_PKEY* key, std::string_view name) {
  const RequestPtr request(X509_REQ_new());
  AddName(X509_REQ_get_subject_name(request.get()), MBSTRING_UTF8, name);
  X509_REQ_set_pubkey(request.get(), key);
  if (X509_REQ_sign(request.get(), SigningKey().get(), nullptr) <= 0) Fail("cannot sign a request");
  unsigned char* out = nullptr;
  const int size = i2d_X509_REQ(request.get(), &out);
  std::string der(reinterpret_cast<char*>(out), static_cast<size_t>(size));
  OPENSSL_free(out);
  return der;
}

CertPtr Certificate(const std::function<void(X509_NAME*)>& name) {
  CertPtr certificate(X509_new());
  const KeyPtr key = SigningKey();
  X509_set_version(certificate.get(), X509_VERSION_3);
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate.get()), 0x1234);
  ASN1_TIME_set_string(X509_getm_notBefore(certificate.get()), "20260101000000Z");
  ASN1_TIME_set_string(X509_getm_notAfter(certificate.get()), "20360101000000Z");
  name(X509_get_subject_name(certificate.get()));
  AddName(X509_get_issuer_name(certificate.get()), MBSTRING_UTF8, "an authority");
  X509_set_pubkey(certificate.get(), key.get());
  if (X509_sign(certificate.get(), key.get(), nullptr) <= 0) Fail("cannot sign a certificate");
  return certificate;
}

}  // namespace

void CertificateSeeds() {
  const std::string request = RequestDer(SigningKey().get(), "phone-1");
  Write("fuzz_certificates", "request", "r" + request);
  Write("fuzz_certificates", "request-resigned", "s" + request);
  Write("fuzz_certificates", "request-p256", "r" + RequestDer(EcPublicKey(NID_X9_62_prime256v1, "P-256").get(), "p"));
  Write("fuzz_certificates", "request-p521", "r" + RequestDer(EcPublicKey(NID_secp521r1, "P-521").get(), "p"));
  const auto add = [](const std::string& name, const std::function<void(X509_NAME*)>& names) {
    const CertPtr certificate = Certificate(names);
    const auto pem = protocol::internal::CertificateToPem(certificate.get());
    if (!pem.ok()) return Fail(pem.status().ToString());
    Write("fuzz_certificates", "pem-" + name, "p" + *pem);
    unsigned char* out = nullptr;
    const int size = i2d_X509(certificate.get(), &out);
    Write("fuzz_certificates", "der-" + name,
          "d" + std::string(reinterpret_cast<char*>(out), static_cast<size_t>(size)));
    OPENSSL_free(out);
  };
  add("device", [](X509_NAME* name) { AddName(name, MBSTRING_UTF8, "phone-1"); });
  add("nameless", [](X509_NAME*) {});
  add("nul", [](X509_NAME* name) { AddName(name, V_ASN1_UTF8STRING, std::string_view("phone-1\0.evil", 13)); });
  add("wide", [](X509_NAME* name) { AddName(name, V_ASN1_BMPSTRING, std::string_view("\0p\0h", 4)); });
  add("two", [](X509_NAME* name) {
    AddName(name, MBSTRING_UTF8, "phone-1");
    AddName(name, MBSTRING_UTF8, "phone-2");
  });

  // A ClientHello of TLS 1.3 with one key share, made of zeros; the same cut into a record a byte; one of TLS 1.2.
  const auto be = [](uint64_t value, size_t bytes) {
    std::string out;
    for (size_t i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * (bytes - 1 - i)));
    return out;
  };
  const auto extension = [&](unsigned type, const std::string& body) {
    return be(type, 2) + be(body.size(), 2) + body;
  };
  const auto hello = [&](const std::string& extensions) {
    const std::string body = be(0x0303, 2) + std::string(32, '\0') + be(0, 1) + be(2, 2) + be(0x1301, 2) + be(1, 1) +
                             be(0, 1) + be(extensions.size(), 2) + extensions;
    return be(1, 1) + be(body.size(), 3) + body;
  };
  const auto record = [&](const std::string& body) { return be(22, 1) + be(0x0301, 2) + be(body.size(), 2) + body; };
  const std::string groups = extension(10, be(2, 2) + be(0x001d, 2));
  const std::string signatures = extension(13, be(4, 2) + be(0x0403, 2) + be(0x0807, 2));
  const std::string share = extension(51, be(36, 2) + be(0x001d, 2) + be(32, 2) + std::string(32, '\x09'));
  const std::string modern = hello(groups + signatures + extension(43, be(2, 1) + be(0x0304, 2)) + share);
  Write("fuzz_tls_handshake", "hello", Number(0xFFFF, 2) + record(modern));
  Write("fuzz_tls_handshake", "trickle", Number(0, 2) + record(modern));
  Write("fuzz_tls_handshake", "retry",
        Number(0xFFFF, 2) +
            record(hello(groups + signatures + extension(43, be(2, 1) + be(0x0304, 2)) + extension(51, be(0, 2)))));
  Write("fuzz_tls_handshake", "old", Number(0xFFFF, 2) + record(hello(groups + signatures)));
  std::string pieces;
  for (const char byte : modern) pieces += record(std::string(1, byte));
  Write("fuzz_tls_handshake", "records-of-a-byte", Number(0xFFFF, 2) + pieces);
  Write("fuzz_tls_handshake", "plain", Number(0xFFFF, 2) + "GET / HTTP/1.1\r\nHost: c\r\n\r\n");
}

}  // namespace heddle::fuzz
