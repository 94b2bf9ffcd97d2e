// Resumable uploads: what is refused, and that an upload goes on where it was afterwards.
#include "protocol/validate.h"
#include "tests/unit/coordinator/service/service_fixture.h"

namespace heddle::coordinator {
namespace {

class UploadsTest : public ServiceTest {
 protected:
  UploadsTest() {
    SubmitRun();
    round_now_ = NextRound();
    assignment_ = round_now_["anna"].assignment_id();
  }
  // Begins the upload of bytes_ with its first `sent` bytes; its location.
  std::string Begin(size_t sent) {
    HttpRequest request = UploadRequest(assignment_, bytes_);
    request.body = bytes_.substr(0, sent);
    const HttpResponse begun = Send(Device("anna"), std::move(request));
    EXPECT_EQ(begun.status, 201U);
    EXPECT_EQ(begun.Header("Upload-Offset"), std::to_string(sent));
    return std::string(begun.Header("Location").value_or("/none"));
  }
  HttpResponse Patch(const std::string& device, const std::string& location, const std::string& offset,
                     const std::string& body) {
    HttpRequest request("PATCH", location, body);
    if (!offset.empty()) request.headers.emplace_back("Upload-Offset", offset);
    return Send(Device(device), std::move(request));
  }

  std::map<std::string, v1::TaskAssignment> round_now_;
  std::string assignment_;
  const std::string bytes_ = protocol::MakeBytes(5000);
};

TEST_F(UploadsTest, GoesOnWhereItWas) {
  const std::string location = Begin(1000);
  const HttpResponse asked = Send(Device("anna"), HttpRequest("HEAD", location));
  EXPECT_EQ(asked.status, 200U);
  EXPECT_EQ(asked.Header("Upload-Offset"), "1000");
  EXPECT_EQ(asked.Header("Upload-Length"), "5000");
  EXPECT_EQ(asked.Header("Upload-Complete"), std::nullopt);
  // Begun again: the same upload.
  HttpRequest again = UploadRequest(assignment_, bytes_);
  again.body.clear();
  const HttpResponse begun = Send(Device("anna"), std::move(again));
  EXPECT_EQ(begun.status, 200U);
  EXPECT_EQ(begun.Header("Location"), location);
  EXPECT_EQ(begun.Header("Upload-Offset"), "1000");

  const HttpResponse part = Patch("anna", location, "1000", bytes_.substr(1000, 3000));
  EXPECT_EQ(part.status, 204U);
  EXPECT_EQ(part.Header("Upload-Offset"), "4000");
  EXPECT_EQ(part.Header("Upload-Complete"), std::nullopt);
  const HttpResponse rest = Patch("anna", location, "4000", bytes_.substr(4000));
  EXPECT_EQ(rest.status, 204U);
  EXPECT_EQ(rest.Header("Upload-Complete"), "1");
  CommitRound("anna", round_now_["anna"]);
}

TEST_F(UploadsTest, AWrongOffsetIsToldTheRightOne) {
  const std::string location = Begin(1000);
  for (const char* wrong : {"0", "999", "1001", "5000", "18446744073709551615"}) {
    SCOPED_TRACE(wrong);
    const HttpResponse refused = Patch("anna", location, wrong, "xyz");
    ExpectRefused(refused, v1::REFUSAL_REASON_WRONG_OFFSET);
    EXPECT_EQ(refused.Header("Upload-Offset"), "1000");
  }
  for (const char* nonsense : {"", "-1", "1e3", "99999999999999999999"}) {
    SCOPED_TRACE(nonsense);
    ExpectRefused(Patch("anna", location, nonsense, "xyz"), v1::REFUSAL_REASON_MALFORMED);
  }
  EXPECT_EQ(Patch("anna", location, "1000", bytes_.substr(1000)).Header("Upload-Complete"), "1");
  CommitRound("anna", round_now_["anna"]);
}

TEST_F(UploadsTest, BytesWithAnotherDigestAreDropped) {
  const std::string location = Begin(1000);
  ExpectRefused(Patch("anna", location, "1000", std::string(4000, 'x')), v1::REFUSAL_REASON_DIGEST_MISMATCH);
  EXPECT_EQ(Send(Device("anna"), HttpRequest("HEAD", location)).status, 404U);
  EXPECT_EQ(Begin(5000), location);
  CommitRound("anna", round_now_["anna"]);
}

TEST_F(UploadsTest, MoreThanWasDeclaredIsRefused) {
  HttpRequest request = UploadRequest(assignment_, bytes_);
  request.body += "more";
  ExpectRefused(Send(Device("anna"), std::move(request)), v1::REFUSAL_REASON_TOO_LARGE);
  HttpRequest begin = UploadRequest(assignment_, bytes_);
  begin.body.clear();
  const HttpResponse begun = Send(Device("anna"), std::move(begin));
  const std::string location(begun.Header("Location").value_or("/none"));
  const std::string offset(begun.Header("Upload-Offset").value_or(""));
  const std::string rest = bytes_.substr(static_cast<size_t>(std::stoul(offset)));
  ExpectRefused(Patch("anna", location, offset, rest + "more"), v1::REFUSAL_REASON_TOO_LARGE);
  EXPECT_EQ(Patch("anna", location, offset, rest).Header("Upload-Complete"), "1");
  CommitRound("anna", round_now_["anna"]);
}

TEST_F(UploadsTest, AnUploadThatIsTooLargeIsNotBegun) {
  // Beyond what this run's updates may have, beyond the coordinator's limit, beyond any number.
  const std::pair<const char*, v1::RefusalReason> lengths[] = {
      {"900000", v1::REFUSAL_REASON_TOO_LARGE},
      {"1099511627776", v1::REFUSAL_REASON_TOO_LARGE},
      {"18446744073709551615", v1::REFUSAL_REASON_TOO_LARGE},
      {"18446744073709551616", v1::REFUSAL_REASON_MALFORMED},
      {"-1", v1::REFUSAL_REASON_MALFORMED},
      {"0", v1::REFUSAL_REASON_MALFORMED},
      {"", v1::REFUSAL_REASON_MALFORMED},
  };
  for (const auto& [length, reason] : lengths) {
    SCOPED_TRACE(length);
    HttpRequest request = UploadRequest(assignment_, bytes_);
    request.body.clear();
    request.headers[2].second = length;
    ExpectRefused(Send(Device("anna"), std::move(request)), reason);
  }
  CommitRound("anna", round_now_["anna"]);
}

TEST_F(UploadsTest, AnotherAssignmentsUploadIsRefused) {
  ExpectRefused(Upload("anna", round_now_["bert"].assignment_id(), bytes_), v1::REFUSAL_REASON_NOT_YOURS);
  ExpectRefused(Upload("anna", std::string(32, 'a'), bytes_), v1::REFUSAL_REASON_NOT_FOUND);
  ExpectRefused(Upload("anna", "../../x", bytes_), v1::REFUSAL_REASON_MALFORMED);
  ExpectRefused(Upload("anna", "", bytes_), v1::REFUSAL_REASON_MALFORMED);
  HttpRequest digest = UploadRequest(assignment_, bytes_);
  digest.headers[1].second = "abc";
  ExpectRefused(Send(Device("anna"), std::move(digest)), v1::REFUSAL_REASON_MALFORMED);

  const std::string location = Begin(1000);
  EXPECT_EQ(Send(Device("bert"), HttpRequest("HEAD", location)).status, 403U);
  ExpectRefused(Patch("bert", location, "1000", bytes_.substr(1000)), v1::REFUSAL_REASON_NOT_YOURS);
  for (const std::string& unknown : {std::string(32, '0'), std::string("..%2fcoordinator.db"), std::string("x")}) {
    SCOPED_TRACE(unknown);
    ExpectRefused(Patch("anna", "/v1/uploads/" + unknown, "0", "x"), v1::REFUSAL_REASON_NOT_FOUND);
  }
  EXPECT_EQ(Patch("anna", location, "1000", bytes_.substr(1000)).Header("Upload-Complete"), "1");
  CommitRound("bert", round_now_["bert"]);
}

TEST_F(UploadsTest, ForAClosedAssignmentNothingIsKept) {
  const std::string begun_while_open = Begin(1000);
  CommitRound("bert", round_now_["bert"]);  // closes anna's
  const auto before = Metric("heddle_blob_bytes");
  // Begun anew with its bytes, or asked for without: there is nothing left to send, and the report says what became of
  // it.
  const std::string other = protocol::MakeBytes(6000, 2);
  HttpRequest asked = UploadRequest(assignment_, other);
  asked.body.clear();
  for (const HttpRequest& request : {UploadRequest(assignment_, other), asked}) {
    const HttpResponse answer = Send(Device("anna"), request);
    EXPECT_EQ(answer.status, 200U);
    EXPECT_EQ(answer.Header("Upload-Complete"), "1");
    EXPECT_EQ(answer.Header("Upload-Offset"), "6000");
  }
  // What was under way may come to its end.
  EXPECT_EQ(Patch("anna", begun_while_open, "1000", bytes_.substr(1000)).Header("Upload-Complete"), "1");
  EXPECT_EQ(Metric("heddle_blob_bytes"), before);
  EXPECT_EQ(Metric("heddle_uploads_unfinished"), 0);
  v1::ReportResponse verdict;
  ASSERT_TRUE(verdict.ParseFromString(Report("anna", ReportOf(round_now_["anna"], bytes_)).body));
  EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_LATE);
}

TEST_F(UploadsTest, AnUpdateThatIsAFileOfTheRunDoesNotTakeItAwayWithIt) {
  const v1::TaskAssignment task = round_now_["anna"];
  for (const v1::BlobRef& file : task.plan().base_model()) {
    if (file.size_bytes() > 100'000) continue;
    SCOPED_TRACE(file.name());
    const HttpRequest fetch("GET", "/v1/blobs/" + protocol::DigestOf(file).value().ToHex());
    const HttpResponse fetched = Send(Device("anna"), fetch);
    ASSERT_EQ(fetched.status, 200U);
    EXPECT_EQ(Upload("anna", assignment_, fetched.body).Header("Upload-Complete"), "1");
    EXPECT_EQ(Upload("anna", assignment_, bytes_).Header("Upload-Complete"), "1");
    EXPECT_EQ(Send(Device("bert"), fetch).status, 200U);
  }
  CommitRound("bert", round_now_["bert"]);
}

}  // namespace
}  // namespace heddle::coordinator
