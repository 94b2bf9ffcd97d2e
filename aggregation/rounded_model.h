// A model as devices get it where the recipe rounds downloads ([compression] download = "bf16").
//
// What a device reads is float32 again (peft::ReadAdapter), and its update is the difference from that. The model that
// a round makes is the round's own float32 values and the merge of these differences, so what rounding hides from
// devices is not lost, and steps smaller than a device can see add up.
//
// Pure; thread-safe.
#pragma once

#include "common/state_dict.h"

namespace heddle::aggregation {

// Of each F32 tensor the nearest bfloat16 values (of two equally near ones the even; what is too large for it the
// largest), every other tensor as it is, sharing its bytes with `model`. May throw std::bad_alloc.
StateDict RoundedToBfloat16(const StateDict& model);

}  // namespace heddle::aggregation
