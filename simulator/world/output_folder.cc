#include "simulator/world/output_folder.h"

#include "common/file.h"

namespace heddle::simulator {

namespace fs = std::filesystem;

Status ClearOutput(const fs::path& out) {
  if (out.empty()) return InvalidArgument("the simulation needs an output folder");
  std::error_code error;
  if (fs::exists(out, error) && !fs::is_empty(out, error) && !fs::exists(out / ".heddle-simulation", error)) {
    return InvalidArgument(out.string() + " holds something that is not a run; name a new folder");
  }
  for (const char* old : {"run.json", "history.jsonl", "checkpoints", "state", "adapters", "data", "personal",
                          "centralised", "summary.json"}) {
    fs::remove_all(out / old, error);
    if (error) return ErrnoStatus(error.value(), "cannot clear " + (out / old).string());
  }
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(out / "state"));
  return WriteFileAtomically(out / ".heddle-simulation",
                             "This folder is a simulation's: the next one into it clears it.\n");
}

}  // namespace heddle::simulator
