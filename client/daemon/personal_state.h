// What a device keeps of a run from one of its tasks to the next and never sends: its own factors, control variates,
// what a compressed update left out. One file a run, in the daemon's state folder.
//
// A task reads `now` and writes `next`; End puts `next` in the place of `now` when the task's update was accepted, so
// what the device remembers is what the coordinator counted. After a crash between the two, the journal's report is
// answered again and End is called again. So the journal stays while this is unsettled, and no task begins before.
//
// Thread-safety: none; one task at a time.
#pragma once

#include <filesystem>
#include <string_view>

#include "common/status.h"

namespace heddle::client {

class PersonalState {
 public:
  static constexpr size_t kMaxRuns = 16;  // older ones are forgotten

  explicit PersonalState(std::filesystem::path folder) : folder_(std::move(folder)) {}

  struct Paths {
    std::filesystem::path now, next;  // `now` may not exist
  };
  // A task of this run begins: what an earlier task left unfinished goes; what was accepted is put in place, if End
  // could not do it, since the coordinator counts on it. Errors: those of the folder.
  Result<Paths> Begin(std::string_view run_id);
  // The task has ended. Errors: the file cannot be put in place; what was kept before stays, and the next call tries
  // again.
  Status End(bool accepted);
  // What was accepted is not in its place yet.
  bool unsettled() const { return accepted_; }

 private:
  bool accepted_ = false;
  std::filesystem::path folder_;
};

}  // namespace heddle::client
