// A model whose base has been added to (heddle.base_delta.*) as one PEFT adapter, for checkpoints that others open.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::aggregation::low_rank {

struct ExportedAdapter {
  StateDict tensors;  // nothing under kOwnPrefix
  // Ranks of the modules whose factors grew, by module path: what belongs into rank_pattern, beside an alpha_pattern
  // that keeps the module's scaling. Empty: the configuration is the model's.
  std::map<std::string, int64_t> ranks;
};

// W0 + s B A + D C, with D C the base delta, is W0 + s [B | D / s] [A; C]: the same layer, of a larger rank. So are
// sparse values (heddle.dense), whose rank can be the layer's smaller side. Tensors that do not change share their
// bytes with `model`. `scaling` gives s for a module path; the same before and after. Pure. Errors: kInvalidArgument
// for a model with base deltas or sparse values that FactorPairs or FindSparseDeltas refuse, or where such a module's
// scaling is not above 0. May throw std::bad_alloc.
Result<ExportedAdapter> ExportAdapter(const StateDict& model,
                                      const std::function<double(std::string_view module_path)>& scaling);

}  // namespace heddle::aggregation::low_rank
