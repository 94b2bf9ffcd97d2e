// Methods whose devices compute with a part of the model: which layers, of which they get trained values, and which
// they train and send.
//
//   FedBFPT (IJCAI 2023): a layer at a time, from the first on. In the rounds of layer l a device has the layers 0 to l
//     and some of the deeper ones, drawn anew for each device and round. Those below l come as they were trained, the
//     deeper ones as they are in the base. It trains layer l, and what is outside of layers.
//   HeteroLayers: a device has as many layers as it can hold (AggregatorOptions::layers_of, or what its memory
//     allows), the first ones or some spread over the depth, and trains all of them.
//   FreezeLayers: devices have the whole model and train all layers but the first ones; one more is left as it is every
//     few rounds, the last one never.
//
// All three: w += the mean, weighted by examples, of what the devices that trained a tensor sent; one that nobody of
// the round trained stays. A tensor's layer is the number that stands alone between dots in its key (layer_groups.h);
// what has none is everybody's. Pure functions; thread-safe.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "aggregation/aggregator.h"
#include "aggregation/method.h"

namespace heddle::aggregation {

struct SubModel {
  // Numbers of layers, rising. It computes with `layers`; empty: with all, of which it gets everything.
  std::vector<uint32_t> layers;
  std::vector<uint32_t> given;   // of these it gets the adapter's tensors; with `layers` only
  std::vector<uint32_t> frozen;  // of these it gets them and leaves them as they are
  auto operator<=>(const SubModel&) const = default;
};

// Whether the method gives devices parts of the model at all.
bool UsesSubModels(std::string_view method);
// Layers that the method was told the model has; 0: it has no such setting.
uint32_t LayersToldTo(std::string_view method, const AggregatorOptions& options);
// Of a device in options.round. SubModel{} for other methods. The settings must have been checked (MakeAggregator).
// `layers`: that it can hold, where its memory decides; 0: as options.layers_of says.
SubModel SubModelOf(std::string_view method, const AggregatorOptions& options, std::string_view device,
                    uint32_t layers = 0);

// What of a model the device gets: tensors of `given` layers and of none.
StateDict GivenTo(const SubModel& part, const StateDict& model);
// What of an update's names and shapes it sends.
StateDictSpec SentBy(const SubModel& part, StateDictSpec update);

Method FedBfptMethod();
Method HeteroLayersMethod();
Method FreezeLayersMethod();

}  // namespace heddle::aggregation
