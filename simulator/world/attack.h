// What a simulated attacker sends in place of the update that it learnt, so that rules for rounds with attackers can be
// tried on real tasks. Pure.
#pragma once

#include <cstdint>
#include <string>

#include "common/state_dict.h"

namespace heddle::simulator {

// "sign_flip": -scale times the update. "noise": uniform values from the seed, as long as scale times the update in
// the mean. What is not F32 stays.
void Attack(const std::string& kind, double scale, uint64_t seed, StateDict* update);

}  // namespace heddle::simulator
