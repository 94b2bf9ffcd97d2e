#include "coordinator/recipe/base_folder.h"

#include <algorithm>

#include "common/file.h"
#include "model/config/new_head.h"
#include "model/config/registry.h"
#include "model/parts/tensor_tree.h"
#include "protocol/validate.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = size_t{1} << 20;

}  // namespace

Result<std::vector<fs::path>> BaseFiles(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  if (!fs::is_regular_file(folder / "config.json", error)) {
    return NotFound("the base model's folder " + folder.string() + " has no config.json");
  }
  files.push_back(folder / "config.json");
  // Whatever says how texts and images become numbers, so that a device reads them as this machine does.
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt",
                           "tokenizer.model", "spiece.model", "preprocessor_config.json"}) {
    if (fs::is_regular_file(folder / name, error)) files.push_back(folder / name);
  }
  if (fs::is_regular_file(folder / "model.safetensors", error)) {
    files.push_back(folder / "model.safetensors");
    return files;
  }
  files.push_back(folder / "model.safetensors.index.json");
  std::vector<fs::path> shards;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    std::string name = entry.path().filename().string();
    if (name.starts_with("model-") && name.ends_with(".safetensors")) shards.push_back(entry.path());
  }
  if (error) return ErrnoStatus(error.value(), "cannot read " + folder.string());
  std::sort(shards.begin(), shards.end());
  files.insert(files.end(), shards.begin(), shards.end());
  return files;
}

Result<BaseModel> ReadBaseModel(const Recipe& recipe) {
  BaseModel base;
  Result<model::ModelSpec> as_it_is = model::ReadModelConfig(recipe.base_model);
  if (recipe.head.num_labels == 0 || as_it_is.status().code() == Code::kNotFound) {
    if (!as_it_is.ok()) return as_it_is.status().Annotate("model.base");
    base.spec = *std::move(as_it_is);
    return base;
  }
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(recipe.base_model / "config.json", kMaxConfigBytes));
  auto changed = model::ConfigWithNewHead(text, recipe.head.num_labels, recipe.head.label_names);
  if (!changed.ok()) return changed.status().Annotate(recipe.base_model.string());
  auto spec = model::ParseModelConfig(*changed);
  if (!spec.ok()) return spec.status().Annotate(recipe.base_model.string() + " with a new head");
  base.spec = *std::move(spec);
  base.config_json = *std::move(changed);
  return base;
}

peft::AdapterConfig AdapterFor(const Recipe& recipe, const model::ModelSpec& spec, const StateDictSpec& weights) {
  peft::AdapterConfig config = peft::Complete(spec, recipe.lora);
  std::vector<std::string> names = model::MissingHeadParameters(spec, weights);
  if (recipe.head.num_labels > 0) {  // trained, wherever its first values are from
    for (const std::string& output : {spec.head.output, spec.head.second_output}) {
      if (!output.empty()) names.push_back(output + ".weight");
    }
  }
  for (const std::string& name : names) {
    const std::string module = name.substr(0, name.rfind('.'));
    // "classifier" for "classifier.out_proj", "pooler" for "bert.pooler.dense": PEFT's names.
    std::string part = module.substr(0, module.find('.'));
    if (!spec.prefix.empty() && module.starts_with(spec.prefix)) {
      const std::string rest = module.substr(spec.prefix.size());
      part = rest.substr(0, rest.find('.'));
    }
    if (!config.SavesWhole(module)) config.modules_to_save.push_back(part);
  }
  std::sort(config.modules_to_save.begin(), config.modules_to_save.end());
  if (aggregation::UsesSubModels(recipe.strategy) && config.layers_to_transform.empty()) {
    // Said one by one, so that a device's part of them can be.
    for (int64_t i = 0; i < spec.num_hidden_layers; ++i) config.layers_to_transform.push_back(i);
  }
  // Of images and masked words PEFT has no task.
  const bool classes = spec.head.task == model::Task::kSequenceClassification;
  config.task_type = spec.head.task == model::Task::kCausalLm ? "CAUSAL_LM" : classes ? "SEQ_CLS" : "";
  return config;
}

Status AddTensorTrees(RunMaterial* material) {
  for (const auto& [ref, path] : material->base_model) {
    if (!ref.name().ends_with(".safetensors")) continue;
    HEDDLE_ASSIGN_OR_RETURN(const auto mapped, MappedFile::Open(path));
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, protocol::DigestOf(ref));
    const auto tree = model::MakeTensorTree(mapped->bytes(), digest);
    if (!tree.ok()) return tree.status().Annotate(path.string());
    std::string bytes = model::EncodeTensorTree(*tree);
    const std::string name = ref.name() + std::string(model::kTensorTreeEnding);
    v1::BlobRef tree_ref = protocol::MakeBlobRef(Sha256(bytes), bytes.size(), name);
    material->tensor_trees.emplace_back(std::move(tree_ref), std::move(bytes));
  }
  return OkStatus();
}

Result<fs::path> DeviceBaseFolder(const Recipe& recipe, const fs::path& where) {
  if (recipe.head.num_labels == 0) return recipe.base_model;
  HEDDLE_ASSIGN_OR_RETURN(const BaseModel base, ReadBaseModel(recipe));
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<fs::path> files, BaseFiles(recipe.base_model));
  const fs::path folder = where / "base-model";
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(folder / "config.json", base.config_json));
  for (const fs::path& file : files) {
    const fs::path link = folder / file.filename();
    if (file.filename() == "config.json") continue;
    std::error_code error;
    fs::remove(link, error);
    fs::create_symlink(fs::absolute(file), link, error);
    if (error) return ErrnoStatus(error.value(), "cannot make the link " + link.string());
  }
  return folder;
}

}  // namespace heddle::coordinator
