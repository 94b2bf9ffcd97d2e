// One machine that trains alone, with a recipe's local task and settings: what a federated run is compared with. It
// takes the steps of a device of every round; a run on all devices' data with the batches of a whole cohort sees as
// many examples as all devices of the run together. Where the recipe's learning rate falls over the rounds, it falls
// over the steps.
//
// Thread-safety: TrainAlone from any thread, with folders of its own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "client/worker/local_task.h"
#include "common/status.h"
#include "coordinator/recipe/recipe.h"

namespace heddle::simulator {

struct LoneTraining {
  std::string name;  // gives it a seed of its own
  std::filesystem::path base_model, initial_adapter, data;
  uint32_t batches = 1;           // of the recipe's batch_size, for each step
  std::filesystem::path adapter;  // folder for the result, in PEFT's layout
};

// Errors: those of the local task and of files.
Status TrainAlone(const coordinator::Recipe& recipe, const LoneTraining& training, client::TaskResources& resources,
                  const client::ProgressCallback& progress);

}  // namespace heddle::simulator
