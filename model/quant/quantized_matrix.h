// A frozen weight in 8 bits (int8, blocks of 128) or 4 bits (NF4 with double quantisation, as in QLoRA: Dettmers et
// al., 2305.14314; blocks of 64, their scales in 8 bits in groups of 256): 1.03 or 0.516 byte a weight. It is unpacked
// to the compute type for each product, forward and backward, and never kept unpacked.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <functional>
#include <memory>

#include "common/status.h"
#include "model/quant/blockwise.h"
#include "model/weights/frozen_weight.h"

namespace heddle::model {

// Immutable after Quantize; thread-safe. Shared between all modules of a process that use it.
class QuantizedMatrix final : public FrozenWeight {
 public:
  // Writes `count` weights from index `begin` (row-major) to `out`; called from several threads at once.
  using ReadFloats = std::function<void(int64_t begin, int64_t count, float* out)>;

  // Quantises a [rows, columns] matrix on the CPU. The result does not depend on the number of threads. Beside the
  // result it needs a few KiB a thread. Errors: kInvalidArgument when a weight is not finite.
  static Result<std::shared_ptr<const QuantizedMatrix>> Quantize(int64_t rows, int64_t columns, QuantKind kind,
                                                                 const ReadFloats& read);
  // Of a contiguous float32 CPU tensor [rows, columns].
  static Result<std::shared_ptr<const QuantizedMatrix>> Quantize(const torch::Tensor& weight, QuantKind kind);

  // The same matrix on another device.
  std::shared_ptr<const QuantizedMatrix> To(const torch::Device& device) const;

  // [rows, columns] of `dtype` on the matrix's device: value times scale in float32, then rounded. On the CPU to
  // float32 and bfloat16 by loops over plain memory, else by LibTorch's operators, with the same bits.
  torch::Tensor Dense(at::ScalarType dtype) const override;
  // The same, always by LibTorch's operators: for tests.
  torch::Tensor DenseByOperators(at::ScalarType dtype) const;

  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  QuantKind kind() const { return kind_; }
  torch::Device device() const override { return codes_.device(); }
  uint64_t bytes() const override;  // of codes and scales

 private:
  int64_t rows_ = 0, columns_ = 0;
  QuantKind kind_ = QuantKind::kInt8;
  torch::Tensor codes_;        // int8 [weights], or uint8 [(weights + 1) / 2] of NF4
  torch::Tensor scales_;       // float32 [blocks], or int8 [blocks] of NF4
  torch::Tensor scale_units_;  // NF4: float32 [groups]
  float scale_mean_ = 0;       // NF4
};

}  // namespace heddle::model
