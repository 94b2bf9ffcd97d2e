// TLS contexts of both ends (tls.h).
#include "protocol/transport/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "common/digest.h"
#include "common/file.h"
#include "protocol/transport/openssl_util.h"

namespace heddle::protocol {
namespace {

using internal::CertPtr;
using internal::KeyPtr;
using internal::OpenSslDeleter;
using internal::OpenSslStatus;

using ContextPtr = std::unique_ptr<SSL_CTX, OpenSslDeleter<SSL_CTX_free>>;
using NativeContext = std::shared_ptr<boost::asio::ssl::context>;

// AES-128-GCM first: the fastest where the processor helps. A client that puts ChaCha20 first (no AES instructions)
// gets it.
constexpr char kCiphersuites[] = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384";
// What one recv() may bring: several records, so that fewer system calls move a body.
constexpr size_t kReadBufferBytes = size_t{64} << 10;
constexpr long kTicketSeconds = 24 * 3600;

Result<ContextPtr> NewContext(const SSL_METHOD* method) {
  ERR_clear_error();
  ContextPtr context(SSL_CTX_new(method));
  if (!context || SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(context.get(), kCiphersuites) != 1)
    return OpenSslStatus(Code::kInternal, "cannot make a TLS context");
  SSL_CTX_set_mode(context.get(),
                   SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(context.get(), 1);
  SSL_CTX_set_default_read_buffer_len(context.get(), kReadBufferBytes);
  SSL_CTX_set_timeout(context.get(), kTicketSeconds);
  return context;
}

Status UseIdentity(SSL_CTX* context, const std::filesystem::path& certificate, const std::filesystem::path& key_path) {
  HEDDLE_ASSIGN_OR_RETURN(std::string pem, ReadFile(certificate));
  HEDDLE_ASSIGN_OR_RETURN(std::vector<CertPtr> chain, internal::ParseCertificates(pem, certificate.string()));
  HEDDLE_ASSIGN_OR_RETURN(KeyPtr key, internal::LoadPrivateKey(key_path));
  ERR_clear_error();
  if (SSL_CTX_use_certificate(context, chain.front().get()) != 1)
    return OpenSslStatus(Code::kInvalidArgument, certificate.string() + " cannot be used");
  for (size_t i = 1; i < chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context, chain[i].get()) != 1)
      return OpenSslStatus(Code::kInvalidArgument, certificate.string() + " cannot be used");
  }
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1 || SSL_CTX_check_private_key(context) != 1)
    return OpenSslStatus(Code::kInvalidArgument,
                         certificate.string() + " and " + key_path.string() + " do not belong together");
  return OkStatus();
}

Status TrustCertificates(SSL_CTX* context, const std::string& pem) {
  HEDDLE_ASSIGN_OR_RETURN(std::vector<CertPtr> authorities,
                          internal::ParseCertificates(pem, "the authority's certificate"));
  for (const CertPtr& authority : authorities) {
    // OpenSSL reads an authority's extensions when it is first used, which all threads' handshakes would do at once.
    X509_check_purpose(authority.get(), -1, 0);
    if (X509_STORE_add_cert(SSL_CTX_get_cert_store(context), authority.get()) != 1)
      return OpenSslStatus(Code::kInvalidArgument, "the authority's certificate cannot be used");
  }
  return OkStatus();
}

NativeContext Wrap(ContextPtr context) {
  return std::make_shared<boost::asio::ssl::context>(context.release());  // takes ownership
}

// Enrolment: of the chain that the server shows, the certificate with the pinned fingerprint becomes the only trust
// anchor, and the chain is verified up to it in the ordinary way. `arg` is the fingerprint, owned by the context.
int VerifyAgainstPin(X509_STORE_CTX* store_context, void* arg) {
  const auto& pin = *static_cast<const std::string*>(arg);
  STACK_OF(X509)* shown = X509_STORE_CTX_get0_untrusted(store_context);
  X509* anchor = nullptr;
  for (int i = 0; i < sk_X509_num(shown); ++i) {
    if (internal::FingerprintOf(sk_X509_value(shown, i)) == pin) anchor = sk_X509_value(shown, i);
  }
  if (!anchor) {
    X509_STORE_CTX_set_error(store_context, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN);
    return 0;
  }
  STACK_OF(X509)* trusted = sk_X509_new_null();
  int verified = 0;
  if (trusted && sk_X509_push(trusted, anchor) > 0) {
    X509_STORE_CTX_set0_trusted_stack(store_context, trusted);
    verified = X509_verify_cert(store_context);
    X509_STORE_CTX_set0_trusted_stack(store_context, nullptr);
  }
  sk_X509_free(trusted);
  return verified;
}

void FreePin(void*, void* pin, CRYPTO_EX_DATA*, int, long, void*) { delete static_cast<std::string*>(pin); }

// The slot of an SSL_CTX that owns its pin.
int PinIndex() {
  static const int index = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, FreePin);
  return index;
}

}  // namespace

Result<NativeContext> MakeServerTls(const ServerTlsOptions& options) {
  HEDDLE_ASSIGN_OR_RETURN(ContextPtr context, NewContext(TLS_server_method()));
  SSL_CTX_set_options(context.get(), SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
  HEDDLE_RETURN_IF_ERROR(UseIdentity(context.get(), options.certificate, options.key));
  HEDDLE_RETURN_IF_ERROR(TrustCertificates(context.get(), options.ca_pem));
  // Given certificates are verified; their absence is the business of the paths.
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_verify_depth(context.get(), 2);
  // Tickets carry the session, certificate included, encrypted to ourselves: no cache grows in our memory.
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context.get(), 1);
  static constexpr unsigned char kSessionContext[] = "heddle v1";
  SSL_CTX_set_session_id_context(context.get(), kSessionContext, sizeof kSessionContext - 1);
  return Wrap(std::move(context));
}

Result<NativeContext> MakeClientTls(const ClientTlsOptions& options) {
  HEDDLE_ASSIGN_OR_RETURN(ContextPtr context, NewContext(TLS_client_method()));
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);  // HttpClient keeps its own session
  if (!options.certificate.empty()) {
    HEDDLE_RETURN_IF_ERROR(UseIdentity(context.get(), options.certificate, options.key));
  }
  if (!options.ca_pem.empty()) HEDDLE_RETURN_IF_ERROR(TrustCertificates(context.get(), options.ca_pem));
  if (!options.pinned_ca_fingerprint.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(Sha256Digest digest, Sha256Digest::FromHex(options.pinned_ca_fingerprint));
    auto pin = std::make_unique<std::string>(digest.ToHex());
    SSL_CTX_set_cert_verify_callback(context.get(), VerifyAgainstPin, pin.get());
    if (SSL_CTX_set_ex_data(context.get(), PinIndex(), pin.get()) != 1)
      return OpenSslStatus(Code::kInternal, "cannot pin a fingerprint");
    pin.release();
  } else if (options.ca_pem.empty()) {
    return InvalidArgument("a TLS client needs the authority's certificate or its fingerprint");
  }
  return Wrap(std::move(context));
}

}  // namespace heddle::protocol
