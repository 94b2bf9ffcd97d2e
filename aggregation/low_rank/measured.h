// A merge that also tells by how much it is wrong. Internal to low_rank.
#pragma once

#include <memory>

#include "aggregation/aggregator.h"

namespace heddle::aggregation::low_rank {

// `mean` averages the factors of `parent`, all of which travel. Beside it the updates are kept on disk, and the model
// gets the figure product_residual: |sum p B_c A_c - B A|_F / |sum p B_c A_c|_F over all modules, with the scaling of
// each; 0 when nothing is there. Errors: those of FactorPairs and ScratchFile.
Result<std::unique_ptr<Aggregator>> MakeMeasured(std::unique_ptr<Aggregator> mean, const StateDict& parent,
                                                 const AggregatorOptions& options);

}  // namespace heddle::aggregation::low_rank
