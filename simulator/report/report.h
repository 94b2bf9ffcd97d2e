// report.html: a run for people, as one file that needs no network. Made from what a run folder holds: run.json,
// history.jsonl and, where there is one, summary.json (the demo's perplexities).
//
// Thread-safety: pure but for reading and writing the folder.
#pragma once

#include <filesystem>
#include <string>

#include "common/status.h"

namespace heddle::simulator {

// The page. `summary_json` may be empty. Errors: kInvalidArgument (a text is not what the folder's files hold).
Result<std::string> RenderReport(const std::string& run_json, const std::string& history_jsonl,
                                 const std::string& summary_json);

// Reads the folder's files and writes report.html beside them. Errors: those of files and of RenderReport.
Status WriteReport(const std::filesystem::path& folder);

}  // namespace heddle::simulator
