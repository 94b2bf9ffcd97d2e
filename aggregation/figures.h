// What a round finds out while it makes a model, for people: numbers by name that stand in the model itself, so that
// they are durable with it and the same after a restart. history.jsonl tells them. Pure functions.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/state_dict.h"

namespace heddle::aggregation {

// As float32. Names are of a-z and '_'.
void SetFigure(std::string_view name, double value, StateDict* model);

// By name in order; what is no number of that kind is left out.
std::vector<std::pair<std::string, double>> FiguresOf(const StateDict& model);

// Takes them off: they belong to the model that they were made with.
void EraseFigures(StateDict* model);

}  // namespace heddle::aggregation
