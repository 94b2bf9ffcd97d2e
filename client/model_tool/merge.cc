#include "client/model_tool/merge.h"

#include <boost/json.hpp>

#include "common/file.h"
#include "common/safetensors.h"
#include "model/parts/masked_model.h"
#include "model/weights/base_weights.h"
#include "peft/adapter/base_model.h"
#include "peft/tuning/tuning.h"

namespace heddle::client {

namespace fs = std::filesystem;
namespace json = boost::json;

namespace {

constexpr size_t kMaxConfigBytes = size_t{4} << 20;

// The config of the same model with weights in float32.
Result<std::string> ConfigInFloat32(const fs::path& path) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfigBytes));
  json::error_code error;
  json::value config = json::parse(text, error);
  if (error || !config.is_object()) return InvalidArgument(path.string() + " is not a JSON object");
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (json::value* type = config.get_object().if_contains(key); type != nullptr) *type = "float32";
  }
  return json::serialize(config) + "\n";
}

}  // namespace

Status MergeModel(const fs::path& folder, const fs::path& adapter, const fs::path& out) {
  HEDDLE_RETURN_IF_ERROR(model::CheckNewFolder(out));
  HEDDLE_RETURN_IF_ERROR(peft::CheckBaseModel(adapter, folder));
  HEDDLE_ASSIGN_OR_RETURN(const std::string config, ConfigInFloat32(folder / "config.json"));
  HEDDLE_ASSIGN_OR_RETURN(const auto base, model::BaseWeights::Load(folder));
  HEDDLE_ASSIGN_OR_RETURN(const peft::Adapter read, peft::ReadAdapter(adapter));
  const Result<StateDict> merged = peft::MergedWeights(base, read.config, read.tensors);
  if (!merged.ok()) return merged.status().Annotate(adapter.string());
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(out));
  HEDDLE_RETURN_IF_ERROR(WriteSafetensors(out / "model.safetensors", *merged));
  HEDDLE_RETURN_IF_ERROR(model::CopyAllButTheModel(folder, out));
  return WriteFileAtomically(out / "config.json", config);
}

}  // namespace heddle::client
