// Which layers' prefixes travel (FedPepTAO): the columns of PREFIX_TUNING's one tensor belong to layers, of each its
// keys and values side by side. A model of such a run says in the names of its tensors where it is:
//
//   heddle.layer_scores [layers]   there are so many layers; the mean of the devices' scores, zeros at first
//   heddle.travels.<layer> [1]     this layer's columns travel; none of these: all do, and updates have scores beside
//   them
//
// Columns that do not travel are trained and stay on each device. Pure functions; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "aggregation/aggregator.h"
#include "common/state_dict.h"

namespace heddle::aggregation {

inline constexpr std::string_view kLayerScoresName = "heddle.layer_scores", kTravelsPrefix = "heddle.travels.",
                                  kPrefixKey = "prompt_embeddings";

struct LayerChoice {
  int64_t layers = 0;            // 0: the run chooses none
  std::vector<int64_t> travels;  // ascending; empty: all
  bool scoring() const { return layers > 0 && travels.empty(); }
};
LayerChoice LayerChoiceOf(const StateDictSpec& model);

// The columns of a prefix of that width that travel, ascending. `width` is a multiple of choice.layers.
std::vector<int64_t> TravellingColumns(const LayerChoice& choice, int64_t width);

// The layers with the highest scores, ascending by number; of equal scores the lower layer. count 0: as many as stand
// above the widest gap between neighbours in the order of scores, at least one and not all (of one layer: it).
std::vector<int64_t> ChooseLayers(std::span<const double> scores, uint32_t count);

// Whether runs of the method choose layers.
bool ChoosesLayers(std::string_view method);
// What FirstModel is to be told of the base model; for other methods `options` themselves.
AggregatorOptions WithLayers(std::string_view method, AggregatorOptions options, int64_t layers);

}  // namespace heddle::aggregation
