#include "protocol/refusal.h"

#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include "protocol/limits.h"
#include "protocol/validate.h"

namespace heddle::protocol {
namespace {

TEST(Refusal, EveryReasonHasANameAStatusAndACode) {
  const auto* reasons = v1::RefusalReason_descriptor();
  for (int i = 0; i < reasons->value_count(); ++i) {
    const auto reason = static_cast<v1::RefusalReason>(reasons->value(i)->number());
    SCOPED_TRACE(reasons->value(i)->name());
    if (reason == v1::REFUSAL_REASON_UNSPECIFIED) continue;
    EXPECT_EQ("REFUSAL_REASON_" + std::string(ReasonName(reason)), reasons->value(i)->name());
    EXPECT_GE(HttpStatusOf(reason), 400u);
    EXPECT_LT(HttpStatusOf(reason), 600u);
    EXPECT_NE(CodeOf(reason), Code::kOk);
    EXPECT_NE(CodeOf(reason), Code::kUnknown);
    // What an answer without a body is taken for has at least the same status class.
    EXPECT_EQ(HttpStatusOf(ReasonOfHttpStatus(HttpStatusOf(reason))) / 100, HttpStatusOf(reason) / 100);
  }
}

TEST(Refusal, UnknownReasonsOfNewerPeersAreHandled) {
  const auto newer = static_cast<v1::RefusalReason>(999);
  EXPECT_EQ(HttpStatusOf(newer), 500u);
  EXPECT_EQ(CodeOf(newer), Code::kUnknown);
  EXPECT_EQ(ReasonName(newer), "UNKNOWN");
}

TEST(Refusal, RetryAfterIsRoundedUpAndBounded) {
  const auto with = [](Duration retry) { return MakeRefusal(v1::REFUSAL_REASON_OVERLOADED, "full", retry); };
  EXPECT_EQ(with(Duration(0)).retry_after_ms(), 0u);
  EXPECT_EQ(with(Duration(-5)).retry_after_ms(), 0u);
  EXPECT_EQ(with(Duration(1)).retry_after_ms(), 1u);
  EXPECT_EQ(with(Seconds(1.5)).retry_after_ms(), 1500u);
  EXPECT_EQ(with(Duration::max()).retry_after_ms(), kMaxRetryAfterMs);
  for (const Duration time : {Duration(0), Duration(-5), Duration(1), Seconds(1.5), Duration::max()}) {
    const v1::CheckinResponse response = MakeRejection(v1::REJECTION_REASON_SHUTTING_DOWN, time);
    EXPECT_EQ(response.rejection().retry_after_ms(), with(time).retry_after_ms());
    EXPECT_EQ(response.rejection().reason(), v1::REJECTION_REASON_SHUTTING_DOWN);
  }
  EXPECT_EQ(RetryAfterValue(with(Duration(0))), "");
  EXPECT_EQ(RetryAfterValue(with(Duration(1))), "1");
  EXPECT_EQ(RetryAfterValue(with(Seconds(1.0))), "1");
  EXPECT_EQ(RetryAfterValue(with(Seconds(1.001))), "2");
}

TEST(Refusal, LongMessagesAreCutWithoutBreakingACharacter) {
  const std::string text(2000, 'x');
  EXPECT_EQ(MakeRefusal(v1::REFUSAL_REASON_MALFORMED, text).message().size(), kMaxRefusalMessageBytes);
  std::string umlauts = "x";
  while (umlauts.size() < 2000) umlauts += "\xC3\xA4";
  const v1::Refusal refusal = MakeRefusal(v1::REFUSAL_REASON_MALFORMED, umlauts);
  EXPECT_EQ(refusal.message().size(), kMaxRefusalMessageBytes - 1);
  const auto parsed = ParseMessage<v1::Refusal>(SerializeRefusal(refusal));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->message(), refusal.message());
}

TEST(Refusal, BecomesAStatusThatSaysWhy) {
  const Status status = StatusOf(MakeRefusal(v1::REFUSAL_REASON_BAD_TOKEN, "the token was used already"));
  EXPECT_EQ(status.code(), Code::kPermissionDenied);
  EXPECT_EQ(status.message(), "BAD_TOKEN: the token was used already");
}

TEST(Refusal, OwnErrorsFindTheirReason) {
  EXPECT_EQ(ReasonOf(InvalidArgument("x")), v1::REFUSAL_REASON_MALFORMED);
  EXPECT_EQ(ReasonOf(ResourceExhausted("x")), v1::REFUSAL_REASON_OVERLOADED);
  EXPECT_EQ(ReasonOf(Unavailable("x")), v1::REFUSAL_REASON_UNAVAILABLE);
  EXPECT_EQ(ReasonOf(DataLoss("x")), v1::REFUSAL_REASON_DIGEST_MISMATCH);
  EXPECT_EQ(ReasonOf(Internal("x")), v1::REFUSAL_REASON_INTERNAL);
}

}  // namespace
}  // namespace heddle::protocol
