// The order of a session's requests, and what of the answers a device may ask for again.
#include "protocol/split/schedule.h"

#include <gtest/gtest.h>

namespace heddle::protocol {
namespace {

TensorFrame RequestAt(const SplitSchedule& schedule, uint32_t sequence) {
  const SplitSchedule::Place place = schedule.At(sequence);
  TensorFrame frame;
  frame.kind = place.request;
  frame.sequence = sequence;
  frame.step = place.step;
  frame.micro = place.micro;
  frame.micros = schedule.micros;
  return frame;
}

TEST(SplitSchedule, AUShapedMicroBatchIsTwoRequestsAndAStepEndsWithItsLast) {
  const SplitSchedule schedule{.u_shaped = true, .micros = 2, .steps = 3};
  EXPECT_EQ(schedule.Requests(), 12U);
  EXPECT_EQ(schedule.At(1).request, FrameKind::kActivations);
  EXPECT_EQ(schedule.At(1).answer, FrameKind::kHidden);
  EXPECT_EQ(schedule.At(2).request, FrameKind::kTailGradient);
  EXPECT_EQ(schedule.At(2).answer, FrameKind::kGradient);
  EXPECT_FALSE(schedule.At(2).ends_step);
  EXPECT_EQ(schedule.At(4).micro, 1U);
  EXPECT_TRUE(schedule.At(4).ends_step);
  EXPECT_EQ(schedule.At(5).step, 2U);
  EXPECT_EQ(schedule.At(12).step, 3U);
}

TEST(SplitSchedule, WithTheHeadOnTheServerAMicroBatchIsOneRequest) {
  const SplitSchedule schedule{.u_shaped = false, .micros = 1, .steps = 2};
  EXPECT_EQ(schedule.Requests(), 2U);
  EXPECT_EQ(schedule.At(2).request, FrameKind::kActivations);
  EXPECT_EQ(schedule.At(2).answer, FrameKind::kGradient);
  EXPECT_TRUE(schedule.At(1).ends_step);
}

TEST(AnswerLog, OnlyTheNextRequestIsComputedAndTheAnswersOfTheStepAreKept) {
  const SplitSchedule schedule{.u_shaped = true, .micros = 1, .steps = 3};
  AnswerLog log(schedule);
  for (uint32_t sequence = 1; sequence <= schedule.Requests(); ++sequence) {
    const auto next = log.Admit(RequestAt(schedule, sequence));
    ASSERT_TRUE(next.ok()) << next.status();
    EXPECT_EQ(*next, nullptr);
    if (sequence < schedule.Requests()) {
      EXPECT_EQ(log.Admit(RequestAt(schedule, sequence + 1)).status().code(), Code::kFailedPrecondition);
    }
    log.Add("answer " + std::to_string(sequence));
    const auto again = log.Admit(RequestAt(schedule, sequence));
    ASSERT_TRUE(again.ok() && *again != nullptr);
    EXPECT_EQ(**again, "answer " + std::to_string(sequence));
    EXPECT_EQ(log.boundary(), sequence / 2 * 2);
  }
  EXPECT_TRUE(log.complete());
  EXPECT_EQ(**log.Admit(RequestAt(schedule, 5)), "answer 5");
  EXPECT_EQ(log.Admit(RequestAt(schedule, 4)).status().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(log.CanGoOn(6));
  EXPECT_TRUE(log.CanGoOn(4));
  EXPECT_FALSE(log.CanGoOn(3));
  EXPECT_FALSE(log.CanGoOn(7));
}

TEST(AnswerLog, AFrameThatIsNotWhatItsSequenceSaysIsRefused) {
  const SplitSchedule schedule{.u_shaped = true, .micros = 2, .steps = 2};
  const AnswerLog log(schedule);
  const TensorFrame good = RequestAt(schedule, 1);
  const auto refused = [&log, &good](auto change) {
    TensorFrame frame = good;
    change(frame);
    return log.Admit(frame).status().code();
  };
  EXPECT_EQ(refused([](TensorFrame& f) { f.kind = FrameKind::kTailGradient; }), Code::kInvalidArgument);
  EXPECT_EQ(refused([](TensorFrame& f) { f.step = 2; }), Code::kInvalidArgument);
  EXPECT_EQ(refused([](TensorFrame& f) { f.micro = 1; }), Code::kInvalidArgument);
  EXPECT_EQ(refused([](TensorFrame& f) { f.micros = 3; }), Code::kInvalidArgument);
  EXPECT_EQ(refused([](TensorFrame& f) { f.sequence = 9; }), Code::kOutOfRange);
  EXPECT_EQ(refused([](TensorFrame& f) { f.sequence = 0; }), Code::kOutOfRange);
}

TEST(AnswerLog, ARestartRemembersTheLastBoundaryAndTheAnswersOfItsStep) {
  const SplitSchedule schedule{.u_shaped = true, .micros = 1, .steps = 3};
  AnswerLog log(schedule);
  for (int i = 1; i <= 3; ++i) log.Add("answer " + std::to_string(i));  // in the middle of the second step
  AnswerLog restarted(schedule);
  ASSERT_TRUE(restarted.Restore(log.boundary(), log.AtBoundary()).ok());
  EXPECT_EQ(restarted.last(), 2U);
  EXPECT_EQ(**restarted.Admit(RequestAt(schedule, 2)), "answer 2");
  EXPECT_EQ(**restarted.Admit(RequestAt(schedule, 1)), "answer 1");
  EXPECT_EQ(*restarted.Admit(RequestAt(schedule, 3)), nullptr);
  EXPECT_EQ(restarted.Restore(1, {"a"}).code(), Code::kDataLoss);
  EXPECT_EQ(restarted.Restore(2, {"a"}).code(), Code::kDataLoss);
  EXPECT_EQ(restarted.Restore(8, {"a", "b"}).code(), Code::kDataLoss);
}

}  // namespace
}  // namespace heddle::protocol
