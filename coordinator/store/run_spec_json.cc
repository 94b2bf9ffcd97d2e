#include "coordinator/store/run_spec_json.h"

#include <array>
#include <boost/json.hpp>
#include <charconv>
#include <stdexcept>

namespace heddle::coordinator {
namespace {

namespace json = boost::json;

// One list of the fields for both directions, so that neither can forget one.
template <typename Spec, typename Visitor>
void VisitFields(Spec& spec, Visitor&& visit) {
  visit("id", spec.id);
  visit("seed", spec.seed);
  visit("local_task", spec.local_task);
  visit("rounds", spec.rounds);
  visit("cohort_size", spec.cohort_size);
  visit("over_selection", spec.over_selection);
  visit("min_available_devices", spec.min_available_devices);
  visit("min_reports", spec.min_reports);
  visit("selection_timeout_us", spec.selection_timeout);
  visit("report_deadline_us", spec.report_deadline);
  visit("max_abandoned_attempts", spec.max_abandoned_attempts);
  visit("max_poll_hold_us", spec.max_poll_hold);
  visit("min_retry_after_us", spec.min_retry_after);
  visit("max_retry_after_us", spec.max_retry_after);
  visit("max_update_bytes", spec.max_update_bytes);
  visit("max_num_examples", spec.max_num_examples);
}

constexpr const char* kFirstStage = "first_stage_rounds";

template <typename Spec, typename Visitor>
void VisitSecondStage(Spec& spec, Visitor&& visit) {
  visit(kFirstStage, spec.first_stage_rounds);
  visit("later_cohort_size", spec.later_cohort_size);
  visit("later_min_available_devices", spec.later_min_available_devices);
  visit("later_min_reports", spec.later_min_reports);
}

constexpr const char* kLayerMemory = "layer_memory";

json::value ToJson(const RunId& id) { return json::value(id.value()); }
json::value ToJson(const std::string& text) { return json::value(text); }
json::value ToJson(uint32_t number) { return json::value(uint64_t{number}); }
json::value ToJson(uint64_t number) { return json::value(number); }
// As text: the JSON library's own reading of decimals may be off by one in the last place.
json::value ToJson(double number) {
  std::array<char, 32> text{};
  auto end = std::to_chars(text.data(), text.data() + text.size(), number).ptr;
  return json::value(json::string_view(text.data(), static_cast<size_t>(end - text.data())));
}
json::value ToJson(Duration duration) { return json::value(duration.count()); }
json::value ToJson(const std::vector<uint64_t>& numbers) { return json::array(numbers.begin(), numbers.end()); }

void FromJson(const json::value& value, RunId* id) { *id = RunId(std::string(value.as_string())); }
void FromJson(const json::value& value, std::string* text) { *text = std::string(value.as_string()); }
void FromJson(const json::value& value, uint32_t* number) { *number = value.to_number<uint32_t>(); }
void FromJson(const json::value& value, uint64_t* number) { *number = value.to_number<uint64_t>(); }
void FromJson(const json::value& value, double* number) {
  const json::string& text = value.as_string();
  const char* end = text.data() + text.size();
  auto result = std::from_chars(text.data(), end, *number);
  if (result.ec != std::errc() || result.ptr != end) throw std::invalid_argument("not a number");
}
void FromJson(const json::value& value, Duration* duration) { *duration = Duration(value.to_number<int64_t>()); }
void FromJson(const json::value& value, std::vector<uint64_t>* numbers) {
  const json::array& array = value.as_array();
  if (array.size() > kMostLayers) throw std::invalid_argument("too many");
  for (const json::value& number : array) numbers->push_back(number.to_number<uint64_t>());
}

}  // namespace

std::string RunSpecToJson(const RunSpec& spec) {
  json::object object;
  const auto write = [&](const char* name, const auto& field) { object[name] = ToJson(field); };
  VisitFields(spec, write);
  if (spec.first_stage_rounds > 0) VisitSecondStage(spec, write);
  if (!spec.layer_memory.empty()) write(kLayerMemory, spec.layer_memory);
  return json::serialize(object);
}

Result<RunSpec> RunSpecFromJson(std::string_view text) {
  RunSpec spec;
  const char* at = "the text";
  try {
    json::value value = json::parse(json::string_view(text.data(), text.size()));
    const json::object& object = value.as_object();
    const auto read = [&](const char* name, auto& field) {
      at = name;
      FromJson(object.at(name), &field);
    };
    VisitFields(spec, read);
    if (object.contains(kFirstStage)) VisitSecondStage(spec, read);
    if (object.contains(kLayerMemory)) read(kLayerMemory, spec.layer_memory);
  } catch (const std::exception& error) {
    return DataLoss(std::string("the stored settings of a run are damaged at ") + at + ": " + error.what());
  }
  return spec;
}

}  // namespace heddle::coordinator
