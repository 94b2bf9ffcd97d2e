#include "aggregation/compression/coded_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "aggregation/compression/adaptive_code.h"
#include "aggregation/compression/pipeline.h"

namespace heddle::compression {
namespace {

constexpr uint32_t kMostDimensions = 16;
constexpr uint64_t kValuesOfAByte = 4;  // a code has two bits at least

template <typename T>
void Append(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename T>
bool Take(std::span<const std::byte>* in, T* value) {
  if (in->size() < sizeof *value) return false;
  std::memcpy(value, in->data(), sizeof *value);
  *in = in->subspan(sizeof *value);
  return true;
}

bool IsCoded(const Tensor& tensor) {
  if (tensor.dtype() != DType::kF32) return false;
  const auto values = tensor.values<float>();
  if (values.empty() || !std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); })) {
    return false;
  }
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return *least < *most && tensor.shape().size() <= kMostDimensions;
}

Status DecodeTensor(std::span<const std::byte> in, Tensor* out) {
  uint32_t weight = 0, dimensions = 0;
  if (!Take(&in, &weight) || !Take(&in, &dimensions)) return InvalidArgument("its head is cut off");
  if (weight < 1 || weight > 1'000'000) return InvalidArgument("its weight is not in 1 .. 1000000 millionths");
  if (dimensions > kMostDimensions) return InvalidArgument("it has more than 16 dimensions");
  Shape shape(dimensions);
  for (int64_t& size : shape) {
    if (!Take(&in, &size)) return InvalidArgument("its shape is cut off");
  }
  HEDDLE_ASSIGN_OR_RETURN(const int64_t count, NumElements(shape));
  if (count == 0) return InvalidArgument("it has no values");
  if (static_cast<uint64_t>(count) > in.size() * kValuesOfAByte) return InvalidArgument("its values are cut off");
  std::span<std::byte> room;
  *out = Tensor::Allocate({DType::kF32, std::move(shape)}, &room);
  const std::span values(reinterpret_cast<float*>(room.data()), static_cast<size_t>(count));
  // Of a model every mistake is of one kind; of an update numbers that are not finite are told apart.
  if (const Status read = ReadAdaptive(weight, &in, values); !read.ok()) return InvalidArgument(read.message());
  return in.empty() ? OkStatus() : InvalidArgument("there are bytes behind its last value");
}

}  // namespace

StateDict CodedModel(const StateDict& model, uint32_t weight) {
  StateDict out;
  for (const auto& [key, tensor] : model) {
    if (!IsCoded(tensor)) {
      out.emplace(key, tensor);
      continue;
    }
    std::string bytes;
    Append(&bytes, weight);
    Append(&bytes, static_cast<uint32_t>(tensor.shape().size()));
    for (const int64_t size : tensor.shape()) Append(&bytes, size);
    AppendAdaptive(tensor.values<float>(), weight, &bytes);
    std::span<std::byte> room;
    Tensor coded = Tensor::Allocate({DType::kU8, {static_cast<int64_t>(bytes.size())}}, &room);
    std::memcpy(room.data(), bytes.data(), bytes.size());
    out.emplace(key + std::string(kCodedEnding), std::move(coded));
  }
  return out;
}

Result<StateDict> DecodedModel(const StateDict& given) {
  StateDict out;
  for (const auto& [key, tensor] : given) {
    if (!key.ends_with(kCodedEnding)) {
      if (!out.emplace(key, tensor).second) return InvalidArgument("'" + key + "' is there twice, once coded");
      continue;
    }
    const std::string name = key.substr(0, key.size() - kCodedEnding.size());
    Tensor decoded;
    const Status status = tensor.dtype() == DType::kU8 && tensor.shape().size() == 1
                              ? DecodeTensor(tensor.bytes(), &decoded)
                              : InvalidArgument("it is not bytes in a row");
    if (!status.ok()) return status.Annotate("the coded tensor '" + name + "'");
    if (name.ends_with(kCodedEnding)) return InvalidArgument("'" + name + "' is coded twice");
    if (!out.emplace(name, std::move(decoded)).second) {
      return InvalidArgument("'" + name + "' is there twice, once coded");
    }
  }
  return out;
}

}  // namespace heddle::compression
