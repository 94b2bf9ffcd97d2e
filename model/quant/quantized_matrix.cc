#include "model/quant/quantized_matrix.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/assert.h"
#include "model/quant/codes.h"

namespace heddle::model {
namespace {

using torch::Tensor;

// Blocks that a thread takes at least: some 16 K weights.
int64_t Grain(int64_t block) { return (int64_t{1} << 14) / block; }
constexpr int64_t kReadAtOnce = 4096;  // weights, whole blocks: as float32 they stay in the nearest cache
static_assert(kReadAtOnce % kNf4Block == 0 && kReadAtOnce % kInt8Block == 0);

template <typename Value>
std::span<Value> Values(const Tensor& tensor) {
  return {tensor.data_ptr<Value>(), static_cast<size_t>(tensor.numel())};
}

}  // namespace

Result<std::shared_ptr<const QuantizedMatrix>> QuantizedMatrix::Quantize(int64_t rows, int64_t columns, QuantKind kind,
                                                                         const ReadFloats& read) {
  HEDDLE_ASSERT(rows >= 0 && columns >= 0, "a matrix has a shape");
  torch::NoGradGuard no_grad;
  auto matrix = std::make_shared<QuantizedMatrix>();
  matrix->rows_ = rows;
  matrix->columns_ = columns;
  matrix->kind_ = kind;
  const int64_t weights = rows * columns;
  const auto block = static_cast<int64_t>(BlockOf(kind));
  const int64_t blocks = (weights + block - 1) / block;
  Tensor scales = at::empty({blocks}, at::kFloat);
  std::span<float> scale = Values<float>(scales);
  std::atomic<bool> finite{true};
  // fn(block index, its weights)
  const auto for_each_block = [&](const auto& fn) {
    at::parallel_for(0, blocks, Grain(block), [&](int64_t begin, int64_t end) {
      std::vector<float> buffer(static_cast<size_t>(kReadAtOnce));
      const int64_t last = std::min(end * block, weights);
      for (int64_t first = begin * block; first < last; first += kReadAtOnce) {
        const std::span<const float> part(buffer.data(), static_cast<size_t>(std::min(kReadAtOnce, last - first)));
        read(first, static_cast<int64_t>(part.size()), buffer.data());
        for (size_t i = 0; i < part.size(); i += static_cast<size_t>(block)) {
          const auto index = static_cast<size_t>(first / block) + i / static_cast<size_t>(block);
          fn(index, part.subspan(i, std::min(static_cast<size_t>(block), part.size() - i)));
        }
      }
    });
  };
  if (kind == QuantKind::kInt8) matrix->codes_ = at::empty({weights}, at::kChar);
  auto* int8_codes = kind == QuantKind::kInt8 ? matrix->codes_.data_ptr<int8_t>() : nullptr;
  for_each_block([&](size_t i, std::span<const float> x) {
    const float largest = AbsMax(x);
    if (!std::isfinite(largest)) {
      finite = false;
    } else if (int8_codes != nullptr) {  // nothing but its own block decides a weight's code
      scale[i] = largest / 127;
      EncodeInt8(x, scale[i], int8_codes + i * kInt8Block);
    } else {
      scale[i] = largest;
    }
  });
  if (!finite) return InvalidArgument("it has a weight that is not finite, which no quantised weight can be");
  if (kind == QuantKind::kInt8) {
    matrix->scales_ = scales;
    return std::shared_ptr<const QuantizedMatrix>(std::move(matrix));
  }
  matrix->scale_mean_ = MeanOf(scale);
  matrix->scales_ = at::empty({blocks}, at::kChar);
  matrix->scale_units_ = at::empty({(blocks + int64_t{kScaleGroup} - 1) / int64_t{kScaleGroup}}, at::kFloat);
  const auto scale_codes = Values<int8_t>(matrix->scales_);
  const auto units = Values<float>(matrix->scale_units_);
  EncodeScales(scale, matrix->scale_mean_, scale_codes, units);
  matrix->codes_ = at::empty({(weights + 1) / 2}, at::kByte);
  auto* codes = matrix->codes_.data_ptr<uint8_t>();
  for_each_block([&](size_t i, std::span<const float> x) {
    EncodeNf4(x, DecodeScale(scale_codes[i], matrix->scale_mean_, units[i / kScaleGroup]), codes + i * kNf4Block / 2);
  });
  return std::shared_ptr<const QuantizedMatrix>(std::move(matrix));
}

Result<std::shared_ptr<const QuantizedMatrix>> QuantizedMatrix::Quantize(const Tensor& weight, QuantKind kind) {
  HEDDLE_ASSERT(weight.dim() == 2 && weight.is_cpu() && weight.scalar_type() == at::kFloat && weight.is_contiguous(),
                "a contiguous float32 matrix");
  const float* values = weight.data_ptr<float>();
  return Quantize(weight.size(0), weight.size(1), kind, [values](int64_t begin, int64_t count, float* out) {
    std::memcpy(out, values + begin, static_cast<size_t>(count) * sizeof(float));
  });
}

std::shared_ptr<const QuantizedMatrix> QuantizedMatrix::To(const torch::Device& device) const {
  auto moved = std::make_shared<QuantizedMatrix>(*this);
  moved->codes_ = codes_.to(device);
  moved->scales_ = scales_.to(device);
  if (scale_units_.defined()) moved->scale_units_ = scale_units_.to(device);
  return moved;
}

uint64_t QuantizedMatrix::bytes() const {
  return codes_.nbytes() + scales_.nbytes() + (scale_units_.defined() ? scale_units_.nbytes() : 0) +
         (kind_ == QuantKind::kNf4 ? sizeof scale_mean_ : 0);
}

namespace {

// Out: float, or uint16_t for bfloat16's bits.
template <typename Out>
void DequantizeNf4(const Tensor& codes, const Tensor& scales, const Tensor& units, float mean, int64_t weights,
                   Out* out) {
  const auto* code = codes.data_ptr<uint8_t>();
  const auto* scale = scales.data_ptr<int8_t>();
  const auto* unit = units.data_ptr<float>();
  constexpr auto kBlock = static_cast<int64_t>(kNf4Block);
  at::parallel_for(0, scales.numel(), Grain(kBlock), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto count = static_cast<size_t>(std::min(kBlock, weights - i * kBlock));
      DecodeNf4(code + i * kBlock / 2, count, DecodeScale(scale[i], mean, unit[i / int64_t{kScaleGroup}]),
                out + i * kBlock);
    }
  });
}

template <typename Out>
void DequantizeInt8(const Tensor& codes, const Tensor& scales, int64_t weights, Out* out) {
  const auto* code = codes.data_ptr<int8_t>();
  const auto* scale = scales.data_ptr<float>();
  constexpr auto kBlock = static_cast<int64_t>(kInt8Block);
  at::parallel_for(0, scales.numel(), Grain(kBlock), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto count = static_cast<size_t>(std::min(kBlock, weights - i * kBlock));
      DecodeInt8(code + i * kBlock, count, scale[i], out + i * kBlock);
    }
  });
}

}  // namespace

Tensor QuantizedMatrix::Dense(at::ScalarType dtype) const {
  if (!codes_.is_cpu() || (dtype != at::kFloat && dtype != at::kBFloat16)) return DenseByOperators(dtype);
  torch::NoGradGuard no_grad;
  Tensor out = at::empty({rows_, columns_}, at::TensorOptions(dtype));
  const auto into = [&](auto* values) {
    if (kind_ == QuantKind::kNf4) {
      DequantizeNf4(codes_, scales_, scale_units_, scale_mean_, out.numel(), values);
    } else {
      DequantizeInt8(codes_, scales_, out.numel(), values);
    }
  };
  if (dtype == at::kFloat) {
    into(out.data_ptr<float>());
  } else {
    into(reinterpret_cast<uint16_t*>(out.data_ptr<at::BFloat16>()));
  }
  return out;
}

Tensor QuantizedMatrix::DenseByOperators(at::ScalarType dtype) const {
  torch::NoGradGuard no_grad;
  const int64_t weights = rows_ * columns_;
  const auto block = static_cast<int64_t>(BlockOf(kind_));
  Tensor values, scales = scales_;
  if (kind_ == QuantKind::kNf4) {
    const Tensor table =
        at::tensor(at::ArrayRef<float>(Nf4Values().data(), Nf4Values().size()), at::kFloat).to(codes_.device());
    const Tensor both = at::stack({codes_.bitwise_and(15), codes_.bitwise_right_shift(4)}, 1).flatten();
    values = table.index_select(0, both.slice(0, 0, weights).to(at::kLong));
    const Tensor units = scale_units_.repeat_interleave(int64_t{kScaleGroup}).slice(0, 0, scales_.numel());
    scales = scales_.to(at::kFloat).mul_(units).add_(scale_mean_).clamp_min_(0);
  } else {
    values = codes_.to(at::kFloat);
  }
  values.mul_(scales.repeat_interleave(block).slice(0, 0, weights));
  return values.view({rows_, columns_}).to(dtype);
}

}  // namespace heddle::model
