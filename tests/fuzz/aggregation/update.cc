// Any bytes as an update's payload: what Validate accepts is finite and within bounds, is folded, and the mean is that
// of an independent computation whatever the order; what it refuses changes no bit of the sum.
#include <cmath>
#include <cstring>

#include "aggregation/aggregator.h"
#include "common/safetensors.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle;
using namespace heddle::aggregation;

namespace {

constexpr double kMaxAbs = 16, kMaxNorm = 40;
constexpr uint64_t kMaxExamples = 1000, kOtherExamples = 3;

// The model of the seeds in make_corpus.cc.
StateDict Parent() {
  const float a[] = {0.5F, -1, 0, 3, 1e-3F, -7.25F}, b[] = {0, 1, 2, -3};
  return {{"a", Tensor::FromFloats({2, 3}, a)}, {"b", Tensor::FromFloats({4}, b)}};
}

StateDict OtherUpdate() {
  const float a[] = {1, -2, 0.25F, 0, 16, -16}, b[] = {-1, 0.5F, 1e-6F, 2};
  return {{"a", Tensor::FromFloats({2, 3}, a)}, {"b", Tensor::FromFloats({4}, b)}};
}

std::unique_ptr<Aggregator> Make() {
  AggregatorOptions options;
  options.max_num_examples = kMaxExamples;
  options.max_updates = 8;
  options.max_abs = kMaxAbs;
  options.max_norm = kMaxNorm;
  auto made = MakeAggregator("FedAvg", Parent(), options);
  Require(made.ok(), "the test's model can be aggregated", made.status().message());
  return *std::move(made);
}

StateDict Finish(std::unique_ptr<Aggregator> aggregator) {
  auto model = std::move(*aggregator).Finish();
  Require(model.ok(), "a sum that holds an update has a mean", model.status().message());
  return std::move(model->model);
}

bool SameBits(const StateDict& a, const StateDict& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a) {
    const auto other = b.find(name);
    if (other == b.end() || other->second.spec() != tensor.spec()) return false;
    const auto left = tensor.bytes(), right = other->second.bytes();
    if (!std::equal(left.begin(), left.end(), right.begin(), right.end())) return false;
  }
  return true;
}

void CheckAccepted(const StateDict& update, const UpdateInfo& info) {
  double squares = 0;
  for (const auto& [name, tensor] : update) {
    for (const float value : tensor.values<float>()) {
      Require(std::isfinite(value) && std::abs(value) <= kMaxAbs, "what is accepted is finite and within bounds", name);
      squares += double{value} * double{value};
    }
  }
  Require(std::sqrt(squares) <= kMaxNorm * (1 + 1e-9), "and so is its norm");
  Require(info.num_examples >= 1 && info.num_examples <= kMaxExamples, "and its weight");

  const UpdateInfo other{.num_examples = kOtherExamples};
  auto first = Make(), last = Make();
  Require(first->Fold(update, info).ok() && first->Fold(OtherUpdate(), other).ok(), "what is accepted is folded");
  Require(last->Fold(OtherUpdate(), other).ok() && last->Fold(update, info).ok(), "in any order");
  Require(first->num_folded() == 2 && first->total_examples() == info.num_examples + kOtherExamples,
          "and counted by its weight");
  const StateDict model = Finish(std::move(first));
  Require(SameBits(model, Finish(std::move(last))), "the order changes no bit");

  const StateDict parent = Parent(), others = OtherUpdate();
  const auto weight = static_cast<double>(info.num_examples);
  for (const auto& [name, tensor] : model) {
    const auto values = tensor.values<float>(), base = parent.at(name).values<float>();
    const auto mine = update.at(name).values<float>(), theirs = others.at(name).values<float>();
    for (size_t i = 0; i < values.size(); ++i) {
      const double mean = (weight * mine[i] + kOtherExamples * double{theirs[i]}) / (weight + kOtherExamples);
      const double expected = base[i] + mean;
      Require(std::isfinite(values[i]), "the model stays finite", name);
      Require(std::abs(values[i] - expected) <= 1e-6 * (1 + std::abs(expected)), "the model is parent plus mean", name);
    }
  }
}

void CheckRefused(const StateDict& update, const UpdateInfo& info, const Validity& validity) {
  Require(!validity.message.empty(), "a refusal says why");
  auto sum = Make(), untouched = Make();
  const UpdateInfo other{.num_examples = kOtherExamples};
  Require(untouched->Fold(OtherUpdate(), other).ok() && sum->Fold(OtherUpdate(), other).ok(), "a good one is folded");
  const bool of_values = validity.refusal == Refusal::kNotFinite || validity.refusal == Refusal::kOutOfBounds ||
                         validity.refusal == Refusal::kNormTooLarge;
  if (of_values) {
    (void)sum->Validate(update, info);  // Fold does not read the values again
  } else {
    Require(sum->Fold(update, info).code() == Code::kInvalidArgument, "Fold refuses what does not fit");
  }
  Require(sum->num_folded() == 1 && sum->total_examples() == kOtherExamples, "a refused update is not counted");
  Require(SameBits(Finish(std::move(sum)), Finish(std::move(untouched))), "and changes nothing");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  heddle::fuzz::Input input(data, size);
  const UpdateInfo info{.num_examples = input.TakeNumber(2)};
  const auto owner = std::make_shared<std::string>(input.rest());
  const auto parsed = ParseSafetensors(std::as_bytes(std::span(*owner)), owner);
  if (!parsed.ok()) return 0;  // fuzz_safetensors
  const Validity validity = Make()->Validate(parsed->tensors, info);
  if (validity.ok()) {
    CheckAccepted(parsed->tensors, info);
  } else {
    CheckRefused(parsed->tensors, info, validity);
  }
  return 0;
}
