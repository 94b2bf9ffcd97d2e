// Seeds of fuzz_ledger.
#include "tests/fuzz/seeds.h"
#include "tests/fuzz/shared_ledger.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::fuzz {

void LedgerSeeds() {
  const zo::Ledger ledger = FuzzedLedger();
  const std::string bytes = zo::EncodeLedger(ledger);
  Write("fuzz_ledger", "ledger", Number(0, 1) + bytes);
  Write("fuzz_ledger", "ledger-other-directions", Number(0, 1) + Replace(bytes, "HDLG\2\1", "HDLG\2\2"));
  zo::Ledger later = ledger;
  later.round = 5;
  later.entries = {{0, 5}, {3, -2}, {4, 1 << 20}};
  later.importance.assign(16, 7);
  Write("fuzz_ledger", "ledger-importance", Number(0, 1) + zo::EncodeLedger(later));
  Write("fuzz_ledger", "patch", Number(1, 1) + zo::EncodePatch(ledger, later));
  const zo::Scalars scalars{.steps = {{0, 1.5F}, {7, -2.0F}, {7, 0.25F}}, .weights = Sha256("weights"), .skipped = 1};
  Write("fuzz_ledger", "scalars-f32", Number(2, 1) + zo::EncodeScalars(scalars, zo::ScalarFormat::kFloat32));
  Write("fuzz_ledger", "scalars-bf16", Number(2, 1) + zo::EncodeScalars(scalars, zo::ScalarFormat::kBfloat16));
  zo::Ledger log = ledger;
  log.head.pool_size = 0;
  log.entries = {{0, 1}, {1, 2}, {2, -3}, {1'000'000, 4}};
  Write("fuzz_ledger", "ledger-log", Number(0, 1) + zo::EncodeLedger(log));
  zo::Ledger of_default = ledger;
  of_default.head.start = Sha256Digest();
  Write("fuzz_ledger", "model", Number(3, 1) + zo::EncodeLedger(of_default));
}

}  // namespace heddle::fuzz
