#include "client/model_tool/evaluate_command.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>

#include "client/worker/local_task.h"
#include "model/config/registry.h"
#include "model/data/image_records.h"
#include "peft/adapter/base_model.h"

namespace heddle::client {

namespace json = boost::json;

Status EvaluateCommand(const EvaluateSettings& settings, std::ostream& out) {
  HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::ReadModelConfig(settings.folder));
  if (settings.length < 0 || (!spec.TakesImages() && settings.length > spec.MaxLength())) {
    return InvalidArgument("--length is " + std::to_string(settings.length) + ", but the model takes at most " +
                           std::to_string(spec.MaxLength()) + " tokens");
  }
  const int64_t length = settings.length > 0 ? settings.length : std::min<int64_t>(512, spec.MaxLength());
  std::error_code error;
  if (!std::filesystem::exists(settings.data, error)) {
    return NotFound("there is no " + settings.data.string() + "; check the data's path");
  }
  if (!spec.TakesImages() && std::filesystem::is_directory(settings.data, error)) {
    return InvalidArgument(settings.data.string() + " is a folder, which images come in, but " + spec.architecture +
                           " reads text: name a .txt, .jsonl, .csv or .tsv file");
  }
  if (!settings.adapter.empty()) HEDDLE_RETURN_IF_ERROR(peft::CheckBaseModel(settings.adapter, settings.folder));
  // Of a data set's two parts that for tests; whatever else DATA is, it stays.
  HEDDLE_ASSIGN_OR_RETURN(const std::filesystem::path images,
                          model::FindIdxImages(settings.data, model::IdxPart::kTest));
  const std::filesystem::path& data = images.empty() ? settings.data : images;
  const auto resources = MakeTaskResources();
  const EvaluationForm form = {
      .device = settings.device, .base_dtype = settings.dtype, .prompt = {}, .short_last_window = true};
  HEDDLE_ASSIGN_OR_RETURN(const Evaluation found,
                          EvaluateModel(settings.folder, settings.adapter, data, static_cast<uint32_t>(length),
                                        *resources, settings.threads, form));
  if (!std::isfinite(found.loss)) {
    return DataLoss("the loss on " + settings.data.string() + " is not finite: the weights of " +
                    (settings.adapter.empty() ? settings.folder : settings.adapter).string() +
                    " hold a NaN or are far too large");
  }
  if (found.perplexity > 0 && found.num_tokens == 0) {  // a mean over nothing is no figure
    const std::string or_short =
        settings.length > 0 ? ", or rows of --length " + std::to_string(length) + " have no room for them" : "";
    return InvalidArgument(settings.data.string() + " has no token to predict: its texts are empty" + or_short +
                           "; add text" + (or_short.empty() ? "" : " or take longer rows"));
  }
  if (settings.json) {
    json::object metrics;
    for (const auto& [name, value] : found.metrics) metrics[name] = value;
    json::object printed = {{"loss", found.loss},
                            {"metrics", std::move(metrics)},
                            {"examples", found.num_examples},
                            {"tokens", found.num_tokens}};
    if (!spec.TakesImages()) printed["length"] = length;
    if (found.data_tokens > 0) printed["data_tokens"] = found.data_tokens;
    out << json::serialize(printed) << "\n";
    return OkStatus();
  }
  char line[96];
  const auto print = [&](const std::string& name, double value) {
    std::snprintf(line, sizeof line, "%-20s %.6g", name.c_str(), value);
    out << line << "\n";
  };
  for (const auto& [name, value] : found.metrics) print(name, value);
  print("loss", found.loss);
  const auto count = [&](const char* name, uint64_t number) {  // in full
    std::snprintf(line, sizeof line, "%-20s %llu", name, static_cast<unsigned long long>(number));
    out << line << "\n";
  };
  if (found.num_tokens > 0) count("tokens", found.num_tokens);
  if (found.data_tokens > 0) count("data_tokens", found.data_tokens);
  out << "over " << found.num_examples << (found.perplexity > 0 ? " rows\n" : " examples\n");
  return OkStatus();
}

}  // namespace heddle::client
