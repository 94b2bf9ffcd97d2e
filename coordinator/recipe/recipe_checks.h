// Checks that a recipe's two halves, the devices' task and the strategy, belong together. Internal to the room. Pure
// functions; Recipe::LoadText calls them once local_task is known.
#pragma once

#include "common/status.h"
#include "coordinator/recipe/recipe.h"

namespace heddle::coordinator {

// That both halves of a method with shared seeds are there and nothing that it does not know. Errors: kInvalidArgument
// with every mistake.
Status CheckSeeds(const Recipe& recipe);

// That pseudo-labels and prompts meet the task that knows them. Errors: as CheckSeeds.
Status CheckFewShot(const Recipe& recipe);

// That a prompt's generator meets a prompt, and the task that trains it. Errors: as CheckSeeds.
Status CheckGenerator(const Recipe& recipe);

// FedNova divides updates by what their devices' steps add up to, which it knows of plain steps and of momentum: sets
// its local_momentum to the devices' own. Errors: kInvalidArgument with every mistake where the recipe says another, or
// steps of another kind.
Status TieLocalMomentum(Recipe* recipe);

// That what frozen layers make of examples is kept by a task that can use it. Errors: as CheckSeeds.
Status CheckKeptFront(const Recipe& recipe);

// That a strategy which weighs a round by its share of all devices knows how many there are: strategy.num_devices, or
// all take part in each round. Else those of a round would be taken for all, and FedDyn would learn nothing. Errors:
// kInvalidArgument.
Status CheckPopulation(const Recipe& recipe);

// That devices with SCAFFOLD's control variates, which are mean gradients, take plain steps of SGD. Errors:
// kInvalidArgument.
Status CheckCorrections(const Recipe& recipe);

// That labels can be told apart by their names, and that each class of a prompt has a word. Errors: kInvalidArgument.
Status CheckLabels(const Recipe& recipe);

// That few_shot finds classes to label with on this base model. Errors: kInvalidArgument.
Status CheckFewShotClasses(const Recipe& recipe, const model::ModelSpec& base);

// That devices which prune their rank have one rank to prune. Errors: kInvalidArgument.
Status CheckPruning(const Recipe& recipe);

// That devices which clip their updates, or add noise to them, send updates for which that can be said: the whole
// difference to what they were given, and nothing that depends on an earlier report. Errors: kInvalidArgument with
// every mistake.
Status CheckPrivacy(const Recipe& recipe);
// That the strategy's bounds leave such updates as they are; `initial` is the first adapter. Errors: as above.
Status CheckNoiseFits(const Recipe& recipe, const StateDict& initial);

}  // namespace heddle::coordinator
