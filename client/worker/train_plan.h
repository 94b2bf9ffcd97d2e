// Between the protocol's TrainPlan and the tasks' TrainSettings: same fields, same units.
// Thread-safety: pure functions.
#pragma once

#include "client/worker/local_task.h"
#include "protocol/v1/task.pb.h"

namespace heddle::client {

TrainSettings ToTrainSettings(const v1::TrainPlan& plan);
v1::TrainPlan ToTrainPlan(const TrainSettings& settings);

// Without peak_memory_bytes, which is the process's and not the task's.
v1::TaskMetrics ToTaskMetrics(const TaskStats& stats);

}  // namespace heddle::client
