#include "tests/simulation/system/updates.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/random.h"
#include "common/safetensors.h"

namespace heddle::system_simulation {
namespace {

struct FlawRow {
  const char* name;
  std::set<int> reasons, of_encoded;
};

const std::array<FlawRow, kNumFlaws>& FlawRows() {
  static const std::array<FlawRow, kNumFlaws> kRows = {{{"none", {}, {}},
                                                        {"truncated file", {10}, {10}},
                                                        {"no safetensors", {10}, {10}},
                                                        {"NaN", {11}, {11}},
                                                        {"infinity", {11}, {11}},
                                                        {"element too large", {12}, {12}},
                                                        {"norm too large", {24}, {12, 24}},
                                                        {"wrong shape", {21}, {10}},
                                                        {"wrong rank", {23}, {10}},
                                                        {"wrong dtype", {22}, {10}},
                                                        {"missing tensor", {20}, {10}},
                                                        {"extra tensor", {20}, {10}},
                                                        {"no examples", {13}, {13}},
                                                        {"too many examples", {13}, {13}},
                                                        {"wrong size", {10}, {10}},
                                                        {"wrong digest", {9}, {9}},
                                                        {"too long", {2}, {2}},
                                                        {"one layer more", {20}, {10}},
                                                        {"one layer less", {20}, {10}},
                                                        {"layers of another", {20}, {10}},
                                                        {"wrong base", {25}, {25}}}};
  return kRows;
}

Values DrawValues(const StateDictSpec& model, uint64_t key) {
  Values values;
  const PhiloxStream random(key, 1);
  uint64_t next = 0;
  for (const auto& [name, spec] : model) {
    std::vector<float>& out = values[name];
    out.resize(static_cast<size_t>(NumElements(spec.shape).value()));
    for (float& value : out) value = (random.UniformAt(next++) - 0.5F) * 0.5F;
  }
  return values;
}

void SpoilValues(Flaw flaw, uint64_t key, Values* values) {
  std::vector<float>& victim = values->begin()->second;
  const size_t at = key % victim.size();
  switch (flaw) {
    case Flaw::kNan:
      victim[at] = std::numeric_limits<float>::quiet_NaN();
      break;
    case Flaw::kInfinity:
      victim[at] = -std::numeric_limits<float>::infinity();
      break;
    case Flaw::kElementTooLarge:
      victim[at] = 2 * static_cast<float>(kMaxAbs);
      break;
    case Flaw::kNormTooLarge:
      for (auto& [name, all] : *values) {
        for (float& value : all) value = static_cast<float>(kMaxAbs);
      }
      break;
    default:
      break;
  }
}

StateDict ToTensors(const StateDictSpec& model, const Values& values) {
  StateDict dict;
  for (const auto& [name, spec] : model) dict.emplace(name, Tensor::FromFloats(spec.shape, values.at(name)));
  return dict;
}

void SpoilTensors(Flaw flaw, StateDict* dict) {
  const std::string first = dict->begin()->first;
  const Shape shape = dict->begin()->second.shape();
  switch (flaw) {
    case Flaw::kMissingTensor:
      dict->erase(first);
      break;
    case Flaw::kExtraTensor:
      dict->emplace("surplus", Tensor::FromFloats({1}, std::array<float, 1>{0.5F}));
      break;
    case Flaw::kWrongShape:
      (*dict)[first] = Tensor::FromFloats({1, 2, 3}, std::vector<float>(6, 0.1F));
      break;
    case Flaw::kWrongRank: {
      // A of one more row, as of a higher rank.
      Shape higher = shape;
      ++higher[0];
      (*dict)[first] = Tensor::FromFloats(higher, std::vector<float>(NumElements(higher).value(), 0.1F));
      break;
    }
    case Flaw::kWrongDtype: {
      std::span<std::byte> bytes;
      (*dict)[first] = Tensor::Allocate({DType::kF64, shape}, &bytes);
      break;
    }
    default:
      break;
  }
}

double PowerOfTwoAtLeast(double value) {
  double power = std::exp2(std::floor(std::log2(value)));
  while (power < value) power *= 2;
  return power;
}

// The grid of the sums as fixed_point.h defines it: A * N * R * 2^s = 2^62.
double GridScale(uint64_t max_updates) {
  const double most = std::min(256.0, PowerOfTwoAtLeast(static_cast<double>(max_updates)));
  return std::ldexp(1.0, 62) /
         (PowerOfTwoAtLeast(kMaxAbs) * PowerOfTwoAtLeast(static_cast<double>(kMaxExamples)) * most);
}

// What was sent of one tensor, with its weights.
using Sent = std::vector<std::pair<const std::vector<float>*, uint64_t>>;

double StepOfSorted(Method method, const Sent& sent, size_t i) {
  std::vector<double> column;
  for (const auto& [values, weight] : sent) column.push_back(static_cast<double>((*values)[i]));
  std::sort(column.begin(), column.end());
  const size_t n = column.size();
  if (method == Method::kCoordinateMedian) {
    return n % 2 == 1 ? column[n / 2] : (column[n / 2 - 1] + column[n / 2]) / 2;
  }
  const auto cut = static_cast<size_t>(0.2 * static_cast<double>(n));
  double sum = 0;
  for (size_t k = cut; k < n - cut; ++k) sum += column[k];
  return sum / static_cast<double>(n - 2 * cut);
}

// The moments are float32 from round to round; in the first there are none.
double StepOfMean(Method method, double mean, const Values& state, const std::string& name, size_t i, Values* next) {
  if (method != Method::kFedAvgM && method != Method::kFedAdam) return mean;
  const auto old = [&](const std::string& moment, double first) {
    const auto found = state.find(moment + name);
    return found == state.end() ? first : static_cast<double>(found->second[i]);
  };
  const auto remember = [&](const std::string& moment, double value) {
    (*next)[moment + name].push_back(static_cast<float>(value));
  };
  if (method == Method::kFedAvgM) {
    const double m = 0.9 * old("m.", 0) + mean;
    remember("m.", m);
    return m;
  }
  const double m = 0.9 * old("m.", 0) + (1 - 0.9) * mean;
  const double v = 0.99 * old("v.", 1e-3 * 1e-3) + (1 - 0.99) * mean * mean;
  remember("m.", m);
  remember("v.", v);
  return 0.01 * m / (std::sqrt(v) + 1e-3);
}

// The encoded form of `dict`. Of good bytes the values become what the other side decodes.
std::string Encode(const compression::Compressor& compressor, const StateDictSpec& model, uint64_t key, Flaw flaw,
                   const StateDict& dict, Values* values) {
  auto encoded = compressor.Encode(dict, nullptr);
  // Bytes of the other form, which a device sends that overlooked what it was asked.
  if (!encoded.ok() && flaw != Flaw::kNan && flaw != Flaw::kInfinity) return SerializeSafetensors(dict);
  if (!encoded.ok()) {
    encoded = compressor.Encode(ToTensors(model, DrawValues(model, key)), nullptr);
    // A scale that is no number, behind the header.
    const float scale = values->begin()->second[key % values->begin()->second.size()];
    std::memcpy(encoded->bytes.data() + encoded->count.header, &scale, sizeof scale);
  }
  if (!HasGoodBytes(flaw)) return encoded->bytes;
  const auto decoded = compressor.Decode(std::as_bytes(std::span(encoded->bytes)), model, uint64_t{1} << 30);
  for (const auto& [name, tensor] : *decoded) {
    const auto sent = tensor.values<float>();
    (*values)[name].assign(sent.begin(), sent.end());
  }
  return encoded->bytes;
}

}  // namespace

bool HasGoodBytes(Flaw flaw) {
  switch (flaw) {
    case Flaw::kNone:
    case Flaw::kNoExamples:
    case Flaw::kTooManyExamples:
    case Flaw::kWrongSize:
    case Flaw::kWrongDigest:
      return true;
    case Flaw::kTruncatedFile:
    case Flaw::kNotSafetensors:
    case Flaw::kNan:
    case Flaw::kInfinity:
    case Flaw::kElementTooLarge:
    case Flaw::kNormTooLarge:
    case Flaw::kWrongShape:
    case Flaw::kWrongRank:
    case Flaw::kWrongDtype:
    case Flaw::kMissingTensor:
    case Flaw::kExtraTensor:
    case Flaw::kTooLong:
    case Flaw::kOneLayerMore:
    case Flaw::kOneLayerLess:
    case Flaw::kOtherPart:
    case Flaw::kWrongBase:
      return false;
  }
  return false;
}

const char* FlawName(Flaw flaw) { return FlawRows()[static_cast<size_t>(flaw)].name; }

const std::set<int>& ReasonsFor(Flaw flaw, bool encoded) {
  const FlawRow& row = FlawRows()[static_cast<size_t>(flaw)];
  return encoded ? row.of_encoded : row.reasons;
}

bool EncodesUploads(uint64_t seed) { return DeriveSeed(seed, "compression", "") % 4 == 0; }
bool MakesRareFlaws(uint64_t seed) { return DeriveSeed(seed, "other flaws", "") % 8 == 0; }

MadeUpdate MakeUpdate(const StateDictSpec& model, uint64_t key, Flaw flaw, uint64_t max_update_bytes,
                      const compression::Compressor* compressor, const privacy::UpdatePrivacy& how,
                      std::string_view secret) {
  auto values = std::make_shared<Values>(DrawValues(model, key));
  SpoilValues(flaw, key, values.get());
  StateDict dict = ToTensors(model, *values);
  SpoilTensors(flaw, &dict);
  if (flaw == Flaw::kNone) {
    dict = *privacy::MakePrivate(dict, how, secret);
    for (const auto& [name, tensor] : dict) {
      const auto sent = tensor.values<float>();
      (*values)[name].assign(sent.begin(), sent.end());
    }
  }
  MadeUpdate made = Wrapped(
      compressor == nullptr ? SerializeSafetensors(dict) : Encode(*compressor, model, key, flaw, dict, values.get()),
      key, flaw, max_update_bytes);
  if (HasGoodBytes(flaw)) made.values = std::move(values);
  return made;
}

MadeUpdate Wrapped(std::string bytes, uint64_t key, Flaw flaw, uint64_t max_update_bytes) {
  MadeUpdate made;
  made.flaw = flaw;
  made.num_examples = 1 + key % kMaxExamples;
  made.bytes = std::move(bytes);
  if (flaw == Flaw::kTruncatedFile) made.bytes.resize(1 + key % (made.bytes.size() - 1));
  if (flaw == Flaw::kNotSafetensors) made.bytes = "these are no tensors at all " + std::to_string(key);
  if (flaw == Flaw::kTooLong) made.bytes.resize(max_update_bytes + 1 + key % 1000);
  if (flaw == Flaw::kNoExamples) made.num_examples = 0;
  if (flaw == Flaw::kTooManyExamples) made.num_examples = kMaxExamples + 1 + key % 1'000'000;
  made.digest = Sha256(made.bytes);
  made.size_bytes = made.bytes.size() - (flaw == Flaw::kWrongSize ? 1 : 0);
  if (flaw == Flaw::kWrongDigest) made.bytes[key % made.bytes.size()] ^= 1;
  return made;
}

Result<Values> ReadValues(const std::string& safetensors, StateDictSpec* spec) {
  auto owned = std::make_shared<std::string>(safetensors);
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile file, ParseSafetensors(std::as_bytes(std::span(*owned)), owned));
  Values values;
  for (const auto& [name, tensor] : file.tensors) {
    const std::span<const float> all = tensor.values<float>();
    values[name].assign(all.begin(), all.end());
  }
  if (spec != nullptr) *spec = SpecOf(file.tensors);
  return values;
}

const char* MethodName(Method method) {
  static constexpr std::array<const char*, kNumMethods> kNames = {
      "FedAvg",   "FedAvgM", "FedAdam",      "CoordinateMedian", "TrimmedMean",
      "FedKSeed", "DeComFL", "HeteroLayers", "FedBFPT",          "FreezeLayers"};
  return kNames[static_cast<size_t>(method)];
}

Version NextVersion(Method method, const Version& parent,
                    const std::vector<std::pair<const Values*, uint64_t>>& accepted, uint64_t max_updates) {
  __extension__ typedef __int128 Exact;
  const double scale = GridScale(max_updates);
  Version next;
  for (const auto& [name, base] : parent.model) {
    Sent sent;
    uint64_t total = 0;
    for (const auto& [values, weight] : accepted) {
      const auto found = values->find(name);
      if (found == values->end()) continue;
      sent.emplace_back(&found->second, weight);
      total += weight;
    }
    std::vector<float>& out = next.model[name];
    if (sent.empty()) {
      out = base;
      continue;
    }
    for (size_t i = 0; i < base.size(); ++i) {
      double step = 0;
      if (method == Method::kCoordinateMedian || method == Method::kTrimmedMean) {
        step = StepOfSorted(method, sent, i);
      } else {
        Exact sum = 0;
        for (const auto& [values, weight] : sent) {
          const long double exact = static_cast<long double>((*values)[i]) * static_cast<long double>(weight);
          // With a planted bug weights may be what devices make up: beyond 64 bits, never beyond 128.
          if (std::isfinite(exact)) sum += static_cast<Exact>(std::nearbyintl(exact * static_cast<long double>(scale)));
        }
        const double mean = static_cast<double>(sum) / (static_cast<double>(total) * scale);
        step = StepOfMean(method, mean, parent.state, name, i, &next.state);
      }
      out.push_back(static_cast<float>(static_cast<double>(base[i]) + step));
    }
  }
  return next;
}

namespace {

void AddStateDigest(const std::string& state, StateDict* model) {
  const Sha256Digest digest = Sha256(state);
  std::span<std::byte> bytes;
  Tensor named = Tensor::Allocate({DType::kU8, {32}}, &bytes);
  std::memcpy(bytes.data(), digest.raw().data(), bytes.size());
  model->emplace("heddle.state.sha256", std::move(named));
}

// The upper half of the nearest float with 8 significant bits.
uint16_t NearestBfloat16(float value) {
  if (value == 0) return std::signbit(value) ? 0x8000 : 0;
  const double step = std::ldexp(1.0, std::max(std::ilogb(value), -126) - 7);
  const auto nearest = static_cast<float>(std::nearbyint(static_cast<double>(value) / step) * step);
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(nearest) >> 16);
}

}  // namespace

Sha256Digest RoundedFileOf(const StateDictSpec& spec, const Version& version) {
  StateDict model;
  for (const auto& [name, tensor] : spec) {
    const std::vector<float>& values = version.model.at(name);
    std::span<std::byte> bytes;
    model.emplace(name, Tensor::Allocate({DType::kBF16, tensor.shape}, &bytes));
    auto* const out = reinterpret_cast<uint16_t*>(bytes.data());
    for (size_t i = 0; i < values.size(); ++i) out[i] = NearestBfloat16(values[i]);
  }
  if (const std::string state = FilesOf(spec, version).state; !state.empty()) AddStateDigest(state, &model);
  return Sha256(SerializeSafetensors(model));
}

VersionFiles FilesOf(const StateDictSpec& spec, const Version& version) {
  VersionFiles files;
  StateDict model = ToTensors(spec, version.model);
  if (!version.state.empty()) {
    StateDict state;
    for (const auto& [name, values] : version.state) {
      state.emplace(name, Tensor::FromFloats(spec.at(name.substr(2)).shape, values));
    }
    files.state = SerializeSafetensors(state);
    AddStateDigest(files.state, &model);
  }
  files.model = SerializeSafetensors(model);
  return files;
}

}  // namespace heddle::system_simulation
