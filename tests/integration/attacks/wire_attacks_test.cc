// Bytes that are no proper request: lengths that lie, requests hidden in others, floods of headers and of chunks, paths
// that climb. Each row is sent over TLS by an enrolled device, by a stranger, and to the loopback listener.
#include <gmock/gmock.h>

#include <functional>

#include "protocol/limits.h"
#include "tests/integration/attacks/attack_world.h"

namespace heddle::coordinator {
namespace {

using protocol::RawPeer;

// Which answers come, in their order, and whether the connection is at its end afterwards.
struct Row {
  const char* name;
  std::string bytes;
  std::vector<int> statuses;
  bool ends = true;
};

const std::string kHost = "Host: 127.0.0.1\r\n";
const std::string kHidden = "GET /v1/hidden HTTP/1.1\r\n" + kHost + "\r\n";

std::string Post(const std::string& headers, const std::string& body = "") {
  return "POST /v1/reports HTTP/1.1\r\n" + kHost + headers + "\r\n" + body;
}
std::string Get(const std::string& headers) { return "GET /v1/nothing HTTP/1.1\r\n" + kHost + headers + "\r\n"; }

std::string Repeat(const std::string& piece, size_t times) {
  std::string out;
  out.reserve(piece.size() * times);
  for (size_t i = 0; i < times; ++i) out += piece;
  return out;
}

// Refused for their framing alone, whoever sends them and to whom.
std::vector<Row> Framing() {
  const std::string chunks = "4\r\nabcd\r\n0\r\n\r\n";
  return {
      {"a negative Content-Length", Post("Content-Length: -1\r\n"), {400}},
      {"a Content-Length with a sign", Post("Content-Length: +4\r\n", "abcd"), {400}},
      {"a Content-Length in hexadecimal", Post("Content-Length: 0x4\r\n", "abcd"), {400}},
      {"a Content-Length in words", Post("Content-Length: four\r\n", "abcd"), {400}},
      {"an empty Content-Length", Post("Content-Length:\r\n", kHidden), {400}},
      {"a Content-Length with a fraction", Post("Content-Length: 4.0\r\n", "abcd"), {400}},
      {"a Content-Length beyond 64 bits", Post("Content-Length: 18446744073709551620\r\n", kHidden), {400}},
      {"the largest Content-Length of 64 bits", Post("Content-Length: 18446744073709551615\r\n"), {413}},
      {"a Content-Length that is negative for 64 bits", Post("Content-Length: 9223372036854775808\r\n"), {413}},
      {"a Content-Length beyond any blob", Post("Content-Length: 1099511627777\r\n"), {413}},
      {"two lengths that differ", Post("Content-Length: 4\r\nContent-Length: 50\r\n", "abcd" + kHidden), {400}},
      {"the same length twice", Post("Content-Length: 4\r\nContent-Length: 4\r\n", "abcd" + kHidden), {400}},
      {"two lengths in one header", Post("Content-Length: 4, 50\r\n", "abcd" + kHidden), {400}},
      {"the same length twice in one header", Post("Content-Length: 4, 4\r\n", "abcd" + kHidden), {400}},
      {"a body in chunks", Post("Transfer-Encoding: chunked\r\n", chunks + kHidden), {411}},
      {"a length, then chunks", Post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", chunks + kHidden), {400}},
      {"chunks, then a length", Post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", chunks + kHidden), {400}},
      {"chunks in capitals", Post("TRANSFER-ENCODING: Chunked\r\n", chunks + kHidden), {411}},
      {"chunks twice", Post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunks + kHidden), {400}},
      {"identity and chunks", Post("Transfer-Encoding: identity, chunked\r\n", chunks + kHidden), {411}},
      {"an encoding that does not exist", Post("Transfer-Encoding: xchunked\r\n", chunks + kHidden), {411}},
      {"chunks behind a tab", Post("Transfer-Encoding:\tchunked\r\nContent-Length: 4\r\n", chunks + kHidden), {400}},
      {"chunks with a space before the colon",
       Post("Transfer-Encoding : chunked\r\nContent-Length: 4\r\n", "abcd" + kHidden),
       {400}},
      {"a length with a space before the colon", Post("Content-Length : 4\r\n", "abcd" + kHidden), {400}},
      {"chunks on a continued line", Post("Transfer-Encoding:\r\n chunked\r\nContent-Length: 4\r\n", "abcd"), {400}},
      {"chunks hidden on a continued line", Post("X: y\r\n Transfer-Encoding: chunked\r\n", chunks), {400}},
      {"a length hidden behind a tab", Post("X: y\r\n\tContent-Length: 40\r\n", kHidden), {400}},
      {"chunks behind a bare LF", Post("X: y\nTransfer-Encoding: chunked\r\n", chunks), {400}},
      {"chunks behind a bare CR", Post("X: y\rTransfer-Encoding: chunked\r\n", chunks), {400}},
      {"a NUL in a header's name", Get(std::string("Content\0Length: 4\r\n", 19)), {400}},
      {"a NUL in a header's value", Get(std::string("X: a\0b\r\n", 8)), {400}},
      {"lines that end in LF", "GET /v1/nothing HTTP/1.1\nHost: 127.0.0.1\n\n\r\n\r\n", {400}},
      {"a header without a name", Get(": nothing\r\n"), {400}},
      {"a header without a colon", Get("Transfer-Encoding chunked\r\n"), {400}},
      {"no host", "GET /v1/nothing HTTP/1.1\r\n\r\n", {400}},
      {"two hosts", Get(kHost), {400}},
      {"a target of another server", "GET http://elsewhere/v1/nothing HTTP/1.1\r\n" + kHost + "\r\n", {400}},
      {"a tunnel to somebody else", "CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n\r\n", {400}},
      {"a question about the whole server", "OPTIONS * HTTP/1.1\r\n" + kHost + "\r\n", {400}},
      {"HTTP/2 from the start", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}},
      {"HTTP/0.9", "GET /v1/nothing\r\n\r\n", {400}},
      {"a version of the future", "GET /v1/nothing HTTP/9.9\r\n" + kHost + "\r\n", {400}},
      {"a method of control characters", "G\x01T /v1/nothing HTTP/1.1\r\n" + kHost + "\r\n", {400}},
      {"another protocol", std::string("SSH-2.0-OpenSSH_9.2\r\n\r\n"), {400}},
      {"an expectation that nobody can meet", Post("Expect: a miracle\r\nContent-Length: 4\r\n"), {417}},
      {"five thousand headers", Get(Repeat("a: b\r\n", 5000)), {431}},
      {"a header of 64 KiB", Get("X: " + std::string(65'536, 'x') + "\r\n"), {431}},
      {"headers without an end", "GET / HTTP/1.1\r\n" + Repeat("a: b\r\n", 100'000), {431}},
      {"a line without an end", std::string(1'000'000, 'A'), {414}},
      {"a target of 64 KiB", "GET /" + std::string(65'536, 'a') + " HTTP/1.1\r\n" + kHost + "\r\n", {414}},
      {"a query of 64 KiB", "GET /v1/nothing?" + std::string(65'536, 'a') + " HTTP/1.1\r\n" + kHost + "\r\n", {414}},
      {"a flood of chunks", Post("Transfer-Encoding: chunked\r\n", Repeat("1\r\nx\r\n", 500'000)), {411}},
      {"a chunk larger than memory", Post("Transfer-Encoding: chunked\r\n", "ffffffffffffffff\r\nx"), {411}},
      {"a flood of extensions of chunks",
       Post("Transfer-Encoding: chunked\r\n", Repeat("1;" + std::string(1000, 'e') + "\r\nx\r\n", 1000)),
       {411}},
      {"a flood of trailers", Post("Transfer-Encoding: chunked\r\n", "0\r\n" + Repeat("a: b\r\n", 100'000)), {411}},
  };
}

// What a device that is enrolled may frame as it does, and what becomes of it.
std::vector<Row> FromADevice() {
  return {
      {"a length longer than the body", Post("Content-Length: 100\r\n", "abcd"), {}},
      {"a length shorter than the body: the rest is the next request",
       Post("Content-Length: 4\r\n", "abcd" + kHidden),
       {400, 404},
       false},
      {"a request hidden in a body stays a body",
       Post("Content-Length: " + std::to_string(kHidden.size()) + "\r\n", kHidden),
       {400},
       false},
      {"a body of a GET is not the next request",
       Get("Content-Length: " + std::to_string(kHidden.size()) + "\r\n") + kHidden,
       {404},
       false},
      {"a hundred requests at once are answered one by one", Repeat(kHidden, 100), std::vector<int>(100, 404), false},
      {"a body that is announced larger than any message", Post("Content-Length: 1048577\r\n"), {413}},
      {"an upgrade to HTTP/2", Get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"), {404}, false},
      {"an upgrade to WebSocket", Get("Connection: Upgrade\r\nUpgrade: websocket\r\n"), {404}, false},
      {"a method that does not exist", "FROB /v1/reports HTTP/1.1\r\n" + kHost + "\r\n", {405}, false},
      {"a trace", "TRACE /v1/reports HTTP/1.1\r\n" + kHost + "\r\n", {405}, false},
      {"a method overridden in a header", Get("X-HTTP-Method-Override: POST\r\n"), {404}, false},
      {"a small body in gzip", Post("Content-Encoding: gzip\r\nContent-Length: 4\r\n", "\x1f\x8b\x08z"), {405}, false},
      {"a bomb in gzip",
       Post("Content-Encoding: gzip\r\nContent-Length: 50000\r\n", std::string(50'000, '\x1f')),
       {405},
       false},
      {"a bomb in zstd", Post("Content-Encoding: zstd\r\nContent-Length: 4\r\n", "\x28\xb5\x2f\xfd"), {405}, false},
      {"a bomb in a bomb", Post("Content-Encoding: br, gzip, gzip\r\nContent-Length: 4\r\n", "abcd"), {405}, false},
      {"a compressed enrolment",
       "POST /v1/enroll HTTP/1.1\r\n" + kHost + "Content-Encoding: deflate\r\nContent-Length: 2\r\n\r\nxx",
       {405},
       false},
      {"an enrolment larger than any",
       "POST /v1/enroll HTTP/1.1\r\n" + kHost + "Content-Length: 32769\r\n\r\n" + std::string(32'769, 'x'),
       {413},
       false},
      {"ranges without end",
       "GET /v1/blobs/" + std::string(64, 'a') + " HTTP/1.1\r\n" + kHost + "Range: bytes=" + Repeat("0-1,", 2000) +
           "5-6\r\n\r\n",
       {404},
       false},
  };
}

void Expect(RawPeer& peer, const Row& row) {
  peer.Send(row.bytes);  // may break when the answer comes first
  if (row.statuses.empty()) peer.EndSending();
  for (const int status : row.statuses) EXPECT_EQ(peer.ReadStatus(), status);
  if (row.ends) {
    std::string rest;
    EXPECT_TRUE(peer.ReadToEnd(&rest)) << "the connection must end";
    EXPECT_TRUE(rest.empty()) << rest;
  } else {
    peer.Send(kHidden);
    EXPECT_EQ(peer.ReadStatus(), 404) << "the connection must go on where it was";
  }
}

TEST(Attacks, RequestsThatAreFramedWrongEndTheirConnection) {
  AttackWorld world;
  std::vector<Attack> attacks;
  for (const Row& row : Framing()) {
    attacks.push_back({row.name, [&world, row] {
                         Expect(*world.Peer("mallory"), row);
                         Expect(*world.Peer(""), row);
                         RawPeer admin(world.admin_port());
                         Expect(admin, row);
                       }});
  }
  world.Withstand(attacks);
}

TEST(Attacks, RequestsOfADeviceAreNotMistakenForOthers) {
  AttackWorld world;
  std::vector<Attack> attacks;
  for (const Row& row : FromADevice()) {
    attacks.push_back({row.name, [&world, row] { Expect(*world.Peer("mallory"), row); }});
  }
  world.Withstand(attacks);
}

// ---- names ----

std::vector<std::string> Names() {
  return {"..",
          "../coordinator.db",
          "../../etc/passwd",
          "....//....//coordinator.db",
          "..\\coordinator.db",
          "%2e%2e%2fcoordinator.db",
          "%2e%2e/admin.token",
          "..%2fpki%2fca.key",
          "%252e%252e%252fca.key",
          "..%c0%afca.key",
          "%ef%bc%8e%ef%bc%8e/ca.key",
          "%e2%80%ae"
          "bd.rotanidrooc",
          "/etc/passwd",
          "//etc/passwd",
          ".",
          "%20",
          "%0d%0aSet-Cookie:%20a=b",
          "%0a",
          "%7f",
          "%ff%fe",
          "file:///etc/passwd",
          "CON",
          "~root",
          "$(reboot)",
          "';DROP%20TABLE%20devices;--",
          "*",
          "%25n%25n%25n",
          std::string(64, '0'),
          std::string(63, 'a'),
          std::string(65, 'a'),
          std::string(64, 'A'),
          std::string(64, 'g'),
          std::string(32, '0'),
          "00000000000000000000000000000000/../x",
          std::string(1900, 'a'),
          "aa/" + std::string(62, 'a')};
}

// Neither served nor treated as something that is there; and no word of where things lie on the disk.
void ExpectNothing(AttackWorld& world, const HttpResponse& answer, const std::string& target) {
  EXPECT_TRUE(answer.status == 400 || answer.status == 404 || answer.status == 405) << target << ": " << answer.status;
  EXPECT_EQ(answer.body.find(world.config_.state_dir), std::string::npos) << target << ": " << answer.body;
  EXPECT_EQ(answer.body.find("PRIVATE KEY"), std::string::npos) << target;
  EXPECT_FALSE(answer.Header("Set-Cookie")) << target;
}

TEST(Attacks, NamesThatClimbFindNothing) {
  AttackWorld world;
  std::vector<Attack> attacks;
  for (const std::string& name : Names()) {
    attacks.push_back({"the name " + name, [&world, name] {
                         for (const auto& [method, prefix] :
                              std::vector<std::pair<std::string, std::string>>{{"GET", "/v1/blobs/"},
                                                                               {"HEAD", "/v1/blobs/"},
                                                                               {"GET", "/v1/uploads/"},
                                                                               {"PATCH", "/v1/uploads/"},
                                                                               {"GET", "/"},
                                                                               {"POST", "/v1/"}}) {
                           HttpRequest request(method, prefix + name);
                           request.headers.emplace_back("Upload-Offset", "0");
                           ExpectNothing(world, world.SendAs("mallory", std::move(request)), prefix + name);
                         }
                         HttpRequest upload = world.UploadRequest(name, "bytes");
                         ExpectNothing(world, world.SendAs("mallory", std::move(upload)), "the assignment " + name);
                         HttpRequest digest = world.UploadRequest(std::string(32, 'a'), "bytes");
                         digest.headers[1].second = name;
                         ExpectNothing(world, world.SendAs("mallory", std::move(digest)), "the digest " + name);
                         const std::string bearer = "Bearer " + world.AdminToken();
                         for (const char* suffix : {"", "/rounds", ":watch"}) {
                           const std::string target = "/v1/runs/" + name + suffix;
                           ExpectNothing(world, world.Admin("GET", target), target);
                         }
                         for (const auto& [prefix, suffix] : std::vector<std::pair<std::string, std::string>>{
                                  {"/v1/runs/", ":stop"}, {"/v1/clients/", ":revoke"}}) {
                           ExpectNothing(world, world.Admin("POST", prefix + name + suffix, "", bearer), prefix + name);
                         }
                       }});
  }
  attacks.push_back({"a NUL in a name ends the connection", [&world] {
                       Expect(*world.Peer(), {"", "GET /v1/blobs/%00 HTTP/1.1\r\n" + kHost + "\r\n", {400}});
                       Expect(*world.Peer(), {"", "GET /v1/blobs/%zz HTTP/1.1\r\n" + kHost + "\r\n", {400}});
                     }});
  world.Withstand(attacks);
}

}  // namespace
}  // namespace heddle::coordinator
