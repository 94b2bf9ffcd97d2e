#include "common/state_dict.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "common/assert.h"
#include "common/float_convert.h"

namespace heddle {
namespace {

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  size_t size;
};

constexpr std::array<DTypeInfo, 10> kDTypes = {{{DType::kBool, "BOOL", 1},
                                                {DType::kU8, "U8", 1},
                                                {DType::kI8, "I8", 1},
                                                {DType::kI16, "I16", 2},
                                                {DType::kI32, "I32", 4},
                                                {DType::kI64, "I64", 8},
                                                {DType::kF16, "F16", 2},
                                                {DType::kBF16, "BF16", 2},
                                                {DType::kF32, "F32", 4},
                                                {DType::kF64, "F64", 8}}};

const DTypeInfo& InfoOf(DType dtype) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.dtype == dtype) return info;
  }
  HEDDLE_ASSERT(false, "a dtype that does not exist");
}

}  // namespace

size_t DTypeSize(DType dtype) { return InfoOf(dtype).size; }

std::string_view DTypeName(DType dtype) { return InfoOf(dtype).name; }

std::optional<DType> DTypeFromName(std::string_view name) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}

std::string ShapeToString(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Result<int64_t> NumElements(const Shape& shape) {
  constexpr int64_t kLimit = int64_t{1} << 62;
  int64_t product = 1;
  bool empty = false;
  for (int64_t dimension : shape) {
    if (dimension < 0) return InvalidArgument("the shape " + ShapeToString(shape) + " has a negative dimension");
    if (dimension == 0) {
      empty = true;
    } else if (product > kLimit / dimension) {
      return InvalidArgument("the shape " + ShapeToString(shape) + " has too many elements");
    } else {
      product *= dimension;
    }
  }
  return empty ? 0 : product;
}

std::string TensorSpec::ToString() const { return std::string(DTypeName(dtype)) + " " + ShapeToString(shape); }

Tensor::Tensor(TensorSpec spec, std::span<const std::byte> bytes, std::shared_ptr<const void> owner)
    : spec_(std::move(spec)), bytes_(bytes), owner_(std::move(owner)) {
  auto count = NumElements(spec_.shape);
  HEDDLE_ASSERT(count.ok() && static_cast<uint64_t>(*count) <= bytes.size() &&
                    bytes.size() == static_cast<size_t>(*count) * DTypeSize(spec_.dtype),
                "a tensor's bytes and shape must agree");
}

Tensor Tensor::Allocate(TensorSpec spec, std::span<std::byte>* bytes) {
  auto count = NumElements(spec.shape);
  HEDDLE_ASSERT(count.ok() && *count <= (int64_t{1} << 62) / 8, "the shape of a tensor of ours must be legal");
  size_t size = static_cast<size_t>(*count) * DTypeSize(spec.dtype);
  // Eight-byte words, so that every element type is aligned.
  std::shared_ptr<uint64_t[]> buffer(new uint64_t[(size + 7) / 8]());
  *bytes = {reinterpret_cast<std::byte*>(buffer.get()), size};
  return Tensor(std::move(spec), *bytes, std::move(buffer));
}

Tensor Tensor::FromFloats(Shape shape, std::span<const float> values) {
  std::span<std::byte> bytes;
  Tensor tensor = Allocate({DType::kF32, std::move(shape)}, &bytes);
  HEDDLE_ASSERT(bytes.size() == values.size_bytes(), "as many values as elements");
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return tensor;
}

void Tensor::CheckValues(size_t size, size_t alignment) const {
  HEDDLE_ASSERT(size == DTypeSize(spec_.dtype), "values<T> with another element size than the tensor's");
  HEDDLE_ASSERT(reinterpret_cast<uintptr_t>(bytes_.data()) % alignment == 0, "values<T> of misaligned bytes");
}

Result<std::vector<float>> Tensor::ToFloats() const {
  if (!IsFloat(spec_.dtype)) return InvalidArgument("a tensor of " + spec_.ToString() + " is not floating point");
  std::vector<float> out(static_cast<size_t>(numel()));
  ConvertToFloat(spec_.dtype, bytes_.data(), out.size(), out.data());
  return out;
}

StateDictSpec SpecOf(const StateDict& dict) {
  StateDictSpec spec;
  for (const auto& [name, tensor] : dict) spec.emplace_hint(spec.end(), name, tensor.spec());
  return spec;
}

uint64_t TotalBytes(const StateDict& dict) {
  uint64_t total = 0;
  for (const auto& [name, tensor] : dict) total += tensor.bytes().size();
  return total;
}

Status CheckSameSpec(const StateDictSpec& expected, const StateDictSpec& actual) {
  auto e = expected.begin();
  auto a = actual.begin();
  while (e != expected.end() || a != actual.end()) {
    if (a == actual.end() || (e != expected.end() && e->first < a->first)) {
      return InvalidArgument("the tensor '" + e->first + "' is missing");
    }
    if (e == expected.end() || a->first < e->first)
      return InvalidArgument("the tensor '" + a->first + "' is not expected");
    if (e->second != a->second) {
      return InvalidArgument("the tensor '" + e->first + "' is " + a->second.ToString() + " where " +
                             e->second.ToString() + " is expected");
    }
    ++e;
    ++a;
  }
  return OkStatus();
}

}  // namespace heddle
