// How runs look in JSON: names of states, and times as Unix seconds. One list for the run folder, the API and the logs.
// Thread-safety: pure functions.
#pragma once

#include <string_view>

#include "common/clock.h"
#include "coordinator/engine/types.h"

namespace heddle::coordinator {

// "unknown" for values out of range (a newer version's row).
std::string_view StateName(RunState state);
std::string_view StateName(AssignmentState state);
std::string_view PhaseName(RoundPhase phase);

inline double UnixSeconds(Time t) { return static_cast<double>(ToUnixMicros(t)) * 1e-6; }

}  // namespace heddle::coordinator
