// Tensors of a checkpoint in the type that is wanted: in place in the mapped file where that is the stored type (small
// ones are copied), else converted piece by piece, each page of the file being let go after its use. So loading takes
// the memory of its result and a few MiB, whatever the file's size.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <atomic>
#include <memory>
#include <vector>

#include "common/file.h"
#include "common/state_dict.h"
#include "common/status.h"
#include "model/quant/quantized_matrix.h"

namespace heddle::model {

// LibTorch's type for one of ours that IsFloat.
at::ScalarType TorchType(DType dtype);

// Whether the next piece of memory is to be made of huge pages: yes, as long as they are fast to come by; after a slow
// piece one of ordinary pages comes first, then three, seven, and so on. Thread-safe; a race costs time at most.
class HugePagePolicy {
 public:
  static constexpr int kLongestPause = 63;  // pieces
  bool Try();
  void Tell(bool fast);  // of a piece for which Try() said yes

 private:
  std::atomic<int> pause_{0}, left_{0};
};

// Thread-safe. Uses LibTorch's threads; the values do not depend on their number. std::bad_alloc and
// LibTorch's exceptions pass through.
class TensorLoader {
 public:
  // `files`: what the tensors are views into, for letting pages go. Tensors of other memory are read as they are.
  explicit TensorLoader(std::vector<std::shared_ptr<const MappedFile>> files) : files_(std::move(files)) {}

  // float32, bfloat16, float64 or half precision, of the tensor's shape, on the CPU; not to be written to: it may be
  // the file itself. `source` must be of a float type (asserted); it need not be aligned.
  torch::Tensor Dense(const Tensor& source, at::ScalarType type) const;

  // Of a matrix (asserted). Errors: those of QuantizedMatrix::Quantize.
  Result<std::shared_ptr<const QuantizedMatrix>> Quantized(const Tensor& source, QuantKind kind) const;

 private:
  const MappedFile* FileOf(const Tensor& source) const;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  mutable HugePagePolicy huge_pages_;
};

}  // namespace heddle::model
