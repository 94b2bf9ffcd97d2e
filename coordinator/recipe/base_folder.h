// A base model's folder as devices get it: its files, and config.json for the head that the recipe asks for. Internal
// to the room but for DeviceBaseFolder. Pure functions, but for what they write.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"
#include "coordinator/recipe/recipe.h"
#include "model/config/model_spec.h"

namespace heddle::coordinator {

// Whatever says how texts and images become numbers, and the weights, in the order of plans. Errors: kNotFound; those
// of reading the folder.
Result<std::vector<std::filesystem::path>> BaseFiles(const std::filesystem::path& folder);

// The model that the recipe trains: the folder's, or with a new head. `config_json`: that of the new head, else empty.
struct BaseModel {
  model::ModelSpec spec;
  std::string config_json;
};
// Errors: those of ReadModelConfig and ConfigWithNewHead, with the folder.
Result<BaseModel> ReadBaseModel(const Recipe& recipe);

// The recipe's adapter for this model: sizes that the model says, the parts of a new head that the weights lack among
// modules_to_save, PEFT's word for the task, and all layers by number where devices have parts of the model. `weights`:
// names and shapes of the checkpoint's tensors.
peft::AdapterConfig AdapterFor(const Recipe& recipe, const model::ModelSpec& spec, const StateDictSpec& weights);

// Makes material->tensor_trees of the safetensors files in material->base_model. Errors: those of reading them and of
// MakeTensorTree.
Status AddTensorTrees(RunMaterial* material);

// For programs that train or evaluate the recipe's model on this machine: the base model's folder itself, or with a new
// head the folder `where`/base-model, made of links to its files and the other config.json. Errors: those of files and
// of ReadBaseModel.
Result<std::filesystem::path> DeviceBaseFolder(const Recipe& recipe, const std::filesystem::path& where);

}  // namespace heddle::coordinator
