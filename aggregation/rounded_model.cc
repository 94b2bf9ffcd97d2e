#include "aggregation/rounded_model.h"

#include <utility>

#include "common/float_convert.h"

namespace heddle::aggregation {

StateDict RoundedToBfloat16(const StateDict& model) {
  constexpr uint16_t kLargest = 0x7f7f, kSign = 0x8000, kInfinity = 0x7f80;
  StateDict out;
  for (const auto& [key, tensor] : model) {
    if (tensor.dtype() != DType::kF32) {
      out.emplace_hint(out.end(), key, tensor);
      continue;
    }
    std::span<std::byte> bytes;
    Tensor rounded = Tensor::Allocate({DType::kBF16, tensor.shape()}, &bytes);
    const auto count = bytes.size() / sizeof(uint16_t);
    auto* const values = reinterpret_cast<uint16_t*>(bytes.data());
    ConvertToBfloat16(DType::kF32, tensor.bytes().data(), count, values);
    for (size_t i = 0; i < count; ++i) {
      if ((values[i] & ~kSign) == kInfinity) values[i] = static_cast<uint16_t>((values[i] & kSign) | kLargest);
    }
    out.emplace_hint(out.end(), key, std::move(rounded));
  }
  return out;
}

}  // namespace heddle::aggregation
