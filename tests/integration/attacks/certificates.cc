#include "tests/integration/attacks/certificates.h"

#include <openssl/x509v3.h>

#include <stdexcept>

#include "common/file.h"
#include "protocol/transport/openssl_util.h"
#include "tests/unit/protocol/transport_fixture.h"

namespace heddle::coordinator {

using protocol::Pki;
using namespace protocol::internal;  // owning pointers of OpenSSL

void Forge(const ForgedCertificate& what, const std::filesystem::path& path) {
  const KeyPtr key = Pki::Value(LoadPrivateKey(what.key));
  const CertPtr certificate(X509_new());
  X509* x509 = certificate.get();
  X509_set_version(x509, X509_VERSION_3);
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(x509), 4711);
  X509_gmtime_adj(X509_getm_notBefore(x509), what.not_before);
  X509_gmtime_adj(X509_getm_notAfter(x509), what.not_after);
  const NamePtr subject(X509_NAME_new());
  X509_NAME_add_entry_by_NID(subject.get(), NID_commonName, MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(what.device.data()),
                             static_cast<int>(what.device.size()), -1, 0);
  X509_set_subject_name(x509, subject.get());
  X509_set_pubkey(x509, key.get());
  if (what.is_authority) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, x509, x509, nullptr, nullptr, 0);
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, NID_basic_constraints, "critical,CA:TRUE");
    X509_add_ext(x509, extension, -1);
    X509_EXTENSION_free(extension);
  }
  bool ok = false;
  if (what.authority.empty()) {
    X509_set_issuer_name(x509, subject.get());
    ok = X509_sign(x509, key.get(), EVP_sha256()) > 0;
  } else {
    const KeyPtr signer = Pki::Value(LoadPrivateKey(what.authority / "ca.key"));
    const auto issuers = Pki::Value(ParseCertificates(Pki::Value(ReadFile(what.authority / "ca.crt")), "ca.crt"));
    X509_set_issuer_name(x509, X509_get_subject_name(issuers.front().get()));
    ok = X509_sign(x509, signer.get(), EVP_sha256()) > 0;
  }
  if (!ok) throw std::runtime_error("cannot sign a certificate");
  Pki::Check(WriteFileAtomically(path, Pki::Value(CertificateToPem(x509))));
}

}  // namespace heddle::coordinator
