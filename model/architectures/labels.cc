#include <algorithm>
#include <boost/json.hpp>
#include <charconv>

#include "model/architectures/architectures.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr size_t kMaxLabels = 65536;

// The names of "id2label", whose keys are the numbers from 0 on.
Result<std::vector<std::string>> NamesOf(const json::object& names) {
  if (names.empty() || names.size() > kMaxLabels) {
    return InvalidArgument("config.json: id2label must name from 1 to " + std::to_string(kMaxLabels) + " labels");
  }
  std::vector<std::string> out(names.size());
  std::vector<bool> seen(names.size());
  for (const auto& [key, name] : names) {
    size_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id >= out.size() || seen[id] || !name.is_string()) {
      return InvalidArgument("config.json: id2label must give each number from 0 to " +
                             std::to_string(names.size() - 1) + " one name");
    }
    seen[id] = true;
    out[id] = std::string(name.get_string());
  }
  return out;
}

}  // namespace

void ReadLabels(ConfigReader& reader, ModelSpec* spec) {
  spec->num_labels = 2;  // Hugging Face's default
  spec->label_names.clear();
  if (const json::object* names = reader.Object("id2label"); names != nullptr) {
    Result<std::vector<std::string>> parsed = NamesOf(*names);
    if (!parsed.ok()) return reader.Fail(parsed.status());
    spec->num_labels = static_cast<int64_t>(parsed->size());
    spec->label_names = *std::move(parsed);
  }
  const int64_t named = spec->label_names.empty() ? 0 : spec->num_labels;
  reader.Int("num_labels", &spec->num_labels, 1, static_cast<int64_t>(kMaxLabels));
  if (named > 0 && named != spec->num_labels) {
    reader.Fail(InvalidArgument("config.json: num_labels is " + std::to_string(spec->num_labels) +
                                ", but id2label names " + std::to_string(named)));
  }
  std::string problem;
  reader.String("problem_type", &problem);
  if (problem.empty()) problem = spec->num_labels == 1 ? "regression" : "single_label_classification";
  const bool regression = problem == "regression";
  if (!regression && problem != "single_label_classification") {
    reader.Fail(Unimplemented("config.json: problem_type \"" + problem.substr(0, 60) +
                              "\" is not supported; supported are single_label_classification and regression"));
  } else if (regression != (spec->num_labels == 1)) {
    reader.Fail(Unimplemented("config.json: a " + problem + " with " + std::to_string(spec->num_labels) +
                              " labels is not supported"));
  }
}

}  // namespace heddle::model
