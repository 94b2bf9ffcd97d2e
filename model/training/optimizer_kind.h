// The optimizers by their names in recipes and plans. Free of LibTorch. Thread-safety: pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle::model {

enum class OptimizerKind {
  kAdamW,      // "AdamW": adamw.h
  kAdamW8bit,  // "AdamW8bit": adamw_8bit.h, moments in 8 bits
  kSgd,        // "SGD": sgd.h
};

// An empty name is "AdamW", the default. Errors: kInvalidArgument that lists the known names.
Result<OptimizerKind> OptimizerKindFromName(std::string_view name);
std::vector<std::string> OptimizerNames();  // the default first

// Bytes of state that the optimizer keeps for each trained float32 parameter, without the scales of 8-bit blocks.
// `momentum`: of SGD, which keeps nothing without it.
double StateBytesPerParameter(OptimizerKind kind, double momentum);

}  // namespace heddle::model
