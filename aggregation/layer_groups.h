// Layers split among devices (SPRY; Panchal et al., 2405.15551): each device of a round trains and sends one group of
// the adapter's tensors, whole layers, so that it perturbs fewer weights and its estimate of their gradient is better.
//
// A tensor's layer is the number that stands alone between dots in its key ("..layers.12.self_attn..": 12; the first
// such number); it is in the group of that number modulo `groups`. Tensors outside layers (classifiers, prompts) are in
// every group. Groups beyond the number of layers would be empty, so there are never more of them than UsableGroups.
// Pure functions; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "aggregation/aggregator.h"
#include "common/state_dict.h"

namespace heddle::aggregation {

// The tensor's layer; nothing when it is of none.
std::optional<uint32_t> LayerOfKey(std::string_view key);
// groups 0: every tensor. group < groups.
bool InLayerGroup(std::string_view key, uint32_t groups, uint32_t group);
// The most groups, at most `groups`, of which each has a layer of these tensors; of tensors without a layer: 1. groups
// 0: 0. What a device was told (`groups` and its group among them) and both halves know (the names) says which it is
// in: its group modulo this.
uint32_t UsableGroups(const StateDict& tensors, uint32_t groups);
// Of a device in a round: drawn by the run's seed, the round and the device's name. groups 0: 0.
uint32_t LayerGroupOf(uint64_t seed, uint32_t round, std::string_view device, uint32_t groups);

// Groups of a method's rounds (its setting layer_groups; 0 there: as many as devices are asked for, at most 4096); 0
// for methods that do not split layers.
uint32_t LayerGroupsOf(std::string_view method, const AggregatorOptions& options);

}  // namespace heddle::aggregation
