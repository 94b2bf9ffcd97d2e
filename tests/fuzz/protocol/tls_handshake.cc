// Any bytes as what a stranger sends to the devices' listener before it is known: OpenSSL under our server's settings
// takes them in pieces, and no session comes of it without a handshake.
#include <openssl/ssl.h>

#include <algorithm>

#include "protocol/transport/openssl_util.h"
#include "protocol/transport/tls.h"
#include "tests/fuzz/scratch.h"

using heddle::fuzz::Require;
using namespace heddle;
using namespace heddle::protocol;

namespace {

SSL_CTX* ServerContext() {
  static const auto context = [] {
    const fuzz::Scratch scratch;
    Require(CertificateAuthority::Create(scratch.path(), "fuzzed authority", Seconds(86400)).ok(), "an authority");
    const auto authority = CertificateAuthority::Load(scratch.path());
    Require(authority.ok() && authority->IssueServer(scratch.path(), {"localhost"}, Seconds(86400)).ok(), "a server");
    ServerTlsOptions options;
    options.certificate = scratch / "server.crt";
    options.key = scratch / "server.key";
    options.ca_pem = authority->certificate_pem();
    auto made = MakeServerTls(options);
    Require(made.ok(), "the server's settings are good", made.status().message());
    return *std::move(made);
  }();
  return context->native_handle();
}

struct FreeSsl {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > (64 << 10)) return 0;
  heddle::fuzz::Input input(data, size);
  const size_t piece = 1 + input.TakeNumber(2);
  const std::string_view rest = input.rest();
  const std::unique_ptr<SSL, FreeSsl> ssl(SSL_new(ServerContext()));
  BIO* in = BIO_new(BIO_s_mem());
  BIO* out = BIO_new(BIO_s_mem());
  Require(ssl && in && out, "there is memory for a connection");
  SSL_set_bio(ssl.get(), in, out);  // owns both
  SSL_set_accept_state(ssl.get());
  for (size_t at = 0; at < rest.size(); at += piece) {
    const std::string_view part = rest.substr(at, piece);
    BIO_write(in, part.data(), static_cast<int>(part.size()));
    char byte = 0;
    // Nobody can know the key share of this connection's answer, so nothing in the input can finish the handshake.
    Require(SSL_read(ssl.get(), &byte, 1) <= 0, "no byte comes out of what was never agreed on");
    Require(SSL_is_init_finished(ssl.get()) == 0, "no input made of bytes alone is a finished handshake");
  }
  internal::TakeOpenSslErrors();
  return 0;
}
