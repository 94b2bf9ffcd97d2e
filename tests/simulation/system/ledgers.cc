#include "tests/simulation/system/ledgers.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "common/random.h"
#include "common/safetensors.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::system_simulation {
namespace {

constexpr const char* kScalars = "heddle.scalars";

Tensor BytesTensor(const std::string& bytes) {
  std::span<std::byte> place;
  Tensor tensor = Tensor::Allocate({DType::kU8, {static_cast<int64_t>(bytes.size())}}, &place);
  std::memcpy(place.data(), bytes.data(), bytes.size());
  return tensor;
}

// 2^24 of it are at least 2, 4 times the largest start value, and 32 perturbations or scales of 2^14 steps.
float UnitOf(const std::vector<float>& start, const zo::LedgerHead& head) {
  double most = std::max({2.0, 32 * head.epsilon, std::ldexp(32.0, 14 - head.resolution_bits)});
  for (const float value : start) most = std::max(most, 4 * std::abs(static_cast<double>(value)));
  double power = 1;
  while (power < most) power *= 2;
  return static_cast<float>(std::ldexp(power, -24));
}

float Rounded(float value, float unit) { return unit * std::nearbyint(value / unit); }

uint64_t DirectionsOf(const v1::TrainPlan& plan) {
  return uint64_t{plan.local_steps()} * std::max(1U, plan.zo().num_perturbations());
}

int64_t StepOf(const v1::TrainPlan& plan, float gradient) {
  const double rate = plan.learning_rate() / std::max(1U, plan.zo().num_perturbations());
  const int bits = static_cast<int>(plan.seeds().resolution_bits());
  return static_cast<int64_t>(std::nearbyint(std::ldexp(-rate * static_cast<double>(gradient), bits)));
}

std::vector<zo::Scalar> DrawSteps(const v1::TrainPlan& plan, uint64_t key, Flaw flaw, zo::ScalarFormat format) {
  const v1::SharedSeeds& seeds = plan.seeds();
  PhiloxStream random(key, 2);
  std::vector<zo::Scalar> steps(DirectionsOf(plan) + (flaw == Flaw::kNormTooLarge ? 1 : 0));
  for (size_t i = 0; i < steps.size(); ++i) {
    steps[i].ref = seeds.pool_size() > 0 ? random.NextBelow(seeds.pool_size()) : seeds.first_ref() + i;
    const double gradient = 6 * static_cast<double>(random.NextUniform()) - 3;
    steps[i].gradient = zo::TravellingScalar(gradient, kMaxScalar, format);
  }
  std::sort(steps.begin(), steps.end(), [](const zo::Scalar& a, const zo::Scalar& b) { return a.ref < b.ref; });
  if (flaw == Flaw::kElementTooLarge) steps.front().gradient = -4 * static_cast<float>(kMaxScalar);
  if (flaw == Flaw::kWrongRank) steps.back().ref += uint64_t{1} << 30;
  return steps;
}

__extension__ typedef __int128 Wide;

int64_t HalfToEven(Wide numerator, Wide denominator) {
  Wide whole = numerator / denominator, rest = numerator % denominator;
  if (rest < 0) {
    rest += denominator;
    --whole;
  }
  const bool up = 2 * rest > denominator || (2 * rest == denominator && whole % 2 != 0);
  return static_cast<int64_t>(whole + (up ? 1 : 0));
}

}  // namespace

bool HasLedger(Method method) { return method == Method::kFedKSeed || method == Method::kDeComFl; }

Values ReplayOf(const Values& start, const zo::Ledger& ledger) {
  Values weights;
  for (const auto& [name, values] : start) {
    const float unit = UnitOf(values, ledger.head);
    std::vector<float>& out = weights[name];
    for (const float value : values) out.push_back(Rounded(value, unit));
    for (const zo::LedgerEntry& entry : ledger.entries) {
      const zo::Direction direction{ledger.head.distribution, zo::SeedOf(ledger.head, entry.ref),
                                    zo::ParameterStream(name)};
      const auto scale = static_cast<float>(std::ldexp(static_cast<double>(entry.n), -ledger.head.resolution_bits));
      for (size_t i = 0; i < out.size(); ++i) out[i] += Rounded(scale * zo::DirectionAt(direction, i), unit);
    }
    for (const float value : out) {
      if (!(std::abs(value) <= unit * 0x1p24F)) throw std::runtime_error("a simulated ledger leaves the grid");
    }
  }
  return weights;
}

Sha256Digest ProofOf(const Values& weights) {
  std::string text;
  const auto number = [&text](uint64_t value) {
    for (int i = 0; i < 8; ++i) text += static_cast<char>(value >> (8 * i) & 0xff);
  };
  for (const auto& [name, values] : weights) {
    number(name.size());
    text += name;
    number(values.size());
    text.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }
  return Sha256(text);
}

std::string WhyNotWeights(const std::string& ledger_bytes, const std::string& file) {
  const auto ledger = zo::DecodeLedger(std::as_bytes(std::span(ledger_bytes)));
  const auto parsed = ParseSafetensors(std::as_bytes(std::span(file)), nullptr);
  if (!ledger.ok() || !parsed.ok()) return "one of them cannot be read";
  Values weights;
  for (const auto& [name, tensor] : parsed->tensors) {
    if (name.starts_with("heddle.")) continue;  // the method's own
    const auto given = tensor.values<float>();
    weights[name].assign(given.begin(), given.end());
  }
  return ProofOf(weights) == ledger->weights ? "" : "their digest is another";
}

zo::Ledger EmptyLedger(const v1::TrainPlan& plan, const Sha256Digest& start_file) {
  return zo::EmptyLedger({.distribution = zo::Distribution::kRademacher,
                          .resolution_bits = static_cast<uint8_t>(plan.seeds().resolution_bits()),
                          .seed = plan.seeds().seed(),
                          .pool_size = plan.seeds().pool_size(),
                          .epsilon = kEpsilon,
                          .start = start_file});
}

const std::set<int>& LedgerReasonsFor(Flaw flaw) {
  static const std::set<int> kNotFinite = {11}, kBounds = {12}, kState = {26};
  switch (flaw) {
    case Flaw::kNan:
    case Flaw::kInfinity:
      return kNotFinite;
    case Flaw::kElementTooLarge:
    case Flaw::kNormTooLarge:
    case Flaw::kWrongRank:
      return kBounds;
    case Flaw::kWrongShape:
      return kState;
    default:
      return ReasonsFor(flaw, /*encoded=*/false);
  }
}

MadeUpdate MakeScalars(const v1::TrainPlan& plan, const Sha256Digest& proof, uint64_t key, Flaw flaw,
                       uint64_t max_update_bytes) {
  const auto format = plan.seeds().scalars() == "bfloat16" ? zo::ScalarFormat::kBfloat16 : zo::ScalarFormat::kFloat32;
  zo::Scalars scalars{.steps = DrawSteps(plan, key, flaw, format), .weights = proof, .skipped = 0};
  if (flaw == Flaw::kWrongShape) scalars.weights = Sha256("the weights of another model");
  std::string packed = zo::EncodeScalars(scalars, format);
  if (flaw == Flaw::kNan || flaw == Flaw::kInfinity) {  // the upper bytes of the last scalar
    packed[packed.size() - 1] = static_cast<char>(0xff);
    packed[packed.size() - 2] = static_cast<char>(flaw == Flaw::kNan ? 0xc0 : 0x80);
  }
  StateDict dict;
  Tensor tensor = BytesTensor(packed);
  if (flaw == Flaw::kWrongDtype) tensor = Tensor::FromFloats({1}, std::array<float, 1>{0.5F});
  dict.emplace(flaw == Flaw::kMissingTensor ? "no.scalars" : kScalars, std::move(tensor));
  if (flaw == Flaw::kExtraTensor) dict.emplace("surplus", Tensor::FromFloats({1}, std::array<float, 1>{0.5F}));
  MadeUpdate made = Wrapped(SerializeSafetensors(dict), key, flaw, max_update_bytes);
  if (!HasGoodBytes(flaw)) return made;
  auto steps = std::make_shared<std::vector<zo::LedgerEntry>>();
  for (const zo::Scalar& step : scalars.steps) steps->push_back({step.ref, StepOf(plan, step.gradient)});
  made.values = std::make_shared<Values>();
  made.steps = std::move(steps);
  return made;
}

zo::Ledger NextLedger(Method method, const zo::Ledger& parent, uint32_t round,
                      const std::vector<std::pair<const std::vector<zo::LedgerEntry>*, uint64_t>>& accepted) {
  std::map<uint64_t, Wide> sums;
  Wide total = 0;
  for (const auto& [steps, examples] : accepted) {
    const uint64_t weight = method == Method::kFedKSeed ? examples : 1;
    total += static_cast<Wide>(weight);
    for (const zo::LedgerEntry& step : *steps) sums[step.ref] += static_cast<Wide>(weight) * step.n;
  }
  std::map<uint64_t, int64_t> entries;
  for (const zo::LedgerEntry& entry : parent.entries) entries[entry.ref] = entry.n;
  for (const auto& [ref, sum] : sums) entries[ref] += HalfToEven(sum, total);
  zo::Ledger next{.head = parent.head, .round = round, .entries = {}, .importance = {}, .weights = {}};
  for (const auto& [ref, n] : entries) {
    if (n != 0) next.entries.push_back({ref, n});
  }
  return next;
}

VersionFiles FilesOf(const StateDictSpec& start, const zo::Ledger& ledger, const Values& weights) {
  VersionFiles files;
  StateDict state;
  for (const auto& [name, values] : weights) state.emplace(name, Tensor::FromFloats(start.at(name).shape, values));
  files.state = SerializeSafetensors(state);
  files.model = SerializeSafetensors({{"heddle.ledger", BytesTensor(zo::EncodeLedger(ledger))},
                                      {"heddle.state.sha256", BytesTensor(std::string(Sha256(files.state).raw()))}});
  return files;
}

}  // namespace heddle::system_simulation
