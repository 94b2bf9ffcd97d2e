#include "model/weights/base_weights.h"

#include "common/safetensors.h"
#include "model/config/registry.h"

namespace heddle::model {
namespace {

at::ScalarType TorchType(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kF64:
      return at::kDouble;
    default:
      return at::kFloat;
  }
}

// F32 bytes are used in place (the deleter keeps their owner alive); other float types are widened to a copy.
torch::Tensor ToTorch(const Tensor& tensor) {
  const auto owner = tensor.owner();
  auto view = torch::from_blob(
      const_cast<std::byte*>(tensor.bytes().data()), tensor.shape(), [owner](void*) {},
      at::TensorOptions(TorchType(tensor.dtype())));
  return tensor.dtype() == DType::kF32 ? view : view.to(at::kFloat);
}

}  // namespace

Result<std::shared_ptr<const BaseWeights>> BaseWeights::Load(const std::filesystem::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(const ModelSpec spec, ReadModelConfig(folder));
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile file, ReadModelSafetensors(folder));
  if (Status status = spec.CheckTensors(SpecOf(file.tensors)); !status.ok()) return status.Annotate(folder.string());
  try {
    auto base = std::make_shared<BaseWeights>();
    base->spec = spec;
    for (const auto& [name, tensor] : file.tensors) {
      if (const std::string ours = spec.NameOf(name); !ours.empty()) base->tensors.emplace(ours, ToTorch(tensor));
    }
    return std::shared_ptr<const BaseWeights>(std::move(base));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is not enough memory for the weights of " + folder.string());
  } catch (const std::exception& e) {
    return Internal("LibTorch could not take the weights of " + folder.string() + ": " + e.what());
  }
}

}  // namespace heddle::model
