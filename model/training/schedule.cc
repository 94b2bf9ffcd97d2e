#include "model/training/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace heddle::model {

std::vector<std::pair<std::string_view, LearningRateSchedule::Shape>> LearningRateSchedule::Names() {
  return {{"constant_with_warmup", Shape::kConstantWithWarmup},
          {"constant", Shape::kConstant},
          {"linear", Shape::kLinear},
          {"cosine", Shape::kCosine}};
}

std::vector<std::string> ScheduleNames() {
  std::vector<std::string> names;
  for (const auto& [text, shape] : LearningRateSchedule::Names()) names.emplace_back(text);
  return names;
}

Result<LearningRateSchedule> LearningRateSchedule::Make(std::string_view name, uint32_t total_steps,
                                                        uint32_t warmup_steps) {
  if (name.empty()) name = Names().front().first;
  std::string known;
  for (const auto& [text, shape] : Names()) {
    if (text == name) return LearningRateSchedule(shape, std::max(1U, total_steps), warmup_steps);
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  return InvalidArgument("there is no lr_scheduler_type '" + std::string(name) + "'; known are " + known);
}

double LearningRateSchedule::Factor(uint32_t step) const {
  step = std::clamp(step, 1U, total_);
  if (shape_ == Shape::kConstant) return 1.0;
  if (step < warmup_) return static_cast<double>(step) / warmup_;
  // From here step - 1 >= warmup_, but for the last step of the warm-up, whose factor is 1 as well.
  if (shape_ == Shape::kConstantWithWarmup || step == warmup_) return 1.0;
  const auto done = static_cast<double>(step - 1 - warmup_);
  const auto all = static_cast<double>(total_ - warmup_);
  if (shape_ == Shape::kLinear) return (all - done) / all;
  return 0.5 * (1.0 + std::cos(std::numbers::pi * done / all));
}

}  // namespace heddle::model
