// How the learning rate moves within one task: warm-up, then a shape by its Hugging Face name (lr_scheduler_type). Over
// the rounds of a run the coordinator has a schedule of its own; the two multiply.
//
// With T steps, W of them warm-up, and t the step in question from 1, the factor is
//   t <= W                  t / W                                     (so the last step of the warm-up has factor 1)
//   constant_with_warmup    1
//   linear                  (T - (t - 1)) / (T - W)                   from 1 at t = W + 1 to 1 / (T - W) at t = T
//   cosine                  (1 + cos(pi (t - 1 - W) / (T - W))) / 2   from 1 at t = W + 1, nearly 0 at t = T
//   constant                1, also during the warm-up
// With W >= T all is warm-up. The decays are those of Hugging Face's schedules, whose steps count from 0; its warm-up
// starts with a step of rate 0, which would be a wasted step of a short task.
//
// Free of LibTorch. Immutable value; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle::model {

class LearningRateSchedule {
 public:
  // An empty name is "constant_with_warmup", the default. Errors: kInvalidArgument that lists the known names.
  static Result<LearningRateSchedule> Make(std::string_view name, uint32_t total_steps, uint32_t warmup_steps);

  // Of step 1 to total_steps: 0 to 1. Steps outside are taken as the nearest inside.
  double Factor(uint32_t step) const;

 private:
  enum class Shape { kConstant, kConstantWithWarmup, kLinear, kCosine };
  LearningRateSchedule(Shape shape, uint32_t total, uint32_t warmup) : shape_(shape), total_(total), warmup_(warmup) {}
  static std::vector<std::pair<std::string_view, Shape>> Names();
  friend std::vector<std::string> ScheduleNames();

  Shape shape_;
  uint32_t total_, warmup_;
};

std::vector<std::string> ScheduleNames();  // the default first

}  // namespace heddle::model
