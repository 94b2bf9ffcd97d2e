// The coordinator's private authority and the device's key and request (tls.h).
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <sys/stat.h>

#include "common/file.h"
#include "protocol/limits.h"
#include "protocol/transport/openssl_util.h"
#include "protocol/transport/tls.h"

namespace heddle::protocol {

namespace {

using internal::BioPtr;
using internal::CertPtr;
using internal::KeyPtr;
using internal::OpenSslDeleter;
using internal::OpenSslStatus;
using internal::RequestPtr;

// Certificates begin to be valid a little before they are made: clocks of devices differ.
constexpr long kBackdateSeconds = 3600;

std::filesystem::path KeyPath(const std::filesystem::path& directory) { return directory / "ca.key"; }
std::filesystem::path CertificatePath(const std::filesystem::path& directory) { return directory / "ca.crt"; }

bool AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  std::unique_ptr<X509_EXTENSION, OpenSslDeleter<X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  return extension && X509_add_ext(certificate, extension.get(), -1) == 1;
}

bool SetRandomSerial(X509* certificate) {
  unsigned char bytes[16];
  if (RAND_bytes(bytes, sizeof bytes) != 1) return false;
  bytes[0] = static_cast<unsigned char>((bytes[0] & 0x7F) | 0x40);  // positive, always 16 bytes
  std::unique_ptr<BIGNUM, OpenSslDeleter<BN_free>> number(BN_bin2bn(bytes, sizeof bytes, nullptr));
  return number && BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr;
}

bool SetCommonName(X509_NAME* name, const std::string& common_name) {
  return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
                                    reinterpret_cast<const unsigned char*>(common_name.data()),
                                    static_cast<int>(common_name.size()), -1, 0) == 1;
}

struct Template {
  std::string common_name;
  Duration validity;
  std::vector<std::pair<int, std::string>> extensions;
};

// `issuer` null: self-signed.
Result<CertPtr> MakeCertificate(const Template& what, EVP_PKEY* subject_key, X509* issuer, EVP_PKEY* issuer_key) {
  if (what.common_name.empty() || what.common_name.size() > 64)
    return InvalidArgument("a certificate's common name must have 1 to 64 bytes, not " +
                           std::to_string(what.common_name.size()));
  if (what.validity <= Duration(0)) return InvalidArgument("a certificate's validity must be positive");
  ERR_clear_error();
  CertPtr certificate(X509_new());
  const long seconds = static_cast<long>(ToSeconds(what.validity));
  const time_t now = time(nullptr);
  bool ok = certificate && X509_set_version(certificate.get(), X509_VERSION_3) == 1 &&
            SetRandomSerial(certificate.get()) &&
            X509_time_adj_ex(X509_getm_notBefore(certificate.get()), 0, -kBackdateSeconds, nullptr) != nullptr &&
            X509_time_adj_ex(X509_getm_notAfter(certificate.get()), static_cast<int>(seconds / 86400), seconds % 86400,
                             const_cast<time_t*>(&now)) != nullptr &&
            SetCommonName(X509_get_subject_name(certificate.get()), what.common_name) &&
            X509_set_issuer_name(certificate.get(), issuer ? X509_get_subject_name(issuer)
                                                           : X509_get_subject_name(certificate.get())) == 1 &&
            X509_set_pubkey(certificate.get(), subject_key) == 1;
  for (const auto& [nid, value] : what.extensions) {
    ok = ok && AddExtension(certificate.get(), issuer ? issuer : certificate.get(), nid, value);
  }
  // Ed25519 keys sign without a separate digest; ours are EC.
  ok = ok && X509_sign(certificate.get(), issuer_key, EVP_sha256()) > 0;
  if (!ok) return OpenSslStatus(Code::kInternal, "cannot make a certificate for " + what.common_name);
  return certificate;
}

bool IsAcceptableDeviceKey(EVP_PKEY* key) {
  if (EVP_PKEY_is_a(key, "ED25519")) return true;
  if (EVP_PKEY_is_a(key, "RSA")) return EVP_PKEY_get_bits(key) >= 2048 && EVP_PKEY_get_bits(key) <= 8192;
  if (!EVP_PKEY_is_a(key, "EC")) return false;
  char group[64] = "";
  if (EVP_PKEY_get_group_name(key, group, sizeof group, nullptr) != 1) return false;
  const std::string_view name(group);
  return name == "prime256v1" || name == "P-256" || name == "secp384r1" || name == "P-384";
}

Result<std::string> SubjectAlternativeNames(const std::vector<std::string>& names) {
  if (names.empty()) return InvalidArgument("a server certificate needs at least one name or address");
  std::string value;
  for (const std::string& name : names) {
    // The text goes through OpenSSL's configuration syntax: nothing that means something there may pass.
    const bool address =
        name.find(':') != std::string::npos || name.find_first_not_of("0123456789.") == std::string::npos;
    const bool legal = !name.empty() && name.size() <= 253 &&
                       name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-*_:") ==
                           std::string::npos;
    if (!legal) return InvalidArgument("\"" + name + "\" is not a host name or an IP address");
    if (!value.empty()) value += ",";
    value += (address ? "IP:" : "DNS:") + name;
  }
  return value;
}

}  // namespace

struct CertificateAuthority::Keys {
  KeyPtr key;
  CertPtr certificate;
};

Status CertificateAuthority::Create(const std::filesystem::path& directory, const std::string& common_name,
                                    Duration validity) {
  for (const std::filesystem::path& path : {KeyPath(directory), CertificatePath(directory)}) {
    std::error_code error;
    if (std::filesystem::exists(path, error))
      return AlreadyExists(path.string() + " exists already; remove it to make a new authority");
  }
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(directory));
  HEDDLE_ASSIGN_OR_RETURN(KeyPtr key, internal::GenerateEcKey());
  const Template what{common_name,
                      validity,
                      {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                       {NID_key_usage, "critical,keyCertSign,cRLSign"},
                       {NID_subject_key_identifier, "hash"}}};
  HEDDLE_ASSIGN_OR_RETURN(CertPtr certificate, MakeCertificate(what, key.get(), nullptr, key.get()));
  HEDDLE_ASSIGN_OR_RETURN(std::string pem, internal::CertificateToPem(certificate.get()));
  HEDDLE_RETURN_IF_ERROR(internal::WritePrivateKey(KeyPath(directory), key.get()));
  return WriteFileAtomically(CertificatePath(directory), pem, 0644);
}

Result<CertificateAuthority> CertificateAuthority::Load(const std::filesystem::path& directory) {
  auto keys = std::make_shared<Keys>();
  const std::string place = CertificatePath(directory).string();
  HEDDLE_ASSIGN_OR_RETURN(std::string pem, ReadFile(place));
  HEDDLE_ASSIGN_OR_RETURN(std::vector<CertPtr> certificates, internal::ParseCertificates(pem, place));
  keys->certificate = std::move(certificates.front());
  HEDDLE_ASSIGN_OR_RETURN(keys->key, internal::LoadPrivateKey(KeyPath(directory)));
  ERR_clear_error();
  if (X509_check_private_key(keys->certificate.get(), keys->key.get()) != 1)
    return OpenSslStatus(Code::kInvalidArgument,
                         place + " and " + KeyPath(directory).string() + " do not belong together");
  if (X509_check_ca(keys->certificate.get()) != 1)
    return InvalidArgument(place + " is not the certificate of an authority");
  if (X509_cmp_current_time(X509_get0_notAfter(keys->certificate.get())) <= 0)
    return FailedPrecondition(place + " has expired; make a new authority and enrol the devices again");
  CertificateAuthority authority;
  HEDDLE_ASSIGN_OR_RETURN(authority.certificate_pem_, internal::CertificateToPem(keys->certificate.get()));
  authority.fingerprint_ = internal::FingerprintOf(keys->certificate.get());
  authority.keys_ = std::move(keys);
  return authority;
}

Status CertificateAuthority::IssueServer(const std::filesystem::path& directory, const std::vector<std::string>& names,
                                         Duration validity) const {
  HEDDLE_ASSIGN_OR_RETURN(std::string alternative_names, SubjectAlternativeNames(names));
  HEDDLE_ASSIGN_OR_RETURN(KeyPtr key, internal::GenerateEcKey());
  const Template what{"Heddle coordinator",
                      validity,
                      {{NID_basic_constraints, "critical,CA:FALSE"},
                       {NID_key_usage, "critical,digitalSignature"},
                       {NID_ext_key_usage, "serverAuth"},
                       {NID_subject_alt_name, alternative_names},
                       {NID_subject_key_identifier, "hash"},
                       {NID_authority_key_identifier, "keyid:always"}}};
  HEDDLE_ASSIGN_OR_RETURN(CertPtr certificate,
                          MakeCertificate(what, key.get(), keys_->certificate.get(), keys_->key.get()));
  HEDDLE_ASSIGN_OR_RETURN(std::string pem, internal::CertificateToPem(certificate.get()));
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(directory));
  HEDDLE_RETURN_IF_ERROR(internal::WritePrivateKey(directory / "server.key", key.get()));
  // The authority follows, so that an enrolling device sees it and can compare it with the fingerprint in its token.
  return WriteFileAtomically(directory / "server.crt", pem + certificate_pem_, 0644);
}

Result<CertificateAuthority::Issued> CertificateAuthority::IssueDevice(std::string_view csr_der, const DeviceId& device,
                                                                       Duration validity) const {
  if (!IsValidDeviceName(device.value()))
    return InvalidArgument("\"" + device.value() + "\" is not a device name: [a-z0-9][a-z0-9._-]{0,62}");
  if (csr_der.empty() || csr_der.size() > kMaxCsrBytes)
    return InvalidArgument("the certificate request has " + std::to_string(csr_der.size()) +
                           " bytes but must have 1 to " + std::to_string(kMaxCsrBytes));
  ERR_clear_error();
  const auto* begin = reinterpret_cast<const unsigned char*>(csr_der.data());
  const unsigned char* cursor = begin;
  RequestPtr request(d2i_X509_REQ(nullptr, &cursor, static_cast<long>(csr_der.size())));
  if (!request || cursor != begin + csr_der.size())
    return OpenSslStatus(Code::kInvalidArgument, "the certificate request is not PKCS#10 in DER");
  EVP_PKEY* key = X509_REQ_get0_pubkey(request.get());
  if (!key || !IsAcceptableDeviceKey(key))
    return InvalidArgument(
        "the key of the certificate request must be EC P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits");
  if (X509_REQ_verify(request.get(), key) != 1)
    return OpenSslStatus(Code::kInvalidArgument, "the certificate request is not signed by its own key");
  const Template what{device.value(),
                      validity,
                      {{NID_basic_constraints, "critical,CA:FALSE"},
                       {NID_key_usage, "critical,digitalSignature"},
                       {NID_ext_key_usage, "clientAuth"},
                       {NID_subject_key_identifier, "hash"},
                       {NID_authority_key_identifier, "keyid:always"}}};
  HEDDLE_ASSIGN_OR_RETURN(CertPtr certificate, MakeCertificate(what, key, keys_->certificate.get(), keys_->key.get()));
  Issued issued;
  HEDDLE_ASSIGN_OR_RETURN(issued.certificate_pem, internal::CertificateToPem(certificate.get()));
  issued.serial_hex = internal::SerialHexOf(certificate.get());
  std::tm not_after{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &not_after) != 1)
    return OpenSslStatus(Code::kInternal, "cannot read the time of a new certificate");
  issued.not_after = FromUnixMicros(int64_t{timegm(&not_after)} * 1'000'000);
  return issued;
}

Status GenerateKeyFile(const std::filesystem::path& path) {
  HEDDLE_ASSIGN_OR_RETURN(KeyPtr key, internal::GenerateEcKey());
  return internal::WritePrivateKey(path, key.get());
}

Result<std::string> MakeCsrDer(const std::filesystem::path& key_path, const std::string& common_name) {
  HEDDLE_ASSIGN_OR_RETURN(KeyPtr key, internal::LoadPrivateKey(key_path));
  ERR_clear_error();
  RequestPtr request(X509_REQ_new());
  const EVP_MD* digest = EVP_PKEY_is_a(key.get(), "ED25519") ? nullptr : EVP_sha256();
  const bool ok = request && X509_REQ_set_version(request.get(), X509_REQ_VERSION_1) == 1 &&
                  SetCommonName(X509_REQ_get_subject_name(request.get()), common_name) &&
                  X509_REQ_set_pubkey(request.get(), key.get()) == 1 &&
                  X509_REQ_sign(request.get(), key.get(), digest) > 0;
  if (!ok) return OpenSslStatus(Code::kInvalidArgument, "cannot make a certificate request with " + key_path.string());
  unsigned char* der = nullptr;
  const int size = i2d_X509_REQ(request.get(), &der);
  if (size <= 0) return OpenSslStatus(Code::kInternal, "cannot encode a certificate request");
  std::string bytes(reinterpret_cast<char*>(der), static_cast<size_t>(size));
  OPENSSL_free(der);
  return bytes;
}

Result<std::string> CertificateFingerprint(std::string_view certificate_pem) {
  HEDDLE_ASSIGN_OR_RETURN(auto certificates, internal::ParseCertificates(certificate_pem, "the text"));
  return internal::FingerprintOf(certificates.front().get());
}

Result<std::string> CertificateCommonName(std::string_view certificate_pem) {
  HEDDLE_ASSIGN_OR_RETURN(auto certificates, internal::ParseCertificates(certificate_pem, "the text"));
  std::string name = internal::CommonNameOf(certificates.front().get());
  if (name.empty()) return InvalidArgument("the certificate has no common name");
  return name;
}

}  // namespace heddle::protocol
