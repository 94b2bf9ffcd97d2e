// bbpt: black-box prompt tuning (BBT, Sun et al., 2201.03514; FedBPT, 2310.01467): the device asks its model for losses
// only, and searches the coordinates of a prompt (peft/adapter/prompt_projection.h) by CMA-ES from the mean and sigma
// that the coordinator sent. One step is one generation: all its candidates on one batch. What travels are the mean and
// sigma^2, both ways, 4 (d + 1) bytes and a header; never a covariance.
//
// The update is the search's mean and sigma^2 after the task, minus those before it. It reads intrinsic_dim (which the
// adapter's tensors must have) and population of TrainPlan.zo. What is frozen, kept or added to gradients is refused.
#pragma once

#include <memory>

#include "client/worker/local_task.h"

namespace heddle::client {

std::shared_ptr<const LocalTask> MakeBbpt();

}  // namespace heddle::client
