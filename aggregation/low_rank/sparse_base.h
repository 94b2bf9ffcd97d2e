// What a model's heddle.dense values (common/sparse_delta.h) add to its layers, as factors. Internal to low_rank.
#pragma once

#include <vector>

#include "aggregation/low_rank/layout.h"
#include "common/sparse_delta.h"

namespace heddle::aggregation::low_rank {

// Those of modules with factor pairs. Errors: those of FindSparseDeltas.
Result<std::vector<SparseDelta>> SparseDeltasOf(const StateDict& model, const std::vector<FactorPair>& pairs);

// The same matrix exactly: its rows or its columns that are not all zero, whichever are fewer, beside columns with a
// single one. Without columns when all is zero. May throw std::bad_alloc.
Product ProductOf(const SparseDelta& delta);

}  // namespace heddle::aggregation::low_rank
