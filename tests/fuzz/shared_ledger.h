// The ledger that fuzz_ledger's patches are for, shared with the program that writes its seeds.
#pragma once

#include "zo_optim/ledger/ledger.h"

namespace heddle::fuzz {

inline zo::Ledger FuzzedLedger() {
  return {.head = {.distribution = zo::Distribution::kNormal,
                   .resolution_bits = 30,
                   .seed = 9,
                   .pool_size = 16,
                   .epsilon = 1e-3,
                   .start = Sha256("start")},
          .round = 3,
          .entries = {{0, 5}, {3, -70'000}, {15, 1}},
          .importance = {},
          .weights = Sha256("weights")};
}

}  // namespace heddle::fuzz
