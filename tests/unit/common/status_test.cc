#include "common/status.h"

#include <gtest/gtest.h>

#include <memory>
#include <sstream>

#include "common/build_info.h"

namespace heddle {
namespace {

TEST(Status, AnOkStatusStaysOkWhenAnnotated) {
  EXPECT_TRUE(OkStatus().ok());
  EXPECT_EQ(OkStatus().Annotate("reading x"), OkStatus());
  EXPECT_EQ(OkStatus().ToString(), "OK");
}

TEST(Status, AnnotatingPutsTheContextInFrontAndKeepsTheCode) {
  Status status = NotFound("no such key").Annotate("run.toml").Annotate("run 7");
  EXPECT_EQ(status.code(), Code::kNotFound);
  EXPECT_EQ(status.ToString(), "NOT_FOUND: run 7: run.toml: no such key");
  std::ostringstream out;
  out << status;
  EXPECT_EQ(out.str(), status.ToString());
}

TEST(Status, TheNumbersOfTheCodesAreThoseOnTheWireAndInDatabases) {
  EXPECT_EQ(static_cast<int>(InvalidArgument("").code()), 3);
  EXPECT_EQ(static_cast<int>(NotFound("").code()), 5);
  EXPECT_EQ(static_cast<int>(ResourceExhausted("").code()), 8);
  EXPECT_EQ(static_cast<int>(Unavailable("").code()), 14);
  EXPECT_EQ(static_cast<int>(Unauthenticated("").code()), 16);
  EXPECT_EQ(CodeName(Code::kUnauthenticated), "UNAUTHENTICATED");
  EXPECT_EQ(CodeName(Code::kDataLoss), "DATA_LOSS");
}

TEST(Status, ACodeOfANewerPeerIsNamedUnknown) {
  EXPECT_EQ(CodeName(static_cast<Code>(17)), "UNKNOWN");
  EXPECT_EQ(CodeName(static_cast<Code>(-1)), "UNKNOWN");
}

Result<int> Half(int n) {
  if (n % 2 != 0) return InvalidArgument("odd");
  return n / 2;
}

Result<int> Quarter(int n) {
  HEDDLE_ASSIGN_OR_RETURN(int half, Half(n));
  HEDDLE_ASSIGN_OR_RETURN(int quarter, Half(half));
  return quarter;
}

TEST(Result, TheMacrosPassValuesOnAndReturnTheFirstError) {
  ASSERT_TRUE(Quarter(12).ok());
  EXPECT_EQ(*Quarter(12), 3);
  EXPECT_EQ(Quarter(6).status(), InvalidArgument("odd"));
  EXPECT_TRUE(Quarter(12).status().ok());
}

TEST(Result, HoldsWhatCanOnlyBeMoved) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(5);
  std::unique_ptr<int> taken = *std::move(result);
  EXPECT_EQ(*taken, 5);
}

TEST(ResultDeathTest, ReadingTheValueOfAFailureIsABugAndAborts) {
  Result<int> failed = NotFound("nothing");
  EXPECT_DEATH({ [[maybe_unused]] int unused = *failed; }, "value\\(\\) of a failed Result");
  EXPECT_DEATH({ [[maybe_unused]] const Result<int> wrong{OkStatus()}; }, "a value or an error");
}

TEST(BuildInfo, TheVersionStartsWithThatOfTheProject) {
  EXPECT_TRUE(VersionString().starts_with("0.1.0")) << VersionString();
  std::string_view rest = VersionString().substr(5);
  EXPECT_TRUE(rest.empty() || (rest[0] == '+' && rest.size() >= 9)) << VersionString();
}

}  // namespace
}  // namespace heddle
