// FedPepTAO (Che et al., 2310.15080), with scores in place of its Hessians: m = server_momentum m + (1 -
// server_momentum) mean(d), x += server_learning_rate m, for what travels. In the first `score_rounds` rounds all
// prefixes travel and devices tell how far each layer turns what goes through it; from then on those of the layers with
// the highest mean scores (layer_choice.h). Devices begin each round with a fresh optimizer; the paper's begin with the
// server's momentum (docs/recipes.md says why these do not).
#pragma once

#include "aggregation/method.h"

namespace heddle::aggregation {

Method FedPepTaoMethod();

}  // namespace heddle::aggregation
