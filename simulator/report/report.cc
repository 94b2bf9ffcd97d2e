#include "simulator/report/report.h"

#include <boost/json.hpp>
#include <cmath>
#include <map>
#include <vector>

#include "common/file.h"
#include "simulator/report/svg.h"

namespace heddle::simulator {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

constexpr size_t kMaxFileBytes = size_t{256} << 20;

constexpr const char* kStyle = R"(
:root { --ink: #1d2733; --paper: #fcfcfa; --soft: #b8c4d0; --accent: #2f6f9f; --grid: #e3e6e8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebee; --paper: #14181d; --soft: #52606e; --accent: #6bb0df; --grid: #2a3138; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 860px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.sub { opacity: .75; margin-top: .2rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.card { border: 1px solid var(--grid); border-radius: 8px; padding: .6rem 1rem; min-width: 7rem; }
.card b { display: block; font-size: 1.35rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child, td.l, th.l { text-align: left; }
code { font-size: .85em; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; margin: .6rem 0; }
svg .t { font: 12px system-ui, sans-serif; fill: var(--ink); opacity: .8; }
svg .s { font: bold 12px system-ui, sans-serif; fill: var(--ink); }
svg .h { font: bold 14px system-ui, sans-serif; fill: var(--ink); }
svg .g { stroke: var(--grid); }
details { margin: 1.5rem 0; } pre { overflow-x: auto; font-size: .8rem; }
)";

// The number under a key, NaN when there is none.
double Number(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_number() ? value->to_number<double>() : NAN;
}

std::string Text(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr) return "";
  return value->is_string() ? json::value_to<std::string>(*value) : json::serialize(*value);
}

Result<json::object> ParseObject(const std::string& text, const char* what) {
  json::error_code error;
  json::value value = json::parse(text, error);
  if (error || !value.is_object()) return InvalidArgument(std::string(what) + " is not a JSON object");
  return std::move(value.get_object());
}

Result<std::vector<json::object>> ParseLines(const std::string& text) {
  std::vector<json::object> out;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    if (end > begin) {
      HEDDLE_ASSIGN_OR_RETURN(json::object line,
                              ParseObject(text.substr(begin, end - begin), "a line of history.jsonl"));
      out.push_back(std::move(line));
    }
    begin = end + 1;
  }
  return out;
}

const json::array* Devices(const json::object& round) {
  const json::value* devices = round.if_contains("devices");
  return devices == nullptr ? nullptr : devices->if_array();
}

std::string Card(const std::string& name, const std::string& value) {
  return "<div class=\"card\"><b>" + Escape(value) + "</b>" + Escape(name) + "</div>\n";
}

std::string Cards(const json::object& run, const std::vector<json::object>& history, const json::object& summary) {
  double seconds = Number(run, "ended_at") - Number(run, "started_at");
  std::string out = "<div class=\"cards\">\n";
  out += Card("rounds", Text(run, "committed_rounds"));
  size_t devices = 0;
  for (const json::object& round : history) {
    if (const json::array* list = Devices(round)) devices = std::max(devices, list->size());
  }
  out += Card("devices a round", std::to_string(devices));
  if (std::isfinite(seconds)) out += Card("seconds", Pretty(seconds));
  out += Card("bytes to devices", Pretty(Number(run, "bytes_down")));
  out += Card("bytes from devices", Pretty(Number(run, "bytes_up")));
  const double base = Number(summary, "base_perplexity"), federated = Number(summary, "federated_perplexity");
  if (base > 0 && federated > 0) {
    char text[32];
    std::snprintf(text, sizeof text, "%+.1f %%", 100 * (federated / base - 1));
    out += Card("perplexity against the base", text);
  }
  for (const auto& [key, name] :
       {std::pair("test_accuracy", "test accuracy"), std::pair("device_accuracy", "mean of devices"),
        std::pair("centralised_accuracy", "centralised")}) {
    if (std::isfinite(Number(summary, key))) out += Card(name, Pretty(Number(summary, key)));
  }
  return out + "</div>\n";
}

std::string Perplexities(const json::object& summary) {
  const std::vector<std::pair<const char*, const char*>> rows = {{"base_perplexity", "base model"},
                                                                 {"local_only_perplexity", "devices alone (mean)"},
                                                                 {"federated_perplexity", "federated adapter"},
                                                                 {"centralised_perplexity", "centralised"}};
  std::vector<Bar> bars;
  for (const auto& [key, name] : rows) {
    if (std::isfinite(Number(summary, key))) {
      bars.push_back({name, Number(summary, key), std::string(key) == "federated_perplexity"});
    }
  }
  if (bars.empty()) return "";
  return "<h2>Held-out perplexity</h2>\n" + BarChart("Perplexity on held-out text", "lower is better", bars);
}

// What a task cost each kind of device; nothing where the run does not say.
std::string Profiles(const json::object& summary) {
  const json::value* found = summary.if_contains("profiles");
  const json::object* profiles = found == nullptr ? nullptr : found->if_object();
  if (profiles == nullptr || profiles->empty()) return "";
  std::string out =
      "<h2>Kinds of devices</h2>\n<table><tr><th class=\"l\">profile</th><th>tasks</th><th>computing, s</th>"
      "<th>transfer, s</th><th>memory, bytes</th><th>computing, J</th><th>radio, J</th><th>tokens a joule</th></tr>\n";
  for (const auto& item : *profiles) {
    const json::object* one = item.value().if_object();
    if (one == nullptr) continue;
    out += "<tr><td class=\"l\">" + Escape(std::string(item.key())) + "</td>";
    for (const char* key : {"tasks", "compute_seconds", "transfer_seconds", "memory_bytes", "compute_joules",
                            "radio_joules", "tokens_per_joule"}) {
      const double value = Number(*one, key);
      out += "<td>" + (std::isfinite(value) ? Pretty(value) : std::string()) + "</td>";
    }
    out += "</tr>\n";
  }
  return out + "</table>\n<p>Memory is what a task is estimated to need; seconds and joules are the recipe's.</p>\n";
}

std::string Curves(const std::vector<json::object>& history) {
  Series mean{"all devices", {}, true};
  std::map<std::string, Series> devices;
  for (const json::object& round : history) {
    if (Text(round, "outcome") != "committed") continue;
    mean.points.emplace_back(Number(round, "round"), Number(round, "train_loss"));
    const json::array* list = Devices(round);
    if (list == nullptr) continue;
    for (const json::value& value : *list) {
      const json::object* device = value.if_object();
      if (device == nullptr || Text(*device, "state") != "accepted") continue;
      Series& series = devices[Text(*device, "device")];
      series.name = Text(*device, "device");
      series.points.emplace_back(Number(round, "round"), Number(*device, "train_loss"));
    }
  }
  // With a crowd of devices their lines say nothing.
  std::vector<Series> all;
  if (devices.size() <= 8) {
    for (auto& [name, series] : devices) all.push_back(std::move(series));
  }
  all.push_back(std::move(mean));
  return "<h2>Training loss</h2>\n" + LineChart("Mean training loss of a round", "round", "nats a token", all);
}

// Figures of tested models over the rounds: a chart for each that has at least two points, else nothing.
std::string Tests(const std::vector<json::object>& history) {
  std::string out;
  for (const char* name : {"accuracy", "perplexity", "mean_squared_error", "loss"}) {
    std::vector<Series> all;
    for (const auto& [prefix, what] : {std::pair("test_", "held out from all"), std::pair("device_", "mean of devices"),
                                       std::pair("worst_device_", "worst device")}) {
      Series series{what, {}, all.empty()};
      for (const json::object& round : history) {
        const double value = Number(round, (std::string(prefix) + name).c_str());
        if (std::isfinite(value)) series.points.emplace_back(Number(round, "round"), value);
      }
      if (series.points.size() > 1) all.push_back(std::move(series));
    }
    if (!all.empty()) out += LineChart(std::string("Test: ") + name, "round", name, all);
  }
  return out.empty() ? out : "<h2>Tests of the rounds' models</h2>\n" + out;
}

std::string Rounds(const std::vector<json::object>& history) {
  std::string out =
      "<h2>Rounds</h2>\n<table><tr><th>round</th><th>attempt</th><th class=\"l\">outcome</th><th>updates</th>"
      "<th>examples</th><th>loss</th><th>seconds</th><th>down</th><th>up</th><th class=\"l\">model</th></tr>\n";
  for (const json::object& round : history) {
    const std::string outcome =
        Text(round, "outcome") + (Text(round, "reason").empty() ? "" : ": " + Text(round, "reason"));
    out += "<tr><td>" + Escape(Text(round, "round")) + "</td><td>" + Escape(Text(round, "attempt")) +
           "</td><td class=\"l\">" + Escape(outcome) + "</td><td>" + Escape(Text(round, "num_accepted")) + " of " +
           Escape(Text(round, "num_assigned")) + "</td><td>" + Pretty(Number(round, "num_examples")) + "</td><td>" +
           Pretty(Number(round, "train_loss")) + "</td><td>" + Pretty(Number(round, "seconds")) + "</td><td>" +
           Pretty(Number(round, "bytes_down")) + "</td><td>" + Pretty(Number(round, "bytes_up")) +
           "</td><td class=\"l\"><code>" + Escape(Text(round, "model_sha256").substr(0, 12)) + "</code></td></tr>\n";
  }
  return out + "</table>\n";
}

}  // namespace

Result<std::string> RenderReport(const std::string& run_json, const std::string& history_jsonl,
                                 const std::string& summary_json) {
  HEDDLE_ASSIGN_OR_RETURN(const json::object run, ParseObject(run_json, "run.json"));
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<json::object> history, ParseLines(history_jsonl));
  json::object summary;
  if (!summary_json.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(summary, ParseObject(summary_json, "summary.json"));
  }
  const std::string id = Text(run, "run_id");
  std::string out =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
      Escape(id) + "</title>\n<style>" + kStyle + "</style></head>\n<body>\n<h1>" + Escape(id) +
      "</h1>\n<p class=\"sub\">" + Escape(Text(run, "state")) + " · seed " + Escape(Text(run, "seed")) + " · Heddle " +
      Escape(Text(run, "version")) + "</p>\n";
  out += Cards(run, history, summary) + Perplexities(summary) + Tests(history) + Curves(history) + Profiles(summary) +
         Rounds(history);
  out += "<p>Final adapter: <code>" + Escape(Text(run, "adapter_sha256")) + "</code></p>\n";
  out += "<details><summary>Recipe, resolved</summary><pre>" + Escape(Text(run, "recipe")) + "</pre></details>\n";
  return out + "</body></html>\n";
}

Status WriteReport(const fs::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string run, ReadFile(folder / "run.json", kMaxFileBytes));
  std::string history, summary;
  if (auto text = ReadFile(folder / "history.jsonl", kMaxFileBytes); text.ok()) history = *std::move(text);
  if (auto text = ReadFile(folder / "summary.json", kMaxFileBytes); text.ok()) summary = *std::move(text);
  HEDDLE_ASSIGN_OR_RETURN(const std::string page, RenderReport(run, history, summary));
  return WriteFileAtomically(folder / "report.html", page);
}

}  // namespace heddle::simulator
