// How good the model of a round is, on what was held out from all devices and on what each device held out.
//
// Thread-safety: one call at a time.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/worker/local_task.h"
#include "common/status.h"
#include "coordinator/recipe/recipe.h"
#include "simulator/world/devices.h"

namespace heddle::simulator {

// Names as client::Evaluation has them: loss first, then accuracy, f1, …
using Figures = std::vector<std::pair<std::string, double>>;

struct ModelFigures {
  Figures test;           // of the data held out from all; empty when there are none
  Figures device;         // mean over the devices, each on its own held-out data; empty when there are none
  double device_min = 0;  // the worst device's second figure (accuracy of a classifier); 0 when there are none
};

// Where a device's own model is: the committed one, or with what the device kept to itself.
using ModelOfDevice = std::function<Result<std::filesystem::path>(const DeviceSpec& device)>;

// Tests the adapter in `checkpoint` (a folder; empty: the base model as it is). `own_model` is asked for each device
// that held something out. Errors: those of client::EvaluateModel and of own_model.
Result<ModelFigures> TestModel(const coordinator::Recipe& recipe, const std::filesystem::path& base_model,
                               const std::filesystem::path& checkpoint, const DeviceSet& devices,
                               client::TaskResources& resources, const ModelOfDevice& own_model);

// Whether the recipe asks for a test after this round.
bool IsTestRound(const coordinator::Recipe& recipe, uint32_t round);

// As members of a JSON object, without its braces: "test_loss":…,"test_accuracy":…,"device_accuracy":…
std::string FiguresJson(const ModelFigures& figures);

// The figure by that name, NaN when there is none.
double FigureOf(const Figures& figures, std::string_view name);

}  // namespace heddle::simulator
