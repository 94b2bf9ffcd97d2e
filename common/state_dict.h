// StateDict: named tensors as plain bytes, free of LibTorch. What blobs hold, what aggregation folds.
//
// A Tensor is an immutable view of row-major little-endian bytes with shared ownership of what they live in (a mapped
// file, a heap buffer): copying one is cheap and safe between threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle {

// The element types of safetensors that Heddle reads.
enum class DType : uint8_t { kBool, kU8, kI8, kI16, kI32, kI64, kF16, kBF16, kF32, kF64 };

size_t DTypeSize(DType dtype);            // bytes an element
std::string_view DTypeName(DType dtype);  // "F32", as in safetensors headers
std::optional<DType> DTypeFromName(std::string_view name);

using Shape = std::vector<int64_t>;             // empty: a scalar. Zero-sized dimensions are legal.
std::string ShapeToString(const Shape& shape);  // "[4, 16]"
// Product of the dimensions. Errors: kInvalidArgument on a negative dimension or overflow of 2^62.
Result<int64_t> NumElements(const Shape& shape);

struct TensorSpec {
  DType dtype = DType::kF32;
  Shape shape;
  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
  std::string ToString() const;  // "F32 [4, 16]"
};

class Tensor {
 public:
  Tensor() = default;  // F32 [0]
  // `owner` keeps `bytes` alive. bytes.size() must be NumElements * DTypeSize (asserted; readers check first).
  Tensor(TensorSpec spec, std::span<const std::byte> bytes, std::shared_ptr<const void> owner);

  // A tensor with a heap copy of the values.
  static Tensor FromFloats(Shape shape, std::span<const float> values);
  // A zero-filled tensor and a pointer to write its bytes through, before anyone else sees it.
  static Tensor Allocate(TensorSpec spec, std::span<std::byte>* bytes);

  const TensorSpec& spec() const { return spec_; }
  DType dtype() const { return spec_.dtype; }
  const Shape& shape() const { return spec_.shape; }
  std::span<const std::byte> bytes() const { return bytes_; }
  int64_t numel() const { return static_cast<int64_t>(bytes_.size() / DTypeSize(spec_.dtype)); }
  // The elements. `T` must be the type of dtype() (asserted) and the bytes must be aligned for it; safetensors readers
  // guarantee alignment by copying a misaligned tensor.
  template <typename T>
  std::span<const T> values() const {
    CheckValues(sizeof(T), alignof(T));
    return {reinterpret_cast<const T*>(bytes_.data()), bytes_.size() / sizeof(T)};
  }
  // What keeps bytes() alive; for zero-copy hand-over to LibTorch.
  const std::shared_ptr<const void>& owner() const { return owner_; }

  // The elements as float32, from F16, BF16, F32 or F64. Errors: kInvalidArgument for other types.
  Result<std::vector<float>> ToFloats() const;

 private:
  void CheckValues(size_t size, size_t alignment) const;
  TensorSpec spec_{DType::kF32, {0}};
  std::span<const std::byte> bytes_;
  std::shared_ptr<const void> owner_;
};

// Ordered by name (byte-wise), so that iteration, serialisation and hashes are the same everywhere.
using StateDict = std::map<std::string, Tensor, std::less<>>;
using StateDictSpec = std::map<std::string, TensorSpec, std::less<>>;

StateDictSpec SpecOf(const StateDict& dict);
// Sum of bytes().size().
uint64_t TotalBytes(const StateDict& dict);
// Ok when the names, dtypes and shapes are equal; else kInvalidArgument that names the first difference.
Status CheckSameSpec(const StateDictSpec& expected, const StateDictSpec& actual);

}  // namespace heddle
