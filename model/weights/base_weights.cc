#include "model/weights/base_weights.h"

#include <torch/cuda.h>

#include <cstring>
#include <optional>
#include <set>

#include "common/logging.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "model/weights/tensor_loader.h"

namespace heddle::model {
namespace {

// The parameters that int8 and NF4 are for.
std::set<std::string> PackedNames(const ModelSpec& spec) {
  std::set<std::string> names;
  for (const LinearSpec& linear : spec.LinearModules()) {
    if (!linear.output) names.insert(linear.path + ".weight");
  }
  return names;
}

at::ScalarType DenseType(const Tensor& stored, WeightType wanted) {
  if (wanted == WeightType::kFloat32 || stored.shape().size() < 2) return at::kFloat;
  if (wanted == WeightType::kBfloat16 || stored.dtype() == DType::kBF16) return at::kBFloat16;
  return at::kFloat;
}

std::optional<QuantKind> KindOf(WeightType type) {
  if (type == WeightType::kInt8) return QuantKind::kInt8;
  if (type == WeightType::kNf4) return QuantKind::kNf4;
  return std::nullopt;
}

// A head that is tied is not read from the file: people whose file has one of its own are told, once a load.
void WarnOfUnusedHead(const std::filesystem::path& folder, const ModelSpec& spec, const SafetensorsFile& file) {
  if (!spec.TiedHead() || !spec.part.head) return;
  const auto head = file.tensors.find(spec.head.output + ".weight");
  if (head == file.tensors.end()) return;
  for (const auto& [stored_name, name] : spec.NamesOf(SpecOf(file.tensors))) {
    if (name != spec.token_embedding || stored_name == head->first) continue;
    const Tensor &own = head->second, &embedding = file.tensors.find(stored_name)->second;
    const bool same = own.spec() == embedding.spec() &&
                      std::memcmp(own.bytes().data(), embedding.bytes().data(), own.bytes().size()) == 0;
    for (const auto& mapped : file.files) mapped->DropPages();
    if (same) return;
    Log(Severity::kWarning, folder.string() + ": " + head->first + " differs from " + stored_name +
                                ", which takes its place by tie_word_embeddings of config.json: set that to false if "
                                "the model has a head of its own");
  }
}

Result<std::shared_ptr<const BaseWeights>> LoadThrowing(const std::filesystem::path& folder, ModelSpec spec,
                                                        const SafetensorsFile& file, const WeightOptions& options) {
  auto base = std::make_shared<BaseWeights>();
  const std::optional<QuantKind> kind = KindOf(options.type);
  const std::set<std::string> packed = kind ? PackedNames(spec) : std::set<std::string>();
  const TensorLoader loader(file.files);
  const StateDictSpec parameters = spec.WeightSpec();
  for (const auto& [stored_name, name] : spec.NamesOf(SpecOf(file.tensors))) {
    if (!parameters.contains(name)) continue;  // of another part
    const Tensor& tensor = file.tensors.find(stored_name)->second;
    if (!packed.contains(name)) {
      base->tensors.emplace(name, loader.Dense(tensor, DenseType(tensor, options.type)).to(options.device));
      continue;
    }
    auto matrix = loader.Quantized(tensor, *kind);
    if (!matrix.ok()) return matrix.status().Annotate(folder.string() + ": the tensor '" + stored_name + "'");
    base->packed.emplace(name, options.device.is_cpu() ? *matrix : (*matrix)->To(options.device));
  }
  for (const std::string& name : spec.fresh) {
    const auto parameter = parameters.find(name);
    if (parameter == parameters.end() || base->tensors.contains(name)) continue;
    base->tensors.emplace(name, torch::zeros(parameter->second.shape, at::TensorOptions(options.device)));
  }
  base->spec = std::move(spec);
  return std::shared_ptr<const BaseWeights>(std::move(base));
}

}  // namespace

Result<torch::Device> DeviceFromName(const std::string& name) {
  if (name.empty() || name == "cpu") return torch::Device(torch::kCPU);
  if (name != "cuda") return InvalidArgument("there is no device '" + name + "'; known are cpu, cuda");
  if (!torch::cuda::is_available()) {
    return FailedPrecondition(
        "the device is set to cuda, but LibTorch finds no GPU that it can use here; set it to cpu");
  }
  return torch::Device(torch::kCUDA, 0);
}

Result<std::shared_ptr<const BaseWeights>> BaseWeights::Load(const std::filesystem::path& folder,
                                                             const WeightOptions& options) {
  HEDDLE_ASSIGN_OR_RETURN(ModelSpec spec, ReadModelConfig(folder));
  spec.part = options.part;
  HEDDLE_RETURN_IF_ERROR(spec.Check());
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile file, ReadModelSafetensors(folder, Misaligned::kKeep));
  if (Status status = spec.CheckTensors(SpecOf(file.tensors)); !status.ok()) return status.Annotate(folder.string());
  WarnOfUnusedHead(folder, spec, file);
  try {
    return LoadThrowing(folder, std::move(spec), file, options);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is not enough memory for the weights of " + folder.string());
  } catch (const std::exception& e) {
    return Internal("LibTorch could not take the weights of " + folder.string() + ": " + e.what());
  }
}

uint64_t BaseWeights::bytes() const {
  uint64_t total = 0;
  for (const auto& [name, tensor] : tensors) total += tensor.nbytes();
  for (const auto& [name, matrix] : packed) total += matrix->bytes();
  return total;
}

}  // namespace heddle::model
