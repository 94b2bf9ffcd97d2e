// Any text as the plan of split learning: refused with a sentence, or one whose numbers are within bounds, whose
// adapters' settings are JSON, and which both sides read alike.
#include "protocol/split/plan.h"

#include <boost/json/parse.hpp>
#include <cmath>

#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle;
using namespace heddle::protocol;

namespace {

// NaN is in no range.
void RequireWithin(double value, double least, double most, const char* what) {
  Require(value >= least && value <= most, what, std::to_string(value));
}

void CheckSide(const SplitSide& side) {
  boost::system::error_code error;
  boost::json::parse(side.AdapterConfigJson(), error);
  Require(!error, "the adapter's settings are JSON", side.AdapterConfigJson());
  RequireWithin(static_cast<double>(side.r), 1, 4096, "r");
  RequireWithin(side.lora_alpha, 1e-6, 1e6, "lora_alpha");
  RequireWithin(side.learning_rate, 0, 10, "learning_rate");
  RequireWithin(side.max_grad_norm, 0, 1e6, "max_grad_norm");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 8192) return 0;  // as fuzz_config: the TOML library is not ours to measure
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto plan = SplitPlan::LoadText(text, "/nowhere", "plan.toml");
  if (!plan.ok()) {
    Require(plan.status().code() == Code::kInvalidArgument, "a refusal is an invalid argument",
            plan.status().ToString());
    Require(!plan.status().message().empty(), "a refusal says why");
    return 0;
  }
  CheckSide(plan->device);
  CheckSide(plan->server);
  Require(plan->device.trains() || plan->server.trains(), "something is trained");
  Require(plan->min_devices >= 1 && plan->min_devices <= plan->devices_per_round, "a round can end");
  Require(plan->batch_size >= 1 && plan->batch_size <= kMaxSplitRows, "a micro-batch is a frame's");
  Require(plan->gradient_accumulation_steps >= 1 && plan->gradient_accumulation_steps <= kMaxSplitMicroBatches,
          "so are the micro-batches of a step");
  for (const double seconds : {plan->session_timeout_s, plan->RoundTimeout(plan->turns(1)), plan->step_timeout_s}) {
    RequireWithin(seconds, 0, 1e8, "seconds");
  }
  RequireWithin(plan->privacy.noise_multiplier, 0, 1e6, "noise_multiplier");
  RequireWithin(plan->max_abs, 1e-6, 1e12, "max_abs");
  const SplitSchedule schedule = plan->schedule();
  const uint64_t requests = uint64_t{schedule.RequestsOfStep()} * plan->local_steps;
  Require(schedule.MaxInFlight() >= 1 && schedule.MaxInFlight() <= requests + 1, "a device has something on its way");
  const auto again = SplitPlan::LoadText(text, "/elsewhere", "plan.toml");
  Require(again.ok() && again->Digest("base") == plan->Digest("base"), "the other side agrees to the same plan");
  Require(plan->Digest("base").size() == 64 && plan->Digest("base") != plan->Digest("other"), "of the same base model");
  return 0;
}
