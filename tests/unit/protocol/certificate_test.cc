#include <gmock/gmock.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <sys/stat.h>

#include "transport_fixture.h"

namespace heddle::protocol {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

int ModeOf(const std::filesystem::path& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? static_cast<int>(info.st_mode & 0777) : -1;
}

// A request signed by a key of our choice.
std::string CsrFor(EVP_PKEY* key, EVP_PKEY* signer, const EVP_MD* digest) {
  X509_REQ* request = X509_REQ_new();
  X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("impostor"), -1, -1, 0);
  X509_REQ_set_pubkey(request, key);
  EXPECT_GT(X509_REQ_sign(request, signer, digest), 0);
  unsigned char* der = nullptr;
  const int size = i2d_X509_REQ(request, &der);
  std::string bytes(reinterpret_cast<char*>(der), static_cast<size_t>(size));
  OPENSSL_free(der);
  X509_REQ_free(request);
  return bytes;
}

struct Key {
  explicit Key(EVP_PKEY* made) : key(made) {}
  ~Key() { EVP_PKEY_free(key); }
  Key(const Key&) = delete;
  Key& operator=(const Key&) = delete;
  EVP_PKEY* key;
};

TEST(CertificateAuthority, KeysAreForTheirOwnerOnly) {
  Pki pki;
  pki.Enrol("phone");
  EXPECT_EQ(ModeOf(pki.dir() / "ca.key"), 0600);
  EXPECT_EQ(ModeOf(pki.dir() / "server.key"), 0600);
  EXPECT_EQ(ModeOf(pki.dir() / "phone.key"), 0600);
}

TEST(CertificateAuthority, AKeyThatOthersMayUseIsRefusedUntilItIsMended) {
  Pki pki;
  pki.Enrol("phone");
  const std::filesystem::path authority_key = pki.dir() / "ca.key", device_key = pki.dir() / "phone.key";
  for (const unsigned mode : {0604u, 0644u, 0620u, 0610u, 0602u, 0666u}) {
    std::filesystem::permissions(authority_key, std::filesystem::perms(mode));
    std::filesystem::permissions(device_key, std::filesystem::perms(mode));
    const Status authority = CertificateAuthority::Load(pki.dir()).status();
    EXPECT_EQ(authority.code(), Code::kPermissionDenied) << mode;
    EXPECT_THAT(authority.message(), AllOf(HasSubstr(authority_key.string()), HasSubstr("chmod 600")));
    EXPECT_EQ(MakeCsrDer(device_key, "phone").status().code(), Code::kPermissionDenied) << mode;
  }
  for (const unsigned mode : {0400u, 0440u, 0640u, 0600u}) {  // a group that was given the key may read it
    std::filesystem::permissions(authority_key, std::filesystem::perms(mode));
    EXPECT_TRUE(CertificateAuthority::Load(pki.dir()).ok()) << mode;
  }
}

TEST(CertificateAuthority, IsNotMadeTwice) {
  Pki pki;
  const std::string before = ReadAllOf(pki.dir() / "ca.crt");
  EXPECT_EQ(CertificateAuthority::Create(pki.dir(), "again", kYear).code(), Code::kAlreadyExists);
  EXPECT_EQ(ReadAllOf(pki.dir() / "ca.crt"), before);
}

TEST(CertificateAuthority, FingerprintIsThatOfItsCertificate) {
  Pki pki;
  EXPECT_THAT(pki.authority().fingerprint(), MatchesRegex("[0-9a-f]{64}"));
  EXPECT_EQ(Pki::Value(CertificateFingerprint(pki.authority().certificate_pem())), pki.authority().fingerprint());
  EXPECT_EQ(Pki::Value(CertificateCommonName(pki.authority().certificate_pem())), "Heddle test authority");
}

TEST(CertificateAuthority, LoadSaysWhatIsWrong) {
  Pki pki, other;
  TempDir empty;
  EXPECT_EQ(CertificateAuthority::Load(empty.path()).status().code(), Code::kNotFound);
  std::filesystem::copy(pki.dir() / "ca.crt", empty.path() / "ca.crt");
  EXPECT_EQ(CertificateAuthority::Load(empty.path()).status().code(), Code::kNotFound);
  std::filesystem::copy(other.dir() / "ca.key", empty.path() / "ca.key");
  const Status mixed = CertificateAuthority::Load(empty.path()).status();
  EXPECT_EQ(mixed.code(), Code::kInvalidArgument);
  EXPECT_THAT(mixed.message(), HasSubstr("do not belong together"));
  ASSERT_TRUE(WriteFileAtomically(empty.path() / "ca.key", "rubbish", 0600).ok());
  EXPECT_EQ(CertificateAuthority::Load(empty.path()).status().code(), Code::kInvalidArgument);
  ASSERT_TRUE(WriteFileAtomically(empty.path() / "ca.crt", "rubbish").ok());
  const Status rubbish = CertificateAuthority::Load(empty.path()).status();
  EXPECT_EQ(rubbish.code(), Code::kInvalidArgument);
  EXPECT_THAT(rubbish.message(), HasSubstr("ca.crt"));
  // The certificate of a server is no authority.
  std::filesystem::copy(pki.dir() / "server.crt", empty.path() / "ca.crt",
                        std::filesystem::copy_options::overwrite_existing);
  std::filesystem::copy(pki.dir() / "server.key", empty.path() / "ca.key",
                        std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(CertificateAuthority::Load(empty.path()).status().code(), Code::kInvalidArgument);
}

TEST(CertificateAuthority, IssuesForTheNameItDecidesWhateverTheRequestSays) {
  Pki pki;
  Key key(EVP_EC_gen("P-256"));
  const auto issued = pki.authority().IssueDevice(CsrFor(key.key, key.key, EVP_sha256()), DeviceId("phone-7"), kYear);
  ASSERT_TRUE(issued.ok()) << issued.status();
  EXPECT_EQ(Pki::Value(CertificateCommonName(issued->certificate_pem)), "phone-7");
  EXPECT_THAT(issued->serial_hex, MatchesRegex("[0-9a-f]{32}"));
  const Duration left = issued->not_after - SystemClock().Now();
  EXPECT_GT(left, kYear - Seconds(60));
  EXPECT_LE(left, kYear);
  const auto second = pki.authority().IssueDevice(CsrFor(key.key, key.key, EVP_sha256()), DeviceId("phone-7"), kYear);
  EXPECT_NE(second->serial_hex, issued->serial_hex);
}

TEST(CertificateAuthority, AcceptsSoundKeysAndRefusesWeakOnes) {
  Pki pki;
  const auto issue = [&](EVP_PKEY* key, const EVP_MD* digest) {
    return pki.authority().IssueDevice(CsrFor(key, key, digest), DeviceId("phone"), kYear).status();
  };
  Key p384(EVP_EC_gen("P-384")), ed25519(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")), rsa2048(EVP_RSA_gen(2048));
  EXPECT_TRUE(issue(p384.key, EVP_sha384()).ok());
  EXPECT_TRUE(issue(ed25519.key, nullptr).ok());
  EXPECT_TRUE(issue(rsa2048.key, EVP_sha256()).ok());
  Key p521(EVP_EC_gen("P-521")), rsa1024(EVP_RSA_gen(1024)), secp256k1(EVP_EC_gen("secp256k1"));
  EXPECT_EQ(issue(p521.key, EVP_sha256()).code(), Code::kInvalidArgument);
  EXPECT_EQ(issue(rsa1024.key, EVP_sha256()).code(), Code::kInvalidArgument);
  EXPECT_EQ(issue(secp256k1.key, EVP_sha256()).code(), Code::kInvalidArgument);
}

TEST(CertificateAuthority, RefusesForgedAndBrokenRequests) {
  Pki pki;
  Key key(EVP_EC_gen("P-256")), thief(EVP_EC_gen("P-256"));
  const auto issue = [&](const std::string& der, const std::string& name = "phone") {
    return pki.authority().IssueDevice(der, DeviceId(name), kYear).status().code();
  };
  const std::string good = CsrFor(key.key, key.key, EVP_sha256());
  EXPECT_EQ(issue(good), Code::kOk);
  EXPECT_EQ(issue(CsrFor(key.key, thief.key, EVP_sha256())), Code::kInvalidArgument) << "signed by another key";
  EXPECT_EQ(issue(""), Code::kInvalidArgument);
  EXPECT_EQ(issue("rubbish"), Code::kInvalidArgument);
  EXPECT_EQ(issue(good + "x"), Code::kInvalidArgument) << "bytes after the request";
  EXPECT_EQ(issue(good + std::string(20'000, 'x')), Code::kInvalidArgument);
  EXPECT_EQ(issue(good, "Not A Name"), Code::kInvalidArgument);
  EXPECT_EQ(issue(good, ""), Code::kInvalidArgument);
  for (size_t i = 0; i < good.size(); i += 3) {
    std::string broken = good;
    broken[i] = static_cast<char>(broken[i] ^ 0x41);
    EXPECT_EQ(issue(broken), Code::kInvalidArgument) << "byte " << i;
    EXPECT_EQ(issue(good.substr(0, i)), Code::kInvalidArgument) << "cut at " << i;
  }
}

TEST(CertificateAuthority, ServerNamesCannotSmuggleExtensions) {
  Pki pki;
  TempDir out;
  const auto issue = [&](std::vector<std::string> names) {
    return pki.authority().IssueServer(out.path(), names, kYear).code();
  };
  EXPECT_EQ(issue({"a.example.org", "*.example.org", "10.0.0.1", "::1"}), Code::kOk);
  for (const char* bad : {"", "a b", "a,URI:evil", "@section", "email=x", "a\nb"}) {
    EXPECT_EQ(issue({bad}), Code::kInvalidArgument) << bad;
  }
  EXPECT_EQ(issue({}), Code::kInvalidArgument);
}

TEST(Tls, ContextsNameTheFileThatIsWrong) {
  Pki pki, other;
  ServerTlsOptions options{pki.dir() / "server.crt", other.dir() / "server.key", pki.authority().certificate_pem()};
  const Status mixed = MakeServerTls(options).status();
  EXPECT_EQ(mixed.code(), Code::kInvalidArgument);
  EXPECT_THAT(mixed.message(), HasSubstr("do not belong together"));
  options.key = pki.dir() / "none.key";
  const Status missing = MakeServerTls(options).status();
  EXPECT_EQ(missing.code(), Code::kNotFound);
  EXPECT_THAT(missing.message(), HasSubstr("none.key"));
  options.key = pki.dir() / "server.key";
  options.ca_pem = "rubbish";
  EXPECT_EQ(MakeServerTls(options).status().code(), Code::kInvalidArgument);
  const std::filesystem::path no_key = pki.dir() / "no.key";
  std::filesystem::copy(pki.dir() / "ca.crt", no_key);
  std::filesystem::permissions(no_key, std::filesystem::perms(0600));
  EXPECT_EQ(MakeCsrDer(no_key, "x").status().code(), Code::kInvalidArgument) << "a certificate is no key";
}

}  // namespace
}  // namespace heddle::protocol
