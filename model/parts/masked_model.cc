#include "model/parts/masked_model.h"

#include <algorithm>
#include <cmath>

#include "common/file.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "model/config/new_head.h"
#include "model/config/registry.h"

namespace heddle::model {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = size_t{1} << 20;

Tensor NewParameter(const std::string& name, const Shape& shape, bool norm, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(NumElements(shape).value()));
  if (shape.size() > 1) {
    constexpr double kDeviation = 0.02;
    const double bound = kDeviation * std::sqrt(3.0);
    const PhiloxStream random(DeriveSeed(seed, "new head", name));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>((2.0 * static_cast<double>(random.UniformAt(i)) - 1.0) * bound);
    }
  } else if (norm && name.ends_with(".weight")) {
    std::fill(values.begin(), values.end(), 1.0F);
  }
  return Tensor::FromFloats(shape, values);
}

bool IsOfWeights(const fs::path& file) {
  const std::string ending = file.extension().string();
  return ending == ".safetensors" || ending == ".bin" || ending == ".pt" || ending == ".pth" ||
         file.filename() == "model.safetensors.index.json";
}

}  // namespace

Status CheckNewFolder(const fs::path& out) {
  std::error_code error;
  if (!fs::exists(out, error) || fs::is_empty(out, error)) return OkStatus();
  return AlreadyExists(out.string() + " holds something; name a new folder");
}

Status CopyAllButTheModel(const fs::path& from, const fs::path& to,
                          const std::set<std::string, std::less<>>& left_out) {
  std::error_code error;
  fs::directory_iterator entries(from, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    const fs::path& file = entries->path();
    const std::string name = file.filename().string();
    if (!entries->is_regular_file(error) || IsOfWeights(file) || name == "config.json" || left_out.contains(name)) {
      continue;
    }
    fs::copy_file(file, to / name, error);
    if (error) break;
  }
  return error ? ErrnoStatus(error.value(), "cannot copy the files of " + from.string()) : OkStatus();
}

Result<std::vector<std::string>> WriteMaskedModel(const fs::path& folder, uint64_t seed, const fs::path& out) {
  HEDDLE_RETURN_IF_ERROR(CheckNewFolder(out));
  HEDDLE_ASSIGN_OR_RETURN(const std::string config, ReadFile(folder / "config.json", kMaxConfigBytes));
  const auto changed = ConfigWithMaskedHead(config);
  if (!changed.ok()) return changed.status().Annotate((folder / "config.json").string());
  HEDDLE_ASSIGN_OR_RETURN(const ModelSpec spec, ParseModelConfig(*changed));
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile file, ReadModelSafetensors(folder, Misaligned::kKeep));
  const StateDictSpec parameters = spec.WeightSpec();
  StateDict tensors;
  const auto names = spec.NamesOf(SpecOf(file.tensors));
  for (const auto& [stored, ours] : names) {
    if (parameters.contains(ours)) tensors.insert_or_assign(ours, file.tensors.find(stored)->second);
  }
  std::vector<std::string> made;
  for (const std::string& name : HeadParameters(spec)) {
    if (tensors.contains(name)) continue;
    const bool norm = name.starts_with(spec.head.norm + ".");
    tensors.emplace(name, NewParameter(name, parameters.find(name)->second.shape, norm, seed));
    made.push_back(name);
  }
  if (Status fits = spec.CheckTensors(SpecOf(tensors)); !fits.ok()) return fits.Annotate(folder.string());
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(out));
  HEDDLE_RETURN_IF_ERROR(WriteSafetensors(out / "model.safetensors", tensors));
  HEDDLE_RETURN_IF_ERROR(CopyAllButTheModel(folder, out));
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(out / "config.json", *changed));
  return made;
}

}  // namespace heddle::model
