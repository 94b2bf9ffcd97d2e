// Tensors of random numbers for tests, the same on every machine.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "common/random.h"

namespace heddle::model {

// float32, uniform in [-scale, scale).
inline torch::Tensor RandomTensor(at::IntArrayRef shape, uint64_t seed, float scale = 1.0F) {
  torch::Tensor out = torch::empty(shape);
  const PhiloxStream random(seed);
  for (int64_t i = 0; i < out.numel(); ++i) {
    out.data_ptr<float>()[i] = (2 * random.UniformAt(static_cast<uint64_t>(i)) - 1) * scale;
  }
  return out;
}

}  // namespace heddle::model
