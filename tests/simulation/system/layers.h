// Runs whose devices have a part of the model (HeteroLayers, FedBFPT, FreezeLayers) in the simulated worlds: the
// settings that a seed draws, and which layers each device must get, train and send in each round (where memory
// decides, for each number of layers), by the definitions of aggregation/parts/sub_models.h with none of its code.
//
// Pure functions of their arguments; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "common/state_dict.h"
#include "protocol/v1/task.pb.h"
#include "tests/simulation/system/updates.h"

namespace heddle::system_simulation {

inline constexpr uint32_t kLayers = 4;  // of the base model of these worlds

bool HasLayers(Method method);

// The lines of [strategy] beside the name.
std::string LayerSettings(Method method, uint64_t seed);

using Layers = std::set<uint32_t>;

// What a device of the world is asked in a round.
struct Share {
  Layers held;         // of these layers it gets the adapter's tensors
  Layers sent;         // and of these it trains and sends them; the others it leaves as they are
  bool part = false;   // it computes with some layers only, and fetches the tensors of these from the base model
  uint32_t drawn = 0;  // so many deeper layers are among them, as the run's seed draws them
};
// `depth`: where memory decides, so many layers; else the seed's.
Share ShareOf(Method method, uint64_t seed, const std::string& device, uint32_t round,
              std::optional<uint32_t> depth = std::nullopt);

// ---- by memory ----

// Devices get as many layers as the memory allows that they tell with their check-ins.
bool ByMemory(Method method, uint64_t seed);
// That the device's owner allows; 0: there is no limit.
uint64_t MemoryOf(Method method, uint64_t seed, const std::string& device);
// That there is for a task in truth: with some devices not enough for what they are first given, but for one layer.
uint64_t RealMemoryOf(Method method, uint64_t seed, const std::string& device);
// What a task of so many layers is estimated to need, and how many fit into what is told.
uint64_t NeedOf(uint32_t layers);
uint32_t LayersWithin(uint64_t told);
// Of how many layers a plan is.
uint32_t DepthIn(const v1::TaskPlan& plan);

// What is wrong with the plan of a device with that share; nothing when it asks just that. `told`: where memory
// decides, how many layers fit into what the device told at any time.
std::optional<std::string> MistakeIn(const v1::TaskPlan& plan, const Share& share, const std::set<uint32_t>* told);

// Names and shapes of the tensors in these layers.
StateDictSpec Within(const Layers& layers, const StateDictSpec& model);

// The layers that a device sends which gets its own (`layers`) wrong: one more than it was asked for, one less, or
// those of another device or round. Where it cannot get them wrong so, *flaw becomes how it does.
Layers WrongLayers(Layers layers, Method method, uint64_t seed, uint64_t key, Flaw* flaw);

}  // namespace heddle::system_simulation
