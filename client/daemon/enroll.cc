#include "client/daemon/enroll.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <optional>

#include "client/daemon/link.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/test_hooks.h"
#include "protocol/limits.h"
#include "protocol/transport/tls.h"
#include "protocol/validate.h"

namespace heddle::client {

namespace fs = std::filesystem;

IdentityFiles IdentityIn(const fs::path& state_dir) {
  return {state_dir / "device.key", state_dir / "device.crt", state_dir / "ca.crt"};
}

Result<EnrolmentToken> ParseToken(const std::string& text) {
  const size_t dot = text.rfind('.');
  const Status bad = InvalidArgument(
      "the token must look like <random>.<64 hex digits>, as `heddle device token` prints it; copy all of it");
  if (dot == std::string::npos || dot == 0 || dot > protocol::kMaxTokenBytes) return bad;
  const Result<Sha256Digest> fingerprint = Sha256Digest::FromHex(std::string_view(text).substr(dot + 1));
  if (!fingerprint.ok()) return bad;
  return EnrolmentToken{text.substr(0, dot), fingerprint->ToHex()};
}

namespace {

Result<v1::EnrollResponse> Ask(const ClientConfig& config, const EnrolmentToken& token, const std::string& csr_der) {
  protocol::ClientTlsOptions tls;
  tls.pinned_ca_fingerprint = token.ca_fingerprint;
  protocol::ClientOptions options;
  options.host = config.host;
  options.port = config.port;
  options.server_name = config.server_name;
  options.verify_name = false;  // the fingerprint says who it is
  HEDDLE_ASSIGN_OR_RETURN(options.tls, protocol::MakeClientTls(tls));

  v1::EnrollRequest message;
  message.set_token(token.secret);
  message.set_csr_der(csr_der);
  HEDDLE_RETURN_IF_ERROR(protocol::Validate(message));

  boost::asio::io_context io;
  protocol::HttpClient client(io.get_executor(), options);
  std::optional<Result<protocol::HttpResponse>> answer;
  const auto call = [&]() -> boost::asio::awaitable<void> {
    protocol::HttpRequest request("POST", "/v1/enroll", message.SerializeAsString());
    answer.emplace(co_await client.Send(std::move(request)));
    client.Close();
  };
  boost::asio::co_spawn(io, call(), boost::asio::detached);
  io.run();

  if (!answer) return Internal("the call to the coordinator did not end");
  const std::string where = config.host + " port " + std::to_string(config.port);
  if (!answer->ok()) {
    const Status& status = answer->status();
    if (status.code() == Code::kUnauthenticated)
      return Unauthenticated("the server at " + where +
                             " is not the coordinator this token is for: the fingerprint differs (" + status.message() +
                             ")");
    if (status.code() != Code::kUnavailable && status.code() != Code::kDeadlineExceeded) return status;
    return Status(status.code(),
                  status.message() + "; check coordinator.host and coordinator.port, and that heddle-coordinator runs");
  }
  if ((*answer)->status != 200) {
    const CallFailed refused = FailureOf(**answer);
    if (refused.reason == v1::REFUSAL_REASON_BAD_TOKEN)
      return PermissionDenied(
          "the coordinator does not accept this token: it is unknown, used or expired; ask for a new one (heddle "
          "device token)");
    return refused.status.Annotate("the coordinator refuses to enroll this device");
  }
  return protocol::ParseMessage<v1::EnrollResponse>((*answer)->body);
}

// The certificates are what the token and our key say they are.
Status CheckIdentity(const v1::EnrollResponse& response, const EnrolmentToken& token, const fs::path& certificate,
                     const fs::path& key) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string fingerprint,
                          protocol::CertificateFingerprint(response.ca_certificate_pem()));
  if (fingerprint != token.ca_fingerprint)
    return Unauthenticated("the coordinator sent another authority's certificate than the token names");
  HEDDLE_ASSIGN_OR_RETURN(const std::string name, protocol::CertificateCommonName(response.certificate_pem()));
  if (name != response.device_id())
    return InvalidArgument("the certificate is for '" + name + "', the answer for '" + response.device_id() + "'");
  protocol::ClientTlsOptions identity;
  identity.ca_pem = response.ca_certificate_pem();
  identity.certificate = certificate;
  identity.key = key;
  return protocol::MakeClientTls(identity).status();  // refuses a certificate of another key
}

}  // namespace

Result<std::string> Enroll(const ClientConfig& config, const std::string& token_text) {
  HEDDLE_ASSIGN_OR_RETURN(const EnrolmentToken token, ParseToken(token_text));
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(config.state_dir));
  const IdentityFiles files = IdentityIn(config.state_dir);
  std::error_code error;
  if (fs::exists(files.certificate, error))
    return AlreadyExists("this device is enrolled already; to enroll it anew, delete " + files.certificate.string());
  if (!fs::exists(files.key, error)) HEDDLE_RETURN_IF_ERROR(protocol::GenerateKeyFile(files.key));
  HEDDLE_FAILPOINT(kEnrollKeyWritten);
  HEDDLE_ASSIGN_OR_RETURN(const std::string csr, protocol::MakeCsrDer(files.key, "device"));
  HEDDLE_ASSIGN_OR_RETURN(const v1::EnrollResponse response, Ask(config, token, csr));

  HEDDLE_FAILPOINT(kEnrollAnswered);
  const fs::path fresh = files.certificate.string() + ".new";
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(fresh, response.certificate_pem()));
  HEDDLE_FAILPOINT(kEnrollCertificateHalf);
  Status status = CheckIdentity(response, token, fresh, files.key);
  if (status.ok()) status = WriteFileAtomically(files.ca, response.ca_certificate_pem());
  HEDDLE_FAILPOINT(kEnrollAuthorityWritten);
  if (status.ok()) status = RenameDurably(fresh, files.certificate);
  if (!status.ok()) {
    fs::remove(fresh, error);
    return status;
  }
  HEDDLE_FAILPOINT(kEnrollDone);
  return response.device_id();
}

}  // namespace heddle::client
