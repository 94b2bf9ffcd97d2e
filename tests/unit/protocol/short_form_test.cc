#include "protocol/short_form.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "common/digest.h"
#include "protocol/validate.h"

namespace heddle::protocol {
namespace {

v1::TaskAssignment Assignment() {
  v1::TaskAssignment assignment;
  assignment.set_assignment_id(std::string(32, 'a'));
  assignment.set_run_id("kjv-00c0ffee");
  assignment.set_round(3);
  assignment.set_attempt(1);
  assignment.set_deadline_unix_us(1'764'000'000'000'000);
  assignment.set_short_forms(true);
  v1::TaskPlan& plan = *assignment.mutable_plan();
  plan.set_local_task("zo_ledger");
  for (const char* name : {"config.json", "model.safetensors"}) {
    *plan.add_base_model() = MakeBlobRef(Sha256(std::string_view(name)), 1000, name);
  }
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors", "ledger.bin"}) {
    *plan.add_adapter() = MakeBlobRef(Sha256(std::string_view(name)), 500, name);
  }
  v1::TrainPlan& train = *plan.mutable_train();
  train.set_local_steps(1);
  train.set_batch_size(8);
  train.set_sequence_length(64);
  train.set_learning_rate(0.5);
  train.set_threads(1);
  train.mutable_zo()->set_zo_eps(1e-3);
  train.mutable_seeds()->set_seed(7);
  train.mutable_seeds()->set_resolution_bits(16);
  train.mutable_seeds()->set_first_ref(40);
  plan.set_seed(11);
  plan.set_max_update_bytes(65'536);
  plan.set_max_num_examples(1000);
  return assignment;
}

// The next round's, which differs in all that rounds change.
v1::TaskAssignment Next(v1::TaskAssignment assignment) {
  assignment.set_assignment_id(std::string(32, 'b'));
  assignment.set_round(4);
  assignment.set_attempt(2);
  assignment.set_deadline_unix_us(1'764'000'000'000'001);
  v1::TaskPlan& plan = *assignment.mutable_plan();
  plan.set_seed(12);
  plan.mutable_adapter()->rbegin()->set_sha256(std::string(Sha256(std::string_view("next")).raw()));
  plan.mutable_train()->set_learning_rate(0.25);
  plan.mutable_train()->mutable_seeds()->set_first_ref(50);
  return assignment;
}

TEST(ShortForm, OfTheNextRoundIsMadeWholeFromWhatTheDeviceKeeps) {
  const v1::TaskAssignment before = Assignment(), next = Next(Assignment());
  const v1::TaskAssignment kept = LastingPart(before);
  v1::TaskAssignment sent = next;
  Shorten(LastingKey(kept), &sent);
  EXPECT_EQ(sent.lasting_key(), LastingKey(kept));
  EXPECT_LT(sent.ByteSizeLong(), next.ByteSizeLong() / 2);
  const auto whole = Completed(kept, sent);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->SerializeAsString(), next.SerializeAsString());
  EXPECT_EQ(LastingPart(*whole).SerializeAsString(), kept.SerializeAsString()) << "and so on from round to round";
}

TEST(ShortForm, IsTakenOnlyWhereWhatLastsIsTheSame) {
  const uint64_t key = LastingKey(LastingPart(Assignment()));
  for (const auto change :
       {+[](v1::TaskAssignment& a) { a.set_run_id("another"); },
        +[](v1::TaskAssignment& a) { a.mutable_plan()->set_local_task("zo_sft"); },
        +[](v1::TaskAssignment& a) { a.mutable_plan()->mutable_train()->set_batch_size(9); },
        +[](v1::TaskAssignment& a) { a.mutable_plan()->mutable_adapter()->RemoveLast(); },
        +[](v1::TaskAssignment& a) { a.mutable_plan()->mutable_train()->mutable_seeds()->set_seed(8); },
        +[](v1::TaskAssignment& a) { a.set_short_forms(false); }}) {
    v1::TaskAssignment next = Next(Assignment());
    change(next);
    const std::string whole = next.SerializeAsString();
    Shorten(key, &next);
    EXPECT_EQ(next.SerializeAsString(), whole);
  }
  v1::TaskAssignment unasked = Assignment();
  Shorten(0, &unasked);
  EXPECT_EQ(unasked.SerializeAsString(), Assignment().SerializeAsString());
}

TEST(ShortForm, IsRefusedWithoutItsOtherHalf) {
  const v1::TaskAssignment kept = LastingPart(Assignment());
  v1::TaskAssignment sent = Next(Assignment());
  Shorten(LastingKey(kept), &sent);
  v1::TaskAssignment other = kept;
  other.set_run_id("another");
  EXPECT_EQ(Completed(other, sent).status().code(), Code::kInvalidArgument);
  // With the right key, but nothing that could be a task.
  v1::TaskAssignment empty;
  empty.set_lasting_key(LastingKey(kept));
  EXPECT_EQ(Completed(kept, empty).status().code(), Code::kInvalidArgument);
  sent.set_round(kMaxRounds + 1);
  EXPECT_EQ(Completed(kept, sent).status().code(), Code::kInvalidArgument) << "the whole is looked at as any other";
}

TEST(ShortForm, OfAnAnswerMayLeaveOutWhatAnotherMayNot) {
  v1::CheckinResponse answer;
  *answer.mutable_assignment() = Next(Assignment());
  Shorten(LastingKey(LastingPart(Assignment())), answer.mutable_assignment());
  EXPECT_TRUE(Validate(answer).ok());
  answer.mutable_assignment()->set_ledger_patch(std::string(kMaxInlinePatchBytes + 1, 'x'));
  EXPECT_EQ(Validate(answer).code(), Code::kInvalidArgument);
  answer.mutable_assignment()->clear_ledger_patch();
  answer.mutable_assignment()->clear_lasting_key();
  EXPECT_EQ(Validate(answer).code(), Code::kInvalidArgument) << "without the key it is no short form";
}

// Whatever an assignment holds: the short form is the whole one again, or it is not taken.
RC_GTEST_PROP(ShortFormProperty, LosesNothing, (uint64_t seed, uint32_t ref, bool ledger, bool seeds)) {
  v1::TaskAssignment next = Next(Assignment());
  next.mutable_plan()->set_seed(seed);
  if (!ledger) next.mutable_plan()->mutable_adapter()->RemoveLast();
  if (seeds) {
    next.mutable_plan()->mutable_train()->mutable_seeds()->set_first_ref(ref);
  } else {
    next.mutable_plan()->mutable_train()->clear_seeds();
  }
  const v1::TaskAssignment kept = LastingPart(next);
  v1::TaskAssignment sent = next;
  Shorten(LastingKey(kept), &sent);
  RC_ASSERT(sent.lasting_key() != 0U);
  const auto whole = Completed(kept, sent);
  RC_ASSERT(whole.ok());
  RC_ASSERT(whole->SerializeAsString() == next.SerializeAsString());
}

}  // namespace
}  // namespace heddle::protocol
