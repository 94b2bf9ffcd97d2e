// A frozen weight matrix that is not kept in the type that is computed in: bfloat16, half precision, quantised. Whoever
// needs it asks for a dense copy, uses that and lets it go, so that only one is there at a time.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace heddle::model {

// Immutable and shared; thread-safe.
class FrozenWeight {
 public:
  virtual ~FrozenWeight() = default;
  // As stored: [out, in], or [in, out] in a model with transposed linear layers.
  virtual int64_t rows() const = 0;
  virtual int64_t columns() const = 0;
  // [rows, columns] in `type`, on the weight's device, without gradient; the caller does not write to it.
  virtual torch::Tensor Dense(at::ScalarType type) const = 0;
  virtual torch::Device device() const = 0;
  virtual uint64_t bytes() const = 0;  // held in memory
};

}  // namespace heddle::model
