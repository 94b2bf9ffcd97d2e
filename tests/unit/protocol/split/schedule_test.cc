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

// A device that makes every request as soon as it may, and a server that answers one at a time.
struct Journey {
  uint32_t most_waiting = 0;
  std::vector<uint32_t> activations, tails;  // micro-batches in the order of requests
};
Journey Travel(const SplitSchedule& schedule) {
  Journey out;
  uint32_t made = 0, used = 0;
  while (used < schedule.Requests()) {
    while (made < schedule.Requests() && schedule.Needs(made + 1) <= used) {
      const SplitSchedule::Place place = schedule.At(++made);
      EXPECT_LT(schedule.Needs(made), made);
      (place.request == FrameKind::kActivations ? out.activations : out.tails).push_back(place.micro);
      if (place.request == FrameKind::kTailGradient) {
        const SplitSchedule::Place of = schedule.At(schedule.Needs(made));
        EXPECT_EQ(of.answer, FrameKind::kHidden);
        EXPECT_EQ(of.micro, place.micro);
        EXPECT_EQ(of.step, place.step);
      }
      EXPECT_EQ(schedule.At(used + 1).step, place.step) << "nothing is made before the step that it belongs to";
    }
    EXPECT_GT(made, used) << "it never stands still";
    if (made == used) break;
    out.most_waiting = std::max(out.most_waiting, made - used);
    ++used;
  }
  return out;
}

TEST(SplitSchedule, AheadOrNotEveryMicroBatchHasItsTurnAndFewAreOnTheWay) {
  for (const bool u_shaped : {true, false}) {
    for (uint32_t micros = 1; micros <= 5; ++micros) {
      for (uint32_t ahead = 1; ahead <= 6; ++ahead) {
        SCOPED_TRACE(std::to_string(u_shaped) + " " + std::to_string(micros) + " " + std::to_string(ahead));
        const SplitSchedule schedule{.u_shaped = u_shaped, .micros = micros, .steps = 3, .ahead = ahead};
        const Journey journey = Travel(schedule);
        std::vector<uint32_t> in_order;
        for (uint32_t i = 0; i < 3 * micros; ++i) in_order.push_back(i % micros);
        EXPECT_EQ(journey.activations, in_order);
        EXPECT_EQ(journey.tails, u_shaped ? in_order : std::vector<uint32_t>());
        EXPECT_LE(journey.most_waiting, schedule.MaxInFlight());
        EXPECT_GE(journey.most_waiting, std::min(ahead, micros));
        EXPECT_TRUE(schedule.At(schedule.Requests()).ends_step);
      }
    }
  }
}

TEST(SplitSchedule, ThreeMicroBatchesTwoAhead) {
  const SplitSchedule schedule{.u_shaped = true, .micros = 3, .steps = 1, .ahead = 2};
  std::string order;
  for (uint32_t i = 1; i <= 6; ++i) {
    const SplitSchedule::Place place = schedule.At(i);
    order += (place.request == FrameKind::kActivations ? "A" : "T") + std::to_string(place.micro) + " ";
  }
  EXPECT_EQ(order, "A0 A1 T0 A2 T1 T2 ");
}

TEST(AnswerLog, RequestsThatWaitCountAsAdmitted) {
  const SplitSchedule schedule{.u_shaped = true, .micros = 2, .steps = 1, .ahead = 2};
  const AnswerLog log(schedule);
  EXPECT_EQ(*log.Admit(RequestAt(schedule, 2), 1), nullptr);
  EXPECT_EQ(log.Admit(RequestAt(schedule, 2)).status().code(), Code::kFailedPrecondition);
  EXPECT_EQ(log.Admit(RequestAt(schedule, 1), 1).status().code(), Code::kFailedPrecondition);
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
