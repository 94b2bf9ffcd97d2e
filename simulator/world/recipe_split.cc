#include "simulator/world/recipe_split.h"

#include "model/config/registry.h"
#include "model/data/examples.h"

namespace heddle::simulator {

Result<SplitOptions> SplitOptionsOf(const coordinator::Recipe& recipe) {
  const coordinator::SimulatedDevices& sim = recipe.simulation;
  HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::ReadModelConfig(recipe.base_model));
  SplitOptions options;
  options.source.files = sim.data;
  options.source.columns = sim.columns;
  options.source.text_fields = sim.text_fields;
  options.source.label_field = sim.label_field;
  options.source.label_names = sim.label_names;
  options.source.group_field = sim.group_field;
  const bool prompted = recipe.train.has_prompt();
  const bool classifies = prompted || spec.head.task == model::Task::kSequenceClassification;
  options.source.needs_labels = classifies;
  if (prompted && sim.label_names.empty()) {
    const v1::PromptTemplate& prompt = recipe.train.prompt();
    const auto& names = prompt.label_names().empty() ? prompt.words() : prompt.label_names();
    options.source.label_names.assign(names.begin(), names.end());
  } else if (classifies && sim.label_names.empty()) {
    const model::LabelMap labels = model::LabelsOf(spec);
    options.source.label_names.assign(labels.names().begin(), labels.names().end());
  }
  if (spec.head.task == model::Task::kImageClassification && sim.label_names.empty()) {
    // A head of the recipe's own has classes by number.
    const int64_t own = recipe.head.num_labels;
    const model::LabelMap labels = own > 0 ? model::LabelMap::Classes(own) : model::LabelsOf(spec);
    options.source.label_names.assign(labels.names().begin(), labels.names().end());
    for (int64_t i = static_cast<int64_t>(labels.names().size()); i < labels.num_classes(); ++i)
      options.source.label_names.push_back(std::to_string(i));
  }
  options.partition.method = sim.partition;
  options.partition.num_devices = static_cast<int64_t>(sim.names.size());
  options.partition.alpha = sim.alpha;
  options.partition.labels_per_device = static_cast<int64_t>(sim.labels_per_device);
  options.partition.min_examples = static_cast<int64_t>(sim.min_examples);
  options.partition.seed = recipe.seed;
  options.devices = sim.names;
  options.max_examples = static_cast<int64_t>(sim.max_examples);
  options.clusters = static_cast<int64_t>(sim.clusters);
  options.test_files = sim.test_data;
  options.test_fraction = sim.test_fraction;
  options.device_test_fraction = sim.device_test_fraction;
  options.labelled_examples = static_cast<int64_t>(sim.labelled_examples);
  options.labelled_devices = static_cast<int64_t>(sim.labelled_devices);
  options.max_test_examples = static_cast<int64_t>(sim.max_test_examples);
  return options;
}

Result<Split> SplitOfRecipe(const coordinator::Recipe& recipe, const std::filesystem::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(const SplitOptions options, SplitOptionsOf(recipe));
  auto split = WriteSplit(options, folder);
  return split.ok() ? std::move(split) : split.status().Annotate("[simulation]");
}

}  // namespace heddle::simulator
