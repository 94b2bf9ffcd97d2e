// A local task without LibTorch: an update that is arithmetic on the adapter a device fetched and on the seed it was
// given, so that a stale adapter, a lost or a doubled update shows in the committed hash. Runs in arithmetic_worker
// and, for the hash that must come out, in the test itself.
//
// Thread-safety: pure functions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/state_dict.h"
#include "common/status.h"

namespace heddle {

inline constexpr char kArithmeticTask[] = "arithmetic";

// The adapter's names and shapes, values of magnitude below 0.1.
StateDict ArithmeticUpdate(const StateDict& adapter, uint64_t seed);

// What a run of this recipe commits when each round folds one update of each of `devices` and of nobody else: computed
// from the recipe, the aggregator and ArithmeticUpdate alone. Errors: those of Recipe::Load, PrepareRun and the
// aggregator.
Result<Sha256Digest> ArithmeticModel(const std::filesystem::path& recipe, const std::vector<std::string>& devices);

}  // namespace heddle
