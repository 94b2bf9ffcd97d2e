// The words of a recipe: what they mean, and what is said of those that mean nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregation/compression/pipeline.h"

namespace heddle::compression {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Words = std::vector<std::string>;

std::string Mistakes(const Words& words) {
  const auto parsed = Pipeline::Parse(words);
  EXPECT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.status().code(), Code::kInvalidArgument);
  return parsed.status().message();
}

TEST(Pipeline, WordsBecomeStagesAndWordsAgain) {
  const Words words = {"random_mask:0.500000", "top_k:.01"};
  EXPECT_THAT(Mistakes(words), HasSubstr("'top_k:.01' needs a share"));
  const auto parsed = Pipeline::Parse(Words{"random_mask:0.500000", "top_k:0.01", "top_k:1.0", "int4"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->stages(), ElementsAre(Stage{StageKind::kRandomMask, 500'000}, Stage{StageKind::kTopK, 10'000},
                                            Stage{StageKind::kTopK, 1'000'000}, Stage{StageKind::kInt4, 0}));
  EXPECT_THAT(parsed->Words(), ElementsAre("random_mask:0.5", "top_k:0.01", "top_k:1", "int4"));
  EXPECT_EQ(parsed->ToString(), "random_mask:0.5, top_k:0.01, top_k:1, int4");
  EXPECT_EQ(*Pipeline::Parse(parsed->Words()), *parsed);
}

TEST(Pipeline, EachNameStandsAlone) {
  for (const std::string& name : WordNames()) {
    if (name == "error_feedback") continue;
    const bool number = name == "top_k" || name == "random_mask" || name == "blocks" || name == "nnadq";
    const auto parsed = Pipeline::Parse(Words{number ? name + ":0.000001" : name});
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_FALSE(parsed->error_feedback());
  }
  EXPECT_TRUE(Pipeline::Parse(Words{})->empty());
  EXPECT_EQ(Pipeline::Parse(Words{})->ToString(), "nothing");
}

TEST(Pipeline, AShareThatIsNoneIsRefused) {
  for (const char* share :
       {"", "0", "0.0", "1.000001", "2", "-0.1", "0.0000001", "1e-2", "0.1x", ".5", "5%", "0.", "nan"}) {
    EXPECT_THAT(Mistakes({std::string("top_k:") + share}), HasSubstr("needs a share above 0 and up to 1")) << share;
  }
  EXPECT_THAT(Mistakes({"nnadq:2"}), HasSubstr("needs a weight above 0 and up to 1"));
  EXPECT_THAT(Mistakes({"nnadq"}),
              HasSubstr("'nnadq' needs the weight of bytes against accuracy, such as 'nnadq:0.01'"));
}

TEST(Pipeline, EveryMistakeIsToldAtOnceWithTheNearestName) {
  const std::string said = Mistakes({"topk:0.1", "random_mask", "int4", "top_k:0.1", "int8", "bf16:2", "zip"});
  EXPECT_THAT(said, HasSubstr("'topk:0.1' is no way to make updates smaller; did you mean 'top_k'?"));
  EXPECT_THAT(said, HasSubstr("'random_mask' needs the share of values to keep, such as 'random_mask:0.01'"));
  EXPECT_THAT(said, HasSubstr("'top_k:0.1' must stand before 'int4'"));
  EXPECT_THAT(said, HasSubstr("'int8' cannot follow 'int4'"));
  EXPECT_THAT(said, HasSubstr("'bf16:2' takes no number; write 'bf16'"));
  EXPECT_THAT(said, HasSubstr("'zip' is no way to make updates smaller; there are blocks:F, top_k:F"));
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 5);
}

TEST(Pipeline, ErrorFeedbackIsAWordBesideStages) {
  const auto parsed = Pipeline::Parse(Words{"top_k:0.1", "error_feedback", "int4"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->error_feedback());
  EXPECT_EQ(parsed->stages().size(), 2U);
  EXPECT_THAT(parsed->Words(), ElementsAre("top_k:0.1", "int4", "error_feedback"));
  EXPECT_EQ(*Pipeline::Parse(parsed->Words()), *parsed);
  EXPECT_FALSE(*Pipeline::Parse(Words{"top_k:0.1", "int4"}) == *parsed);
  EXPECT_THAT(Mistakes({"error_feedback"}), HasSubstr("alone has nothing to do"));
  EXPECT_THAT(Mistakes({"error_feedback", "int4", "error_feedback"}), HasSubstr("stands twice"));
  EXPECT_THAT(Mistakes({"eror_feedback"}), HasSubstr("did you mean 'error_feedback'?"));
}

TEST(Pipeline, NineWordsAreTooMany) {
  EXPECT_TRUE(Pipeline::Parse(Words(8, "top_k:0.5")).ok());
  EXPECT_THAT(Mistakes(Words(9, "top_k:0.5")), HasSubstr("there are 9 words; at most 8"));
}

TEST(Pipeline, AShareOfACountIsRoundedUpInWholeNumbers) {
  EXPECT_EQ(KeptCount(100, 70'000), 7U);  // 0.07 * 100 is more than 7 in doubles
  EXPECT_EQ(KeptCount(101, 70'000), 8U);
  EXPECT_EQ(KeptCount(1, 1), 1U);
  EXPECT_EQ(KeptCount(0, 1'000'000), 0U);
  EXPECT_EQ(KeptCount(0xFFFFFFFF, 1'000'000), 0xFFFFFFFFU);
}

}  // namespace
}  // namespace heddle::compression
