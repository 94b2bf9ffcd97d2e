// Any bytes as a ledger, a patch, a device's scalars or a model with a ledger: what is read is in order and comes back
// from its own bytes; what is refused gets a sentence. The first byte chooses.
#include "zo_optim/ledger/ledger.h"

#include <cmath>
#include <vector>

#include "aggregation/ledger/ledger_model.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/shared_ledger.h"
#include "zo_optim/ledger/scalars.h"

using heddle::fuzz::Require;
using namespace heddle;

namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

void CheckRefused(const Status& status) {
  Require(status.code() == Code::kInvalidArgument && !status.message().empty(), "what is refused gets a sentence");
}

void CheckLedger(const Result<zo::Ledger>& ledger) {
  if (!ledger.ok()) return CheckRefused(ledger.status());
  Require(zo::CheckLedger(*ledger).ok(), "a ledger that is read is in order");
  const std::string bytes = zo::EncodeLedger(*ledger);
  const auto again = zo::DecodeLedger(Bytes(bytes));
  Require(again.ok() && *again == *ledger, "a ledger comes back from its bytes");
  if (!(ledger->head == fuzz::FuzzedLedger().head)) return;
  const auto patched = zo::ApplyPatch(fuzz::FuzzedLedger(), Bytes(zo::EncodePatch(fuzz::FuzzedLedger(), *ledger)));
  Require(patched.ok() && *patched == *ledger, "a patch leads to what it was made for");
}

void CheckScalars(std::string_view bytes) {
  const auto scalars = zo::DecodeScalars(Bytes(bytes), 100, 4095);
  if (!scalars.ok()) {
    const Code code = scalars.status().code();  // no scalars; beyond what was asked for; not finite
    Require(code == Code::kInvalidArgument || code == Code::kFailedPrecondition || code == Code::kOutOfRange,
            "what is refused gets its own code");
    return Require(!scalars.status().message().empty(), "and a sentence");
  }
  Require(scalars->steps.size() <= 100, "no more steps than were asked for");
  for (size_t i = 0; i < scalars->steps.size(); ++i) {
    Require(scalars->steps[i].ref <= 4095 && std::isfinite(scalars->steps[i].gradient), "each within bounds");
    Require(i == 0 || scalars->steps[i - 1].ref <= scalars->steps[i].ref, "in order");
  }
  const auto again = zo::DecodeScalars(Bytes(zo::EncodeScalars(*scalars, zo::ScalarFormat::kFloat32)), 100, 4095);
  Require(again.ok() && *again == *scalars, "scalars come back from their bytes");
}

// As a coordinator meets it at a restart: in a model that devices' updates are folded into.
void CheckModel(std::string_view bytes) {
  aggregation::AggregatorOptions options;
  options.method["pool_size"] = 16;
  options.method["resolution_bits"] = 30;
  options.zo.local_steps = 8;
  options.load_model = [](const Sha256Digest&) -> Result<StateDict> {
    return StateDict{{"w", Tensor::FromFloats({8}, std::vector<float>(8, 0.5F))}};
  };
  const StateDict parent = {{std::string(aggregation::kLedgerName), aggregation::ByteTensor(bytes)}};
  auto aggregator = aggregation::MakeAggregator("FedKSeed", parent, options);
  if (!aggregator.ok()) return CheckRefused(aggregator.status());
  const auto ledger = aggregation::LedgerOf(parent);
  Require(ledger.ok(), "a model that is taken has a ledger");
  const zo::Scalars scalars{.steps = {{2, 1.0F}}, .weights = ledger->weights, .skipped = 0};
  const StateDict update = {{std::string(aggregation::kScalarsName),
                             aggregation::ByteTensor(zo::EncodeScalars(scalars, zo::ScalarFormat::kFloat32))}};
  const aggregation::UpdateInfo info{.num_examples = 1, .num_steps = 1, .rank = 0, .device = "a"};
  Require((*aggregator)->Validate(update, info).ok() && (*aggregator)->Fold(update, info).ok(), "a good update counts");
  const auto made = std::move(**aggregator).Finish();
  if (!made.ok()) {
    Require(made.status().code() == Code::kFailedPrecondition || made.status().code() == Code::kInvalidArgument,
            "a ledger that no grid can hold is told", made.status().message());
    return;
  }
  Require(aggregation::LedgerOf(made->model).ok(), "the next model has a ledger");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  switch (input.TakeByte() % 4) {
    case 0:
      CheckLedger(zo::DecodeLedger(Bytes(input.rest())));
      break;
    case 1:
      CheckLedger(zo::ApplyPatch(fuzz::FuzzedLedger(), Bytes(input.rest())));
      break;
    case 2:
      CheckScalars(input.rest());
      break;
    default:
      CheckModel(input.rest());
  }
  return 0;
}
