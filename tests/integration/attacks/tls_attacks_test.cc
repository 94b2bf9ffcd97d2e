// Who is not who it says it is, and what is no TLS 1.3: refused in the handshake, or as a stranger.
#include <openssl/ssl.h>

#include <random>
#include <thread>

#include "protocol/validate.h"
#include "tests/integration/attacks/attack_world.h"
#include "tests/integration/attacks/certificates.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;
using protocol::Eventually;
using protocol::Pki;
using protocol::RawPeer;

const std::string kBlob = "/v1/blobs/" + std::string(64, 'a');
constexpr time_t kDay = 24 * 3600;

// A client that shows this certificate.
std::unique_ptr<HttpClient> Showing(AttackWorld& world, const fs::path& certificate, const fs::path& key) {
  protocol::ClientTlsOptions tls;
  tls.ca_pem = Pki::Value(ReadFile(world.config_.pki() / "ca.crt"));
  tls.certificate = certificate;
  tls.key = key;
  protocol::ClientOptions options;
  options.host = "127.0.0.1";
  options.port = world.port();
  options.tls = Pki::Value(protocol::MakeClientTls(tls));
  return std::make_unique<HttpClient>(world.threads_.io().get_executor(), options);
}

// The connection of a certificate that is no longer good is closed at once: then the answer comes on the next one.
HttpResponse Persist(AttackWorld& world, HttpClient& client, const HttpRequest& request) {
  for (int i = 0; i < 5; ++i) {
    Result<HttpResponse> answer = world.TrySend(client, request);
    if (answer.ok() || answer.status().code() != Code::kUnavailable) return Pki::Value(std::move(answer));
  }
  ADD_FAILURE() << "no answer";
  return {};
}

void ExpectNoHandshake(AttackWorld& world, HttpClient& client) {
  const auto answer = world.TrySend(client, HttpRequest("GET", kBlob));
  ASSERT_FALSE(answer.ok()) << answer->status;
  EXPECT_EQ(answer.status().code(), Code::kUnauthenticated) << answer.status();
}

struct CertificateRow {
  const char* name;
  ForgedCertificate what;
};

TEST(Attacks, CertificatesThatAreNotGoodDoNotPassTheHandshake) {
  AttackWorld world;
  const Pki other("Heddle coordinator authority");  // the same name, another key
  const fs::path pki = world.config_.pki(), key = world.temp_.path() / "mallory.key";
  const std::vector<CertificateRow> rows = {
      {"expired", {.device = "anna", .not_before = -2 * kDay, .not_after = -kDay, .authority = pki, .key = key}},
      {"expired a second ago", {.device = "anna", .not_before = -kDay, .not_after = -1, .authority = pki, .key = key}},
      {"not valid yet", {.device = "anna", .not_before = kDay, .not_after = 2 * kDay, .authority = pki, .key = key}},
      {"another authority's of the same name",
       {.device = "anna", .not_before = -kDay, .not_after = kDay, .authority = other.dir(), .key = key}},
      {"signed by itself", {.device = "anna", .not_before = -kDay, .not_after = kDay, .authority = {}, .key = key}},
      {"an authority of its own making",
       {.device = "Heddle coordinator authority",
        .not_before = -kDay,
        .not_after = kDay,
        .authority = {},
        .key = key,
        .is_authority = true}},
  };
  std::vector<Attack> attacks;
  for (const CertificateRow& row : rows) {
    attacks.push_back({row.name, [&world, &row, &key] {
                         const fs::path certificate = world.temp_.path() / "forged.crt";
                         Forge(row.what, certificate);
                         ExpectNoHandshake(world, *Showing(world, certificate, key));
                       }});
  }
  world.Withstand(attacks);
  EXPECT_GE(world.Metric("heddle_tls_handshakes_failed"), static_cast<double>(rows.size()));
}

// The authority's own signature is not enough: the certificate must be the one that the device was given last.
TEST(Attacks, CertificatesThatPassTheHandshakeButAreNotTheDevicesAreStrangers) {
  AttackWorld world;
  const fs::path pki = world.config_.pki(), key = world.temp_.path() / "mallory.key";
  const fs::path certificate = world.temp_.path() / "forged.crt";
  const auto forged_of = [&](const std::string& device) {
    Forge({.device = device, .not_before = -kDay, .not_after = kDay, .authority = pki, .key = key}, certificate);
    const auto client = Showing(world, certificate, key);
    ExpectRefused(Pki::Value(world.TrySend(*client, HttpRequest("GET", kBlob))), v1::REFUSAL_REASON_UNAUTHENTICATED);
  };
  std::vector<Attack> attacks;
  for (const char* name : {"anna", "nobody", "ANNA", "anna ", "../anna", "anna\n", "*"}) {
    attacks.push_back({std::string("one for the name ") + name, [&forged_of, name] { forged_of(name); }});
  }
  attacks.push_back({"one with a NUL in its name", [&forged_of] { forged_of(std::string("anna\0", 5)); }});
  attacks.push_back({"one that a newer enrolment replaced", [&] {
                       ASSERT_EQ(world.Enroll("dora", world.Token("dora")).status, 200U);
                       const fs::path old = world.temp_.path() / "old.crt", dora_key = world.temp_.path() / "dora.key";
                       fs::copy_file(world.temp_.path() / "dora.crt", old);
                       const auto before = Showing(world, old, dora_key);
                       EXPECT_EQ(Pki::Value(world.TrySend(*before, HttpRequest("GET", kBlob))).status, 404U);
                       ASSERT_EQ(world.Enroll("dora", world.Token("dora")).status, 200U);
                       // Also on the connection that was open, and with the session that it would resume.
                       ExpectRefused(Persist(world, *before, HttpRequest("GET", kBlob)),
                                     v1::REFUSAL_REASON_UNAUTHENTICATED);
                     }});
  attacks.push_back({"one that was revoked", [&] {
                       ASSERT_EQ(world.Enroll("eve", world.Token("eve")).status, 200U);
                       const auto eve = Showing(world, world.temp_.path() / "eve.crt", world.temp_.path() / "eve.key");
                       EXPECT_EQ(Pki::Value(world.TrySend(*eve, HttpRequest("GET", kBlob))).status, 404U);
                       Pki::Check(world.admin().Post("/v1/clients/eve:revoke", "").status());
                       for (const char* path : {"/v1/checkin", "/v1/reports", "/v1/uploads"}) {
                         ExpectRefused(Persist(world, *eve, HttpRequest("POST", path)), v1::REFUSAL_REASON_REVOKED);
                       }
                       // Another connection, which resumes the session of the first.
                       eve->Close();
                       ExpectRefused(Persist(world, *eve, HttpRequest("GET", kBlob)), v1::REFUSAL_REASON_REVOKED);
                     }});
  world.Withstand(attacks);
}

// ---- what was a device's own ----

// Everything that mallory may do with what is its own: none of it may still be done once its certificate is not good.
std::vector<HttpRequest> WithWhatIsItsOwn(AttackWorld& world, const std::string& upload) {
  const v1::TaskAssignment& task = world.TaskOf("mallory");
  const std::string bytes = world.UpdateOf("mallory");
  v1::ReportRequest completed = world.ReportOf(task, bytes), failed;
  completed.set_inline_update(bytes);
  failed.set_assignment_id(task.assignment_id());
  failed.set_outcome(v1::TASK_OUTCOME_FAILED);
  HttpRequest go_on("PATCH", upload, "more");
  go_on.headers.emplace_back("Upload-Offset", "100");
  const std::string adapter = Pki::Value(protocol::DigestOf(task.plan().adapter(1))).ToHex();
  return {{"HEAD", upload},
          {"GET", upload},
          go_on,
          world.UploadRequest(task.assignment_id(), bytes),
          {"GET", "/v1/blobs/" + adapter},
          {"HEAD", "/v1/blobs/" + adapter},
          {"GET", "/v1/blobs/" + adapter + "/weights"},
          {"GET", "/v1/blobs/" + adapter + "/from/" + adapter},
          {"POST", "/v1/reports", completed.SerializeAsString()},
          {"POST", "/v1/reports", failed.SerializeAsString()},
          AttackWorld::CheckinRequestOf()};
}

// An upload of mallory's with its first hundred bytes.
std::string BeginOwnUpload(AttackWorld& world) {
  HttpRequest begin = world.UploadRequest(world.TaskOf("mallory").assignment_id(), protocol::MakeBytes(3000, 4));
  begin.body.resize(100);
  return std::string(world.SendAs("mallory", std::move(begin)).Header("Location").value_or("/none"));
}

uint64_t OffsetOf(AttackWorld& world, const std::string& upload) {
  const HttpResponse answer = world.SendAs("mallory", HttpRequest("HEAD", upload));
  EXPECT_EQ(answer.status, 200U);
  return std::stoull(std::string(answer.Header("Upload-Offset").value_or("0")));
}

void ExpectClosed(AttackWorld& world, HttpClient& client, const std::string& upload, v1::RefusalReason reason) {
  for (const HttpRequest& request : WithWhatIsItsOwn(world, upload)) {
    SCOPED_TRACE(request.method + " " + request.target);
    const HttpResponse answer = Persist(world, client, request);
    EXPECT_EQ(answer.status, protocol::HttpStatusOf(reason));
    if (request.method != "HEAD") ExpectRefused(answer, reason);
  }
}

TEST(Attacks, WhatWasADevicesOwnIsClosedToACertificateThatIsNoLongerGood) {
  AttackWorld world;
  const fs::path old = world.temp_.path() / "old.crt", key = world.temp_.path() / "mallory.key";
  const auto replaced = [&] {
    fs::copy_file(world.temp_.path() / "mallory.crt", old, fs::copy_options::overwrite_existing);
    const std::string upload = BeginOwnUpload(world);
    const auto before = Showing(world, old, key);
    EXPECT_EQ(Pki::Value(world.TrySend(*before, HttpRequest("HEAD", upload))).status, 200U);
    ASSERT_EQ(world.Enroll("mallory", world.Token("mallory")).status, 200U);
    ExpectClosed(world, *before, upload, v1::REFUSAL_REASON_UNAUTHENTICATED);
    ExpectClosed(world, *Showing(world, old, key), upload, v1::REFUSAL_REASON_UNAUTHENTICATED);
    // The device itself goes on where it was, with the new one.
    world.Reconnect("mallory");
    EXPECT_EQ(OffsetOf(world, upload), 100U);
  };
  const auto revoked = [&] {
    const std::string upload = BeginOwnUpload(world);
    Pki::Check(world.admin().Post("/v1/clients/mallory:revoke", "").status());
    const auto anew = world.ClientOf("mallory");
    ExpectClosed(world, *anew, upload, v1::REFUSAL_REASON_REVOKED);
    // Nor with the one that had been replaced before.
    ExpectClosed(world, *Showing(world, old, key), upload, v1::REFUSAL_REASON_REVOKED);
  };
  world.Withstand({{"a certificate that was replaced", replaced},
                   {"one that was replaced again", replaced},
                   {"one that was revoked, in the last round", revoked}});
}

// ---- what is no TLS 1.3 ----

// A handshake of a client as `adjust` makes it. False: it did not come about.
bool Handshake(AttackWorld& world, const std::function<void(SSL_CTX*)>& adjust) {
  boost::asio::ssl::context tls(boost::asio::ssl::context::tls_client);
  SSL_CTX_set_verify(tls.native_handle(), SSL_VERIFY_NONE, nullptr);
  SSL_CTX_set_security_level(tls.native_handle(), 0);  // ours would refuse to offer some of it
  adjust(tls.native_handle());
  RawPeer peer(world.port());
  return peer.TryTls(tls);
}

TEST(Attacks, OldVersionsAndWeakSuitesAreRefused) {
  AttackWorld world;
  const auto refused = [&world](std::string name, std::function<void(SSL_CTX*)> adjust) {
    return Attack{std::move(name), [&world, adjust = std::move(adjust)] { EXPECT_FALSE(Handshake(world, adjust)); }};
  };
  const auto version = [](int newest) {
    return [newest](SSL_CTX* tls) {
      SSL_CTX_set_min_proto_version(tls, TLS1_VERSION);
      SSL_CTX_set_max_proto_version(tls, newest);
      SSL_CTX_set_cipher_list(tls, "ALL:@SECLEVEL=0");
    };
  };
  EXPECT_TRUE(Handshake(world, [](SSL_CTX*) {})) << "what is offered by itself is taken";
  world.Withstand({
      refused("TLS 1.0", version(TLS1_VERSION)),
      refused("TLS 1.1", version(TLS1_1_VERSION)),
      refused("TLS 1.2 with every suite", version(TLS1_2_VERSION)),
      refused("a suite with a short tag only",
              [](SSL_CTX* tls) { SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_CCM_8_SHA256"); }),
      refused("a suite that is not ours only",
              [](SSL_CTX* tls) { SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_CCM_SHA256"); }),
      refused("a weak signature only", [](SSL_CTX* tls) { SSL_CTX_set1_sigalgs_list(tls, "ECDSA+SHA1:RSA+SHA1"); }),
  });
}

TEST(Attacks, WhatIsNoTlsAtAllEndsTheHandshakeOnly) {
  AttackWorld world([](CoordinatorConfig& config) { config.handshake_timeout_s = 2; });
  const auto ends = [&world](std::string name, std::string bytes) {
    return Attack{std::move(name), [&world, bytes = std::move(bytes)] {
                    RawPeer peer(world.port());
                    peer.Send(bytes);
                    std::string answer;
                    EXPECT_TRUE(peer.ReadToEnd(&answer));
                    EXPECT_EQ(answer.find("HTTP"), std::string::npos) << "nothing is said in the clear";
                  }};
  };
  std::vector<Attack> attacks = {
      ends("plain HTTP", "GET /v1/checkin HTTP/1.1\r\nHost: x\r\n\r\n"),
      ends("plain HTTP with a body", "POST /v1/enroll HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"),
      ends("random bytes", protocol::MakeBytes(10'000)),
      ends("zeros", std::string(10'000, '\0')),
      ends("a record larger than any", std::string("\x16\x03\x01\xff\xff", 5) + std::string(70'000, 'x')),
      ends("an alert", std::string("\x15\x03\x03\x00\x02\x02\x28", 7)),
      ends("data before any handshake", std::string("\x17\x03\x03\x00\x05hello", 10)),
      ends("a hello of SSL 2", std::string("\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", 11) + std::string(64, 'x')),
  };
  attacks.push_back({"a thousand records that were good before they were bent", [&world] {
                       const std::string hello = RawPeer::ClientHello(*world.TlsOf("mallory"));
                       ASSERT_GT(hello.size(), 100U);
                       std::mt19937 random(5);
                       for (int i = 0; i < 1000; ++i) {
                         std::string bytes = hello;
                         for (size_t edits = 1 + random() % 4; edits > 0; --edits) {
                           bytes[random() % bytes.size()] = static_cast<char>(random());
                         }
                         if (i % 3 == 0) bytes.resize(random() % bytes.size());
                         if (i % 5 == 0) bytes += bytes;
                         RawPeer peer(world.port());
                         peer.Send(bytes);
                         peer.EndSending();
                         EXPECT_TRUE(peer.ReadToEnd()) << i;
                       }
                     }});
  attacks.push_back({"a connection that is reset in the middle of its handshake, a thousand times", [&world] {
                       const std::string hello = RawPeer::ClientHello(*world.TlsOf("mallory"));
                       for (size_t i = 0; i < 1000; ++i) {
                         RawPeer peer(world.port());
                         peer.Send(hello.substr(0, i % (hello.size() + 1)));
                         peer.Reset();
                       }
                     }});
  attacks.push_back({"a TLS hello to the loopback listener", [&world] {
                       RawPeer peer(world.admin_port());
                       peer.Send(RawPeer::ClientHello(*world.TlsOf("mallory")) + "\r\n\r\n");
                       EXPECT_EQ(peer.ReadStatus(), 400);
                       EXPECT_TRUE(peer.ReadToEnd());
                     }});
  world.Withstand(attacks);
}

}  // namespace
}  // namespace heddle::coordinator
