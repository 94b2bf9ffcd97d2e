// The folders of ended runs that do not tell all: a kill may come between a run's last commit and the files that tell
// of it, or the disk may be full just then. They are written as soon as that is possible.
//
// A folder whose run.json tells the end is whole; one that is not there was thrown away by somebody, and stays so.
//
// Life cycle: construct; Tick at once, and then at NextDeadline(). Thread-safety: none; the run driver's thread.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "coordinator/service/run_core.h"

namespace heddle::coordinator {

class FolderRepairs {
 public:
  // Between tries, doubled each time.
  static constexpr Duration kMinPause = std::chrono::seconds(60), kMaxPause = std::chrono::hours(1);

  // `options` outlives this object.
  explicit FolderRepairs(const RunCoreOptions& options) : options_(options) {}

  // A run that has ended, and why its folder could not be written. It is due now.
  void Add(const RunId& run, std::string why);
  // Where it is time to: writes what can be written. At first that includes whatever earlier lives left behind.
  void Tick();
  // Nothing: all folders tell all.
  std::optional<Time> NextDeadline() const { return next_; }
  // What is left, and why.
  const std::map<RunId, std::string>& untold() const { return untold_; }

 private:
  const RunCoreOptions& options_;
  std::map<RunId, std::string> untold_;
  bool listed_ = false;  // those of before the start are among them
  std::optional<Time> next_ = Time::min();
  Duration pause_ = kMinPause;
};

}  // namespace heddle::coordinator
