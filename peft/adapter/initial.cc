#include "peft/adapter/initial.h"

#include <algorithm>
#include <cmath>

#include "common/random.h"
#include "peft/adapter/principal.h"
#include "peft/adapter/slots.h"

namespace heddle::peft {
namespace {

constexpr double kDeviation = 0.02;

float Normal(const PhiloxStream& stream, size_t index) {
  double sum = 0;
  for (size_t i = 0; i < 12; ++i) sum += static_cast<double>(stream.UniformAt(12 * index + i));
  return static_cast<float>(sum - 6);
}

class Maker {
 public:
  Maker(const model::ModelSpec& spec, const AdapterConfig& config, const StateDict& weights, uint64_t seed)
      : spec_(spec), config_(config), seed_(seed) {
    for (const auto& [name, ours] : spec.NamesOf(SpecOf(weights))) weights_.emplace(ours, &weights.find(name)->second);
    for (model::LinearSpec& linear : spec.LinearModules()) linears_.emplace(linear.path, linear);
  }

  Result<StateDict> Make() {
    HEDDLE_ASSIGN_OR_RETURN(const std::vector<Slot> slots, ListSlots(spec_, config_));
    for (const Slot& slot : slots) {
      if (config_.IsPissa() && config_.kind() == TuningKind::kLora && slot.role == SlotRole::kLoraA) {
        HEDDLE_RETURN_IF_ERROR(Pissa(slot));
      }
      if (out_.contains(slot.key)) continue;
      HEDDLE_ASSIGN_OR_RETURN(const std::vector<float> values, ValuesOf(slot));
      out_.emplace(slot.key, Tensor::FromFloats(slot.shape, values));
    }
    return std::move(out_);
  }

 private:
  static size_t SizeOf(const Slot& slot) {
    size_t size = 1;
    for (const int64_t d : slot.shape) size *= static_cast<size_t>(d);
    return size;
  }
  static void Uniform(uint64_t key, double bound, std::vector<float>* values) {
    const PhiloxStream stream(key);
    for (size_t i = 0; i < values->size(); ++i) {
      (*values)[i] = static_cast<float>((2.0 * static_cast<double>(stream.UniformAt(i)) - 1.0) * bound);
    }
  }
  static void Normals(uint64_t key, double deviation, std::vector<float>* values) {
    const PhiloxStream stream(key);
    for (size_t i = 0; i < values->size(); ++i) {
      (*values)[i] = static_cast<float>(static_cast<double>(Normal(stream, i)) * deviation);
    }
  }

  Result<std::vector<float>> ValuesOf(const Slot& slot) const {
    std::vector<float> values(SizeOf(slot), 0.0F);
    const uint64_t key = DeriveSeed(seed_, "tuning", slot.key);
    switch (slot.role) {
      case SlotRole::kLoraA: {
        const uint64_t of_path = DeriveSeed(seed_, "lora_A", slot.path);
        if (config_.init_lora_weights == "gaussian") {
          Normals(of_path, 1.0 / static_cast<double>(slot.shape[0]), &values);
        } else {
          Uniform(of_path, 1.0 / std::sqrt(static_cast<double>(slot.shape[1])), &values);
        }
        break;
      }
      case SlotRole::kLoraB:
        if (config_.init_lora_weights == "false") {
          Uniform(DeriveSeed(seed_, "lora_B", slot.path), 1.0 / std::sqrt(static_cast<double>(slot.shape[1])), &values);
        }
        break;
      case SlotRole::kMagnitude:
        return Magnitude(slot);
      case SlotRole::kScaleIn:
      case SlotRole::kScaleOut:
        std::fill(values.begin(), values.end(), 1.0F);
        break;
      case SlotRole::kPrompt:
        if (config_.kind() == TuningKind::kPromptTuning && config_.prompt_tuning_init != "RANDOM") return Words(slot);
        Normals(key, kDeviation, &values);
        break;
      case SlotRole::kPrefix:
        Normals(key, kDeviation, &values);
        break;
      case SlotRole::kDown:
        Uniform(key, 1.0 / std::sqrt(static_cast<double>(slot.shape[1])), &values);
        break;
      case SlotRole::kDownBias:
      case SlotRole::kUp:
      case SlotRole::kUpBias:
        break;
      case SlotRole::kParameter:
        return Parameter(slot);
    }
    return values;
  }

  Result<std::vector<float>> Weight(const std::string& name) const {
    const auto found = weights_.find(name);
    if (found == weights_.end()) {
      return InvalidArgument("the base model's weights lack " + name + ", which the adapter starts from");
    }
    return found->second->ToFloats();
  }
  // The weight of a linear layer as [out, in].
  Result<std::vector<float>> Matrix(const model::LinearSpec& linear) const {
    HEDDLE_ASSIGN_OR_RETURN(std::vector<float> values, Weight(linear.path + ".weight"));
    if (static_cast<int64_t>(values.size()) != linear.in * linear.out) {
      return InvalidArgument(linear.path + ".weight has another size than config.json asks for");
    }
    if (!linear.transposed) return values;
    const auto in = static_cast<size_t>(linear.in), out = static_cast<size_t>(linear.out);
    std::vector<float> turned(values.size());
    for (size_t o = 0; o < out; ++o) {
      for (size_t i = 0; i < in; ++i) turned[o * in + i] = values[i * out + o];
    }
    return turned;
  }

  Result<std::vector<float>> Magnitude(const Slot& slot) const {
    const model::LinearSpec& linear = linears_.at(slot.path);
    HEDDLE_ASSIGN_OR_RETURN(const std::vector<float> matrix, Matrix(linear));
    // The slots of a module come in the order of their keys: A and B are there.
    const std::span<const float> a = out_.find(KeyBeside(slot, "lora_A.weight"))->second.values<float>();
    const std::span<const float> b = out_.find(KeyBeside(slot, "lora_B.weight"))->second.values<float>();
    const auto in = static_cast<size_t>(linear.in), out = static_cast<size_t>(linear.out), rank = a.size() / in;
    const double scaling = config_.ScalingOf(slot.path);
    std::vector<float> norms(out);
    for (size_t o = 0; o < out; ++o) {
      double sum = 0;
      for (size_t i = 0; i < in; ++i) {
        double product = 0;
        for (size_t k = 0; k < rank; ++k) {
          product += static_cast<double>(b[o * rank + k]) * static_cast<double>(a[k * in + i]);
        }
        const double w = static_cast<double>(matrix[o * in + i]) + scaling * product;
        sum += w * w;
      }
      norms[o] = static_cast<float>(std::sqrt(sum));
    }
    return norms;
  }

  static std::string KeyBeside(const Slot& slot, const char* ending) {
    return slot.key.substr(0, slot.key.rfind('.') + 1) + ending;
  }

  Result<std::vector<float>> Words(const Slot& slot) const {
    if (config_.prompt_tuning_init == "TEXT") {
      return InvalidArgument("prompt_tuning_init TEXT cannot be drawn here: use RANDOM or SAMPLE_VOCAB");
    }
    HEDDLE_ASSIGN_OR_RETURN(const std::vector<float> table, Weight(spec_.token_embedding));
    const auto width = static_cast<size_t>(slot.shape[1]);
    PhiloxStream stream(DeriveSeed(seed_, "tuning", slot.key));
    std::vector<float> values;
    for (int64_t token = 0; token < slot.shape[0]; ++token) {
      const size_t word = stream.NextBelow(static_cast<uint32_t>(table.size() / width));
      const auto row = table.begin() + static_cast<std::ptrdiff_t>(word * width);
      values.insert(values.end(), row, row + static_cast<std::ptrdiff_t>(width));
    }
    return values;
  }

  Result<std::vector<float>> Parameter(const Slot& slot) const {
    if (weights_.contains(slot.path) || !spec_.IsFresh(slot.path)) return Weight(slot.path);
    std::vector<float> values(SizeOf(slot), 0.0F);
    if (slot.path.ends_with(".bias")) return values;
    if (slot.shape.size() == 1) {
      std::fill(values.begin(), values.end(), 1.0F);
    } else {
      Uniform(DeriveSeed(seed_, "tuning", slot.key), kDeviation * std::sqrt(3.0), &values);
    }
    return values;
  }

  Status Pissa(const Slot& slot) {
    const model::LinearSpec& linear = linears_.at(slot.path);
    const int64_t rank = slot.shape[0];
    if (rank > std::min(linear.in, linear.out)) {
      return InvalidArgument("init_lora_weights pissa: the rank " + std::to_string(rank) + " is above the number of " +
                             "singular values of " + slot.path);
    }
    HEDDLE_ASSIGN_OR_RETURN(const std::vector<float> matrix, Matrix(linear));
    const Principal top = LargestSingular(matrix, linear.out, linear.in, rank);
    const double scaling = config_.ScalingOf(slot.path);
    const auto in = static_cast<size_t>(linear.in), out = static_cast<size_t>(linear.out);
    const auto r = static_cast<size_t>(rank);
    std::vector<float> a(r * in), b(out * r), taken(out * r);
    for (size_t k = 0; k < r; ++k) {
      const double root = std::sqrt(top.values[k] / scaling);
      for (size_t i = 0; i < in; ++i) a[k * in + i] = static_cast<float>(root * top.right[k * in + i]);
      for (size_t o = 0; o < out; ++o) {
        b[o * r + k] = static_cast<float>(root * top.left[k * out + o]);
        taken[o * r + k] = static_cast<float>(-scaling * static_cast<double>(b[o * r + k]));
      }
    }
    const Tensor factor_a = Tensor::FromFloats(slot.shape, a);
    out_.emplace(slot.key, factor_a);
    out_.emplace(KeyBesideWeight(slot), Tensor::FromFloats({linear.out, rank}, b));
    out_.emplace(BaseDeltaAKey(slot.path), factor_a);
    out_.emplace(BaseDeltaBKey(slot.path), Tensor::FromFloats({linear.out, rank}, taken));
    return OkStatus();
  }
  static std::string KeyBesideWeight(const Slot& slot) {
    constexpr std::string_view kEnding = "lora_A.weight";
    return slot.key.substr(0, slot.key.size() - kEnding.size()) + "lora_B.weight";
  }

  const model::ModelSpec& spec_;
  const AdapterConfig& config_;
  const uint64_t seed_;
  std::map<std::string, const Tensor*> weights_;
  std::map<std::string, model::LinearSpec> linears_;
  StateDict out_;
};

}  // namespace

Result<StateDict> MakeInitialAdapter(const model::ModelSpec& spec, const AdapterConfig& config,
                                     const StateDict& weights, uint64_t seed) {
  return Maker(spec, config, weights, seed).Make();
}

}  // namespace heddle::peft
