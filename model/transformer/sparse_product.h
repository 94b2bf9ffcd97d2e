// Products with a matrix that has values at a few places only: forward and backward touch these places and nothing of
// the matrix's size is made (on a GPU, for as long as the product takes, it is).
//
// Include only from translation units of targets with TORCH. Thread-safety: pure functions.
#pragma once

#include <torch/types.h>

namespace heddle::model {

// What is added to a weight; float32.
struct SparseWeight {
  torch::Tensor values;  // [n]; may require a gradient
  torch::Tensor places;  // int64 [n] on the processor, ascending: row * in + column of [out, in]
};

// rows [T, in] of any float type times the transposed matrix: [T, out] of that type. Sums are in float32, or in float64
// when rows are, in the order of the places: the same bits for any number of threads.
torch::Tensor SparseProduct(const torch::Tensor& rows, const SparseWeight& weight, int64_t out);

// *dense [out, in] += the matrix, in place, without gradient.
void AddTo(const SparseWeight& weight, torch::Tensor* dense);

}  // namespace heddle::model
