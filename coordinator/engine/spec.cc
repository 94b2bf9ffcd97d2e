#include <cmath>
#include <cstdio>

#include "coordinator/engine/engine.h"

namespace heddle::coordinator {
namespace {

constexpr uint32_t kMostDevices = 1'000'000;
constexpr uint32_t kMostRounds = 1'000'000;
constexpr double kMostOverSelection = 100;
// Long enough for every device of the world, short enough that adding one to a date never overflows.
constexpr Duration kLongest = std::chrono::hours(24 * 366);
constexpr Duration kLongestRetry = std::chrono::hours(24);

class Mistakes {
 public:
  void Add(const std::string& sentence) { text_ += (text_.empty() ? "" : "; ") + sentence; }
  void Between(const std::string& name, uint32_t value, uint32_t low, uint32_t high) {
    if (value >= low && value <= high) return;
    Add(name + " is " + std::to_string(value) + " but must be between " + std::to_string(low) + " and " +
        std::to_string(high));
  }
  void PositiveTime(const char* name, Duration value, Duration longest) {
    if (value > Duration::zero() && value <= longest) return;
    char text[160];
    std::snprintf(text, sizeof text, "%s is %g s but must be above 0 and at most %g s", name, ToSeconds(value),
                  ToSeconds(longest));
    Add(text);
  }
  Status ToStatus() const {
    return text_.empty() ? OkStatus() : InvalidArgument("the settings of the run contradict themselves: " + text_);
  }

 private:
  std::string text_;
};

// `stage` stands before the names: "later_" for those of the second stage.
void CheckSizes(const RoundSizes& sizes, const std::string& stage, Mistakes* mistakes) {
  mistakes->Between(stage + "cohort_size", sizes.cohort_size, 1, kMostDevices);
  mistakes->Between(stage + "min_available_devices", sizes.min_available_devices, 1, kMostDevices);
  if (sizes.min_reports < 1 || sizes.min_reports > sizes.cohort_size) {
    mistakes->Add(stage + "min_reports is " + std::to_string(sizes.min_reports) + " but must be between 1 and " +
                  stage + "cohort_size (" + std::to_string(sizes.cohort_size) + ")");
  }
  if (sizes.min_available_devices < sizes.min_reports) {
    mistakes->Add(stage + "min_available_devices is " + std::to_string(sizes.min_available_devices) +
                  " but must be at least " + stage + "min_reports (" + std::to_string(sizes.min_reports) + ")");
  }
}

}  // namespace

RoundSizes SizesOf(const RunSpec& spec, uint32_t round) {
  if (spec.first_stage_rounds > 0 && round > spec.first_stage_rounds) {
    return {spec.later_cohort_size, spec.later_min_available_devices, spec.later_min_reports};
  }
  return {spec.cohort_size, spec.min_available_devices, spec.min_reports};
}

uint32_t SelectionTarget(const RunSpec& spec, uint32_t round) {
  // Less than a billionth of a device above a whole number is rounding: 10 * 1.1 means 11 devices.
  return static_cast<uint32_t>(std::ceil(SizesOf(spec, round).cohort_size * spec.over_selection - 1e-9));
}

std::optional<uint32_t> LayersFor(const RunSpec& spec, uint64_t memory_bytes) {
  if (spec.layer_memory.empty()) return std::nullopt;
  auto layers = static_cast<uint32_t>(spec.layer_memory.size());
  if (memory_bytes == 0) return layers;
  while (layers > 0 && spec.layer_memory[layers - 1] > memory_bytes) --layers;
  return layers;
}

Status CheckRunSpec(const RunSpec& spec) {
  Mistakes mistakes;
  if (spec.id.empty()) mistakes.Add("the run has no id");
  if (spec.local_task.empty()) mistakes.Add("local_task is empty");
  mistakes.Between("num_server_rounds", spec.rounds, 1, kMostRounds);
  if (spec.max_abandoned_attempts > kMostRounds) {
    mistakes.Between("max_abandoned_attempts", spec.max_abandoned_attempts, 0, kMostRounds);
  }
  // Written so that NaN fails too.
  if (!(spec.over_selection >= 1 && spec.over_selection <= kMostOverSelection)) {
    mistakes.Add("over_selection is " + std::to_string(spec.over_selection) + " but must be between 1 and 100");
  }
  CheckSizes(SizesOf(spec, 1), "", &mistakes);
  if (spec.first_stage_rounds > 0) {
    mistakes.Between("first_stage_rounds", spec.first_stage_rounds, 1, kMostRounds);
    CheckSizes(SizesOf(spec, spec.first_stage_rounds + 1), "later_", &mistakes);
  }
  mistakes.PositiveTime("selection_timeout", spec.selection_timeout, kLongest);
  mistakes.PositiveTime("report_deadline", spec.report_deadline, kLongest);
  mistakes.PositiveTime("max_poll_hold", spec.max_poll_hold, kLongest);
  mistakes.PositiveTime("min_retry_after", spec.min_retry_after, kLongestRetry);
  mistakes.PositiveTime("max_retry_after", spec.max_retry_after, kLongestRetry);
  if (spec.min_retry_after > spec.max_retry_after) mistakes.Add("min_retry_after is above max_retry_after");
  if (spec.max_num_examples == 0) mistakes.Add("max_num_examples is 0, so that no update could be accepted");
  if (spec.layer_memory.size() > kMostLayers) {
    mistakes.Add("layer_memory is of " + std::to_string(spec.layer_memory.size()) + " layers, which are too many");
  }
  return mistakes.ToStatus();
}

}  // namespace heddle::coordinator
