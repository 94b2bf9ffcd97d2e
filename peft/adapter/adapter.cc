#include "peft/adapter/adapter.h"

#include <cmath>
#include <map>

#include "common/config.h"
#include "common/file.h"
#include "common/float_convert.h"
#include "common/random.h"
#include "common/safetensors.h"

namespace heddle::peft {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
constexpr size_t kMaxConfigBytes = size_t{1} << 20;

std::string LastComponent(std::string_view path) { return std::string(path.substr(path.rfind('.') + 1)); }

Tensor Widened(const Tensor& tensor) {
  std::span<std::byte> bytes;
  Tensor out = Tensor::Allocate({DType::kF32, tensor.shape()}, &bytes);
  ConvertToFloat(tensor.dtype(), tensor.bytes().data(), bytes.size() / sizeof(float),
                 reinterpret_cast<float*>(bytes.data()));
  return out;
}

}  // namespace

Result<std::vector<TargetModule>> FindTargets(const std::vector<model::LinearSpec>& linears,
                                              const AdapterConfig& config) {
  std::vector<TargetModule> targets;
  std::map<std::string, int> linear_names;
  for (const model::LinearSpec& linear : linears) {
    ++linear_names[LastComponent(linear.path)];
    if (config.Targets(linear.path) && !config.SavesWhole(linear.path))
      targets.push_back({linear.path, linear.in, linear.out});
  }
  if (targets.empty()) {
    std::string list, nearest;
    std::vector<std::string> names;
    for (const auto& [name, unused] : linear_names) {
      list += (list.empty() ? "" : ", ") + name;
      names.push_back(name);
    }
    for (const std::string& asked : config.target_modules) {
      if (!nearest.empty()) break;
      if (auto near = NearestName(LastComponent(asked), names)) nearest = "; did you mean '" + *near + "'?";
    }
    return InvalidArgument("target_modules matches no linear layer of the base model" + nearest +
                           "; its linear layers are: " + list);
  }
  return targets;
}

Result<std::vector<TargetModule>> FindTargets(const model::ModelSpec& spec, const AdapterConfig& config) {
  HEDDLE_RETURN_IF_ERROR(CheckTiedHead(spec, config));
  return FindTargets(spec.LinearModules(), config);
}

StateDict MakeInitialAdapter(const std::vector<TargetModule>& targets, const AdapterConfig& config, uint64_t seed) {
  StateDict adapter;
  for (const TargetModule& target : targets) {
    const int64_t rank = config.RankOf(target.path);
    std::vector<float> a(static_cast<size_t>(rank * target.in_features));
    PhiloxStream stream(DeriveSeed(seed, "lora_A", target.path));
    // Kaiming uniform with a = sqrt(5) is uniform on +-1/sqrt(fan_in).
    double bound = 1.0 / std::sqrt(static_cast<double>(target.in_features));
    for (size_t i = 0; i < a.size(); ++i) {
      a[i] = static_cast<float>((2.0 * static_cast<double>(stream.UniformAt(i)) - 1.0) * bound);
    }
    std::vector<float> b(static_cast<size_t>(target.out_features * rank), 0.0F);
    adapter.emplace(LoraAKey(target.path), Tensor::FromFloats({rank, target.in_features}, a));
    adapter.emplace(LoraBKey(target.path), Tensor::FromFloats({target.out_features, rank}, b));
  }
  return adapter;
}

std::string LoraAKey(std::string_view path) { return std::string(kPrefix) + std::string(path) + ".lora_A.weight"; }
std::string LoraBKey(std::string_view path) { return std::string(kPrefix) + std::string(path) + ".lora_B.weight"; }

StateDictSpec AdapterSpec(const std::vector<TargetModule>& targets, const AdapterConfig& config) {
  StateDictSpec spec;
  for (const TargetModule& target : targets) {
    const int64_t rank = config.RankOf(target.path);
    spec[LoraAKey(target.path)] = {DType::kF32, {rank, target.in_features}};
    spec[LoraBKey(target.path)] = {DType::kF32, {target.out_features, rank}};
  }
  return spec;
}

Result<Adapter> ReadAdapter(const std::filesystem::path& folder) {
  std::filesystem::path config_path = folder / "adapter_config.json";
  const Result<std::string> text = ReadFile(config_path, kMaxConfigBytes);
  if (text.status().code() == Code::kNotFound) {
    return NotFound("there is no adapter in " + folder.string() +
                    ": name a folder in PEFT's layout, with adapter_config.json and adapter_model.safetensors");
  }
  HEDDLE_RETURN_IF_ERROR(text.status());
  auto config = AdapterConfig::FromJson(*text);
  if (!config.ok()) return config.status().Annotate(config_path.string());
  const std::filesystem::path weights_path = folder / "adapter_model.safetensors";
  HEDDLE_ASSIGN_OR_RETURN(SafetensorsFile file, ReadSafetensors(weights_path));
  for (auto& [key, tensor] : file.tensors) {
    if (tensor.dtype() == DType::kBF16 || tensor.dtype() == DType::kF16) tensor = Widened(tensor);
    if (tensor.dtype() == DType::kF32 && !AllFinite(tensor.values<float>())) {
      return InvalidArgument(weights_path.string() + ": " + key +
                             " has values that are NaN or infinite; take an adapter of before its training diverged");
    }
  }
  return Adapter{*std::move(config), std::move(file.tensors)};
}

Status WriteAdapter(const std::filesystem::path& folder, const AdapterConfig& config, const StateDict& tensors) {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(folder / "adapter_config.json", config.ToJson()));
  return WriteSafetensors(folder / "adapter_model.safetensors", tensors);
}

}  // namespace heddle::peft
