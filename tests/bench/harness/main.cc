// heddle_bench: every target of the project in one table. Rows that compare take their sides in turns in this one run.
// Exit status: 0 (also when a target is missed: the table says so), 1 when a measurement fails, 2 for a wrong command.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <set>

#include "bench.h"
#include "checkins.h"
#include "common/file.h"
#include "common/logging.h"
#include "crowd.h"

namespace heddle::bench {

namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

std::vector<Measurement> AllMeasurements() {
  std::vector<Measurement> all;
  for (auto part : {RoundMeasurements(), LoadMeasurements(), IdleMeasurements(), CheckinMeasurements(),
                    CrowdMeasurements(), SoakMeasurements(), ProgramMeasurements(), ModelMeasurements(),
                    TokenizerMeasurements(), CompressionMeasurements(), MergeMeasurements(), ZerothOrderMeasurements(),
                    PartMeasurements(), SplitMeasurements()}) {
    for (Measurement& one : part) all.push_back(std::move(one));
  }
  return all;
}

bool Passes(const RowSpec& row, double value) {
  if (!row.target) return true;
  return row.higher_is_better ? value >= *row.target : value <= *row.target;
}

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, value >= 100 ? "%.0f" : value >= 10 ? "%.1f" : "%.3g", value);
  return text;
}

void PrintHeader() { std::printf("%-20s %-54s %9s %-12s %9s  %s\n", "id", "what", "value", "unit", "target", ""); }

void PrintRow(const RowSpec& row, const Value& value) {
  const std::string target = row.target ? (row.higher_is_better ? ">= " : "<= ") + Number(*row.target) : "-";
  std::printf("%-20s %-54s %9s %-12s %9s  %-6s %s\n", row.id.c_str(), row.what.c_str(), Number(value.value).c_str(),
              row.unit.c_str(), target.c_str(),
              !row.target                ? ""
              : Passes(row, value.value) ? "ok"
                                         : "MISSED",
              value.note.c_str());
}

std::string ToJson(const RowSpec& row, const Value& value) {
  const auto number = [](double x) {
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", x);
    return std::string(std::isfinite(x) ? text : "null");
  };
  const auto quoted = [](const std::string& text) { return json::serialize(json::string(text)); };
  return "{\"id\":" + quoted(row.id) + ",\"value\":" + number(value.value) + ",\"unit\":" + quoted(row.unit) +
         ",\"target\":" + (row.target ? number(*row.target) : "null") + ",\"better\":\"" +
         (row.higher_is_better ? "higher" : "lower") + "\",\"pass\":" + (Passes(row, value.value) ? "true" : "false") +
         "}";
}

// Which measurements to run; 2 in `status` after a message when the names are unknown.
std::vector<Measurement> Choose(const std::string& group, const std::string& only, int* status) {
  std::vector<Measurement> chosen;
  std::set<std::string> groups, ids;
  for (Measurement& one : AllMeasurements()) {
    groups.insert(one.group);
    bool wanted = group.empty() || one.group == group;
    bool named = only.empty();
    for (const RowSpec& row : one.rows) {
      ids.insert(row.id);
      named = named || row.id == only;
    }
    if (wanted && named) chosen.push_back(std::move(one));
  }
  if (!chosen.empty()) return chosen;
  *status = 2;
  const bool bad_group = !group.empty() && !groups.contains(group);
  std::cerr << "heddle_bench: there is no " << (bad_group ? "group '" + group : "row '" + only)
            << (bad_group ? "'; groups are:" : "'; rows are:");
  for (const std::string& name : bad_group ? groups : ids) std::cerr << " " << name;
  std::cerr << "\n";
  return chosen;
}

Status RunAll(const std::vector<Measurement>& chosen, const std::string& only, const Context& context,
              std::vector<std::string>* out) {
  Status first;
  PrintHeader();
  for (const Measurement& one : chosen) {
    std::error_code ignored;
    fs::remove_all(context.work, ignored);
    HEDDLE_RETURN_IF_ERROR(MakeDirectories(context.work));
    Result<Findings> found = Internal("");
    try {
      found = one.run(context);
    } catch (const std::exception& error) {
      found = Internal(error.what());
    }
    fs::remove_all(context.work, ignored);
    if (!found.ok() && first.ok()) first = found.status().Annotate(one.rows.front().id);
    for (const RowSpec& row : one.rows) {
      if (!only.empty() && row.id != only) continue;
      if (!found.ok()) {
        std::printf("%-20s %-54s    FAILED  %s\n", row.id.c_str(), row.what.c_str(), found.status().message().c_str());
      } else if (auto value = found->values.find(row.id); value != found->values.end()) {
        PrintRow(row, value->second);
        out->push_back(ToJson(row, value->second));
      } else {
        std::printf("%-20s %-54s   skipped  %s\n", row.id.c_str(), row.what.c_str(), found->skipped[row.id].c_str());
      }
      std::fflush(stdout);
    }
  }
  return first;
}

int Main(int argc, char** argv) {
  std::string group, only;
  fs::path json_file, work, demo;
  CLI::App app("Measures Heddle against its targets, side by side in one run.", "heddle_bench");
  app.add_option("--group", group, "only the rows of this group; default: all");
  app.add_option("--only", only, "only this row (and what is measured with it)");
  app.add_option("--json", json_file, "also write the rows here, as JSON");
  app.add_option("--work", work, "scratch folder, on the disk to be measured; default: build/bench");
  app.add_option("--demo", demo, "folder that ./run demo wrote; default: build/demo");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  int status = 0;
  const std::vector<Measurement> chosen = Choose(group, only, &status);
  if (status != 0) return status;
  LogOptions log;
  log.level = "error";
  if (Status ready = InitLogging(log); !ready.ok()) std::cerr << "heddle_bench: " << ready.message() << "\n";

  std::error_code error;
  Context context;
  context.bin = fs::read_symlink("/proc/self/exe", error).parent_path();
  const fs::path build = context.bin.parent_path().parent_path();
  context.source = HEDDLE_SOURCE_DIR;
  context.work = fs::absolute(work.empty() ? build / "bench" : work, error) / ("run-" + std::to_string(::getpid()));
  context.demo = demo.empty() ? build / "demo" : demo;

  std::vector<std::string> rows;
  Status result = RunAll(chosen, only, context, &rows);
  std::printf(
      "\nSides that are compared take turns in one run. Figures are medians of as many runs as stand in the row.\n");
  if (!json_file.empty()) {
    std::string text = "[";
    for (size_t i = 0; i < rows.size(); ++i) text += (i > 0 ? ",\n " : "") + rows[i];
    Status written = WriteFileAtomically(json_file, text + "]\n");
    if (result.ok()) result = written;
  }
  if (result.ok()) return 0;
  std::cerr << "heddle_bench: " << result.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace heddle::bench

int main(int argc, char** argv) {
  try {
    return heddle::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "heddle_bench: " << error.what() << "\n";
    return 1;
  }
}
