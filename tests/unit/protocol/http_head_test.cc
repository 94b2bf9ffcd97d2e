#include <gtest/gtest.h>

#include "protocol/limits.h"
#include "protocol/transport/http_head.h"
#include "protocol/transport/server.h"

namespace heddle::protocol {
namespace {

struct RangeCase {
  const char* header;  // null: none
  uint64_t size;
  enum { kWhole, kPart, kUnsatisfiable } outcome;
  uint64_t offset = 0, length = 0;
};

TEST(ParseRange, FollowsTheTable) {
  const RangeCase cases[] = {
      {nullptr, 10, RangeCase::kWhole},
      {"", 10, RangeCase::kWhole},
      {"bytes=0-9", 10, RangeCase::kPart, 0, 10},
      {"bytes=0-0", 10, RangeCase::kPart, 0, 1},
      {"bytes=3-", 10, RangeCase::kPart, 3, 7},
      {"bytes=3-100", 10, RangeCase::kPart, 3, 7},
      {"bytes=9-9", 10, RangeCase::kPart, 9, 1},
      {" Bytes= 2-4 ", 10, RangeCase::kPart, 2, 3},
      {"bytes=-4", 10, RangeCase::kPart, 6, 4},
      {"bytes=-100", 10, RangeCase::kPart, 0, 10},
      {"bytes=0-99999999999999999999999", 10, RangeCase::kPart, 0, 10},
      {"bytes=-99999999999999999999999", 10, RangeCase::kPart, 0, 10},
      {"bytes=10-", 10, RangeCase::kUnsatisfiable},
      {"bytes=10-12", 10, RangeCase::kUnsatisfiable},
      {"bytes=99999999999999999999999-", 10, RangeCase::kUnsatisfiable},
      {"bytes=-0", 10, RangeCase::kUnsatisfiable},
      {"bytes=0-", 0, RangeCase::kUnsatisfiable},
      {"bytes=-1", 0, RangeCase::kUnsatisfiable},
      {"bytes=5-2", 10, RangeCase::kWhole},
      {"bytes=0-1,3-4", 10, RangeCase::kWhole},
      {"bytes=-", 10, RangeCase::kWhole},
      {"bytes=a-b", 10, RangeCase::kWhole},
      {"bytes=+1-2", 10, RangeCase::kWhole},
      {"bytes 1-2", 10, RangeCase::kWhole},
      {"bytes", 10, RangeCase::kWhole},
      {"lines=1-2", 10, RangeCase::kWhole},
      {"=1-2", 10, RangeCase::kWhole},
      {"bytes=18446744073709551615-18446744073709551615", UINT64_MAX, RangeCase::kUnsatisfiable},
      {"bytes=0-18446744073709551615", UINT64_MAX, RangeCase::kPart, 0, UINT64_MAX},
  };
  for (const RangeCase& c : cases) {
    SCOPED_TRACE(std::string(c.header ? c.header : "(none)") + " of " + std::to_string(c.size));
    const auto got = ParseRange(c.header ? std::optional<std::string_view>(c.header) : std::nullopt, c.size);
    if (c.outcome == RangeCase::kUnsatisfiable) {
      EXPECT_EQ(got.status().code(), Code::kOutOfRange);
      continue;
    }
    ASSERT_TRUE(got.ok());
    ASSERT_EQ(got->has_value(), c.outcome == RangeCase::kPart);
    if (!got->has_value()) continue;
    EXPECT_EQ((*got)->offset, c.offset);
    EXPECT_EQ((*got)->length, c.length);
  }
}

RequestHead Parse(const std::string& text) {
  RequestHead head;
  HeadError error;
  EXPECT_TRUE(ParseRequestHead(text, &head, &error)) << error.message;
  return head;
}

TEST(RequestHead, HoldsWhatTheRequestSays) {
  const RequestHead head = Parse(
      "PATCH /v1/up%6Coads/x?offset=3 HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nX-A:  spaced \r\nExpect: "
      "100-Continue\r\n\r\n");
  EXPECT_EQ(head.method, "PATCH");
  EXPECT_EQ(head.path, "/v1/uploads/x");
  EXPECT_EQ(head.query, "offset=3");
  EXPECT_EQ(head.content_length, 12u);
  EXPECT_EQ(FindHeader(head.headers, "x-a"), "spaced");
  EXPECT_FALSE(FindHeader(head.headers, "x-b"));
  EXPECT_TRUE(head.keep_alive);
  EXPECT_TRUE(head.expects_continue);
}

TEST(RequestHead, KeepAliveFollowsVersionAndConnectionHeader) {
  EXPECT_TRUE(Parse("GET / HTTP/1.1\r\nHost: a\r\n\r\n").keep_alive);
  EXPECT_FALSE(Parse("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").keep_alive);
  EXPECT_FALSE(Parse("GET / HTTP/1.0\r\n\r\n").keep_alive);
  EXPECT_TRUE(Parse("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive);
  EXPECT_FALSE(Parse("GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").expects_continue);
}

TEST(RequestHead, LargestAllowedTargetPassesAndOneMoreDoesNot) {
  const auto request = [](size_t bytes) {
    return "GET /" + std::string(bytes - 1, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n";
  };
  EXPECT_EQ(Parse(request(kMaxTargetBytes)).path.size(), kMaxTargetBytes);
  RequestHead head;
  HeadError error;
  EXPECT_FALSE(ParseRequestHead(request(kMaxTargetBytes + 1), &head, &error));
  EXPECT_EQ(error.status, 414u);
}

TEST(RequestHead, LargestAllowedHeadPassesAndOneMoreDoesNot) {
  const std::string start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
  const auto request = [&](size_t bytes) { return start + std::string(bytes - start.size() - 4, 'a') + "\r\n\r\n"; };
  EXPECT_EQ(FindHeader(Parse(request(kMaxHttpHeaderBytes)).headers, "Host"), "a");
  RequestHead head;
  HeadError error;
  EXPECT_FALSE(ParseRequestHead(request(kMaxHttpHeaderBytes + 1), &head, &error));
  EXPECT_EQ(error.status, 431u);
}

TEST(FindHeadEnd, FindsTheEmptyLineAcrossPieces) {
  const std::string head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  for (size_t cut = 0; cut < head.size(); ++cut) {
    size_t from = 0;
    EXPECT_FALSE(FindHeadEnd(std::string_view(head).substr(0, cut), &from));
    EXPECT_EQ(FindHeadEnd(head + "body\r\n\r\n", &from), head.size()) << "cut at " << cut;
  }
}

TEST(ResponseHead, RoundTripsThroughItsOwnText) {
  const Headers headers = {{"Retry-After", "7"}, {"Location", "/v1/uploads/abc"}};
  const auto head = ParseResponseHead(FormatResponseHead(201, "text/plain", 42, headers, false));
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ(head->status, 201u);
  EXPECT_EQ(head->content_length, 42u);
  EXPECT_FALSE(head->keep_alive);
  EXPECT_EQ(FindHeader(head->headers, "retry-after"), "7");
  EXPECT_TRUE(FindHeader(head->headers, "Date").value_or("").ends_with(" GMT"));
  EXPECT_FALSE(ParseResponseHead(FormatResponseHead(204, "", std::nullopt, {}, true))->content_length);
}

TEST(ResponseHead, RefusesWhatHasNoLength) {
  EXPECT_FALSE(ParseResponseHead("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok());
  EXPECT_FALSE(ParseResponseHead("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").ok());
  EXPECT_FALSE(ParseResponseHead("HTTP/1.1 99 ?\r\n\r\n").ok());
  EXPECT_FALSE(ParseResponseHead("SSH-2.0-OpenSSH\r\n\r\n").ok());
}

TEST(RequestHead, RoundTripsThroughItsOwnText) {
  const RequestHead head = Parse(FormatRequestHead("POST", "/a?b=c", "host:1", "x/y", 9, {{"N", "v"}}));
  EXPECT_EQ(head.path, "/a");
  EXPECT_EQ(head.content_length, 9u);
  EXPECT_EQ(FindHeader(head.headers, "Content-Type"), "x/y");
  EXPECT_EQ(FindHeader(head.headers, "Host"), "host:1");
  EXPECT_FALSE(Parse(FormatRequestHead("GET", "/", "h", "x/y", std::nullopt, {})).content_length);
}

TEST(Query, FindsDecodedValues) {
  EXPECT_EQ(FindQuery("a=1&b=2", "b"), "2");
  EXPECT_EQ(FindQuery("a&b=", "a"), "");
  EXPECT_EQ(FindQuery("%61=x%2By+z", "a"), "x+y z");
  EXPECT_EQ(FindQuery("b=%zz", "b"), std::nullopt);
  EXPECT_EQ(FindQuery("", "a"), std::nullopt);
}

}  // namespace
}  // namespace heddle::protocol
