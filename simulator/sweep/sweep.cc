#include "simulator/sweep/sweep.h"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <set>

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr size_t kMaxCells = 10'000, kMaxSeeds = 1000;

std::vector<std::string> SplitValues(std::string_view text) {
  std::vector<std::string> values = {""};
  int depth = 0;
  bool quoted = false;
  for (const char c : text) {
    if (c == '"') quoted = !quoted;
    if (!quoted && (c == '[' || c == '{')) ++depth;
    if (!quoted && (c == ']' || c == '}')) --depth;
    if (c == ',' && depth == 0 && !quoted) {
      values.emplace_back();
    } else {
      values.back() += c;
    }
  }
  return values;
}

// All names of figures, in the order in which runs bring them.
std::vector<std::string> Columns(const std::vector<SweepRun>& runs) {
  std::vector<std::string> columns;
  for (const SweepRun& run : runs) {
    for (const auto& [name, value] : run.figures) {
      if (std::find(columns.begin(), columns.end(), name) == columns.end()) columns.push_back(name);
    }
  }
  return columns;
}

std::string Short(double value) {
  char text[32];
  std::snprintf(text, sizeof text, std::fabs(value) >= 1e5 ? "%.3e" : "%.4g", value);
  return text;
}

// Columns as wide as their widest cell. The first is set flush left.
std::string Aligned(const std::vector<std::vector<std::string>>& rows) {
  // Characters, not bytes: the sign of the spread takes two.
  const auto width = [](const std::string& text) {
    return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
  };
  std::vector<size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string space(widths[i] - width(row[i]), ' ');
      line += (i == 0 ? "" : "  ") + (i == 0 ? row[i] + space : space + row[i]);
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

Result<uint64_t> ParseSeed(std::string_view text) {
  uint64_t seed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error != std::errc() || end != text.data() + text.size()) {
    return InvalidArgument("seeds are whole numbers such as 1,2,3 or 1-5, not '" + std::string(text) + "'");
  }
  return seed;
}

json::value Number(double value) { return std::isfinite(value) ? json::value(value) : json::value(nullptr); }

}  // namespace

Result<std::vector<SweepCell>> MakeCells(const std::vector<std::string>& vary) {
  std::vector<SweepCell> cells = {{}};
  for (const std::string& one : vary) {
    const size_t equals = one.find('=');
    if (equals == 0 || equals == std::string::npos || equals + 1 == one.size()) {
      return InvalidArgument("write what is varied as key=value,value, not '" + one + "'");
    }
    const std::string key = one.substr(0, equals);
    if (key == "seed") return InvalidArgument("seeds are given by --seeds " + one.substr(equals + 1) + ", not varied");
    std::vector<SweepCell> next;
    for (const SweepCell& cell : cells) {
      if (cell.overrides.contains(key)) return InvalidArgument(key + " is varied twice");
      for (const std::string& value : SplitValues(std::string_view(one).substr(equals + 1))) {
        if (value.empty()) return InvalidArgument("a value of " + key + " is empty in '" + one + "'");
        next.push_back(cell);
        next.back().overrides[key] = value;
        next.back().name += (cell.name.empty() ? "" : " ") + key + "=" + value;
      }
      if (next.size() > kMaxCells) return InvalidArgument("more than 10000 combinations are varied");
    }
    cells = std::move(next);
  }
  return cells;
}

fs::path FolderOf(const fs::path& out, size_t cell, uint64_t seed) {
  return out / ("cell-" + std::to_string(cell + 1)) / ("seed-" + std::to_string(seed));
}

Status CheckOldRuns(const fs::path& out, size_t cells, const std::vector<uint64_t>& seeds) {
  std::set<fs::path> planned;
  for (size_t cell = 0; cell < cells; ++cell) {
    for (const uint64_t seed : seeds) planned.insert(FolderOf(out, cell, seed));
  }
  const auto folders = [](const fs::path& where, std::string_view prefix) {
    std::set<fs::path> found;
    std::error_code error;
    for (fs::directory_iterator entry(where, error), end; !error && entry != end; entry.increment(error)) {
      if (entry->path().filename().string().starts_with(prefix)) found.insert(entry->path());
    }
    return found;
  };
  const std::set<fs::path> old_cells = folders(out, "cell-");
  for (const fs::path& cell : old_cells) {
    const std::set<fs::path> old_runs = folders(cell, "seed-");
    for (const fs::path& run : old_runs) {
      if (planned.contains(run)) continue;
      return InvalidArgument(run.string() +
                             " is of an earlier sweep and would stand among the runs of this one; remove it, or name "
                             "a new folder with --out");
    }
  }
  return OkStatus();
}

Result<std::vector<uint64_t>> ParseSeeds(const std::string& text) {
  std::vector<uint64_t> seeds;
  for (const std::string& part : SplitValues(text)) {
    const size_t dash = part.find('-', 1);
    HEDDLE_ASSIGN_OR_RETURN(const uint64_t first, ParseSeed(std::string_view(part).substr(0, dash)));
    uint64_t last = first;
    if (dash != std::string::npos) {
      HEDDLE_ASSIGN_OR_RETURN(last, ParseSeed(std::string_view(part).substr(dash + 1)));
    }
    if (last < first || last - first >= kMaxSeeds)
      return InvalidArgument("'" + part + "' is no range of at most 1000 seeds");
    for (uint64_t i = 0; i <= last - first; ++i) {
      if (std::find(seeds.begin(), seeds.end(), first + i) != seeds.end()) {
        return InvalidArgument("the seed " + std::to_string(first + i) + " stands twice");
      }
      seeds.push_back(first + i);
    }
    if (seeds.size() > kMaxSeeds) return InvalidArgument("there are more than 1000 seeds");
  }
  return seeds;
}

Spread SpreadOf(const std::vector<SweepRun>& runs, size_t cell, const std::string& figure) {
  std::vector<double> values;
  for (const SweepRun& run : runs) {
    if (run.cell != cell) continue;
    for (const auto& [name, value] : run.figures) {
      if (name == figure && std::isfinite(value)) values.push_back(value);
    }
  }
  Spread spread{values.size(), std::nan(""), std::nan(""), std::nan(""), std::nan("")};
  if (values.empty()) return spread;
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (const double value : values) sum += value;
  spread.mean = sum / n;
  for (const double value : values) squares += (value - spread.mean) * (value - spread.mean);
  if (values.size() > 1) spread.deviation = std::sqrt(squares / (n - 1));
  spread.least = *std::min_element(values.begin(), values.end());
  spread.most = *std::max_element(values.begin(), values.end());
  return spread;
}

std::string SweepTable(const std::vector<SweepCell>& cells, const std::vector<SweepRun>& runs) {
  const std::vector<std::string> columns = Columns(runs);
  std::vector<std::vector<std::string>> rows(1, {"settings", "runs"});
  rows[0].insert(rows[0].end(), columns.begin(), columns.end());
  std::string failures;
  for (size_t c = 0; c < cells.size(); ++c) {
    size_t done = 0;
    for (const SweepRun& run : runs) {
      if (run.cell != c) continue;
      if (run.error.empty()) ++done;
      if (!run.error.empty()) failures += cells[c].name + " seed=" + std::to_string(run.seed) + ": " + run.error + "\n";
    }
    std::vector<std::string> row = {cells[c].name.empty() ? "as the recipe says" : cells[c].name, std::to_string(done)};
    for (const std::string& column : columns) {
      const Spread spread = SpreadOf(runs, c, column);
      std::string text = spread.runs == 0 ? "-" : Short(spread.mean);
      if (std::isfinite(spread.deviation)) text += " ± " + Short(spread.deviation);
      row.push_back(std::move(text));
    }
    rows.push_back(std::move(row));
  }
  return Aligned(rows) + failures;
}

std::string SweepJson(const std::vector<SweepCell>& cells, const std::vector<SweepRun>& runs) {
  const std::vector<std::string> columns = Columns(runs);
  json::array cell_list, run_list;
  for (size_t c = 0; c < cells.size(); ++c) {
    json::object settings, figures;
    for (const auto& [key, value] : cells[c].overrides) settings[key] = value;
    for (const std::string& column : columns) {
      const Spread spread = SpreadOf(runs, c, column);
      if (spread.runs == 0) continue;
      figures[column] = {{"mean", Number(spread.mean)},
                         {"deviation", Number(spread.deviation)},
                         {"min", Number(spread.least)},
                         {"max", Number(spread.most)},
                         {"runs", spread.runs}};
    }
    cell_list.push_back({{"name", cells[c].name}, {"settings", std::move(settings)}, {"figures", std::move(figures)}});
  }
  for (const SweepRun& run : runs) {
    json::object figures;
    for (const auto& [name, value] : run.figures) figures[name] = Number(value);
    json::object one = {{"cell", run.cell}, {"seed", run.seed}, {"figures", std::move(figures)}};
    if (!run.error.empty()) one["error"] = run.error;
    run_list.push_back(std::move(one));
  }
  return json::serialize(json::object{{"cells", std::move(cell_list)}, {"runs", std::move(run_list)}});
}

}  // namespace heddle::simulator
