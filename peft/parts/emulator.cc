#include "peft/parts/emulator.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>

#include "common/file.h"
#include "common/safetensors.h"
#include "common/safetensors_head.h"
#include "model/config/registry.h"
#include "model/parts/masked_model.h"
#include "model/parts/sub_model.h"

namespace heddle::peft {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr size_t kMaxTextBytes = size_t{1} << 20;
constexpr std::string_view kKeyPrefix = "base_model.model.";

Result<BaseWeightFiles> WeightFilesOf(const fs::path& folder) {
  BaseWeightFiles files;
  std::error_code error;
  fs::directory_iterator entries(folder, error);
  if (error) return ErrnoStatus(error.value(), "cannot read the folder " + folder.string());
  for (; entries != fs::directory_iterator(); entries.increment(error)) {
    if (entries->path().extension() != ".safetensors") continue;
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, Sha256File(entries->path()));
    files.emplace_back(entries->path().filename().string(), digest);
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Calls `on` with the name and the field of each number that a Distillation has.
template <typename Of, typename On>
void ForNumbers(Of& how, On on) {
  on("steps", how.steps);
  on("warmup_steps", how.warmup_steps);
  on("batch_size", how.batch_size);
  on("sequence_length", how.sequence_length);
  on("seed", how.seed);
  on("learning_rate", how.learning_rate);
  on("lm_weight", how.lm_weight);
  on("kd_weight", how.kd_weight);
  on("first_lm", how.first_lm);
  on("first_kd", how.first_kd);
  on("last_lm", how.last_lm);
  on("last_kd", how.last_kd);
}

json::object DistillationJson(const Distillation& how) {
  json::object out{{"data", how.data}};
  if (how.sha256) out["sha256"] = how.sha256->ToHex();
  ForNumbers(how, [&](const char* name, const auto& value) { out[name] = value; });
  return out;
}

// Exceptions of the JSON library pass through.
Result<Distillation> DistillationOf(const json::object& object) {
  Distillation how;
  how.data = json::value_to<std::string>(object.at("data"));
  if (const json::value* digest = object.if_contains("sha256")) {
    HEDDLE_ASSIGN_OR_RETURN(how.sha256, Sha256Digest::FromHex(json::value_to<std::string>(*digest)));
  }
  ForNumbers(how, [&](const char* name, auto& value) {
    value = object.at(name).to_number<std::remove_reference_t<decltype(value)>>();
  });
  return how;
}

std::string EmulatorJson(const Emulator& emulator) {
  json::array layers, weights;
  for (const int64_t layer : emulator.layers) layers.push_back(layer);
  for (const auto& [name, digest] : emulator.weights) weights.push_back({{"name", name}, {"sha256", digest.ToHex()}});
  json::object out{{"layers", std::move(layers)},
                   {"num_layers", emulator.num_layers},
                   {"ends", emulator.ends},
                   {"weights", std::move(weights)}};
  if (emulator.distilled) out["distilled"] = DistillationJson(*emulator.distilled);
  return json::serialize(out) + "\n";
}

// Puts the values in the places that their names have among the emulator's layers.
Status PutValues(const model::ModelSpec& whole, const Emulator& emulator, const StateDict& values, StateDict* tensors) {
  const std::vector<int64_t> middle = emulator.Middle();
  for (const auto& [name, value] : values) {
    const auto renamed = model::NameAmongLayers(whole, name, emulator.layers);
    const bool learned = std::find(middle.begin(), middle.end(), LayerOf(whole, name)) != middle.end();
    const auto place = renamed && learned ? tensors->find(*renamed) : tensors->end();
    if (place == tensors->end() || place->second.spec() != value.spec()) {
      return InvalidArgument("'" + name + "' " + value.spec().ToString() +
                             " is not what the model has between its ends; was the model changed meanwhile?");
    }
    place->second = value;
  }
  return OkStatus();
}

// One tensor after the other, so that none needs to be in memory.
Status WriteUnder(const fs::path& path, const StateDict& tensors) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  const std::string failure = "cannot write " + path.string();
  if (!fd.valid()) return ErrnoStatus(errno, failure);
  HEDDLE_RETURN_IF_ERROR(WriteAll(fd.get(), SafetensorsHead(SpecOf(tensors)), failure));
  for (const auto& [name, tensor] : tensors) {
    const std::string_view bytes(reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size());
    HEDDLE_RETURN_IF_ERROR(WriteAll(fd.get(), bytes, failure));
  }
  if (::fsync(fd.get()) != 0) return ErrnoStatus(errno, failure);
  return OkStatus();
}

// Whole under its name, or not there.
Status WriteTensors(const fs::path& path, const StateDict& tensors) {
  fs::path unfinished = path;
  unfinished += ".new";
  Status status = WriteUnder(unfinished, tensors);
  if (status.ok()) status = RenameDurably(unfinished, path);
  std::error_code ignored;
  if (!status.ok()) fs::remove(unfinished, ignored);
  return status;
}

// Of a key or module path, in the whole. Errors: kInvalidArgument.
Result<std::string> Mapped(const model::ModelSpec& whole, const Emulator& emulator, std::string_view name) {
  auto mapped = model::NameInWhole(whole, name, emulator.layers);
  if (mapped) return *std::move(mapped);
  return InvalidArgument("'" + std::string(name) + "' is of a layer beyond the emulator's " +
                         std::to_string(emulator.layers.size()));
}

template <typename Value>
Status MapPaths(const model::ModelSpec& whole, const Emulator& emulator, std::map<std::string, Value>* by_path) {
  std::map<std::string, Value> out;
  for (auto& [path, value] : *by_path) {
    HEDDLE_ASSIGN_OR_RETURN(std::string mapped, Mapped(whole, emulator, path));
    out.emplace(std::move(mapped), std::move(value));
  }
  *by_path = std::move(out);
  return OkStatus();
}

Status MapLayers(const model::ModelSpec& whole, const Emulator& emulator, const Adapter& tuned,
                 std::vector<int64_t>* layers) {
  if (layers->empty()) {
    for (const auto& [key, tensor] : tuned.tensors) {
      const std::string_view name = std::string_view(key).substr(std::min(kKeyPrefix.size(), key.size()));
      const bool whole_module = tuned.config.SavesWhole(name.substr(0, name.rfind('.')));
      if (whole_module || LayerOf(whole, name) >= 0) continue;
      return InvalidArgument("the adapter tunes " + std::string(name) +
                             ", which is of no layer; tune with layers_to_transform");
    }
    *layers = emulator.layers;
    return OkStatus();
  }
  for (int64_t& layer : *layers) {
    if (layer < 0 || layer >= static_cast<int64_t>(emulator.layers.size())) {
      return InvalidArgument("layers_to_transform names layer " + std::to_string(layer) + "; the emulator has " +
                             std::to_string(emulator.layers.size()) + ", counted from 0");
    }
    layer = emulator.layers[static_cast<size_t>(layer)];
  }
  return OkStatus();
}

// What was tuned beside a layer that the whole does not have would be nonsense there.
Status CheckTunesEndsOnly(const model::ModelSpec& whole, const Emulator& emulator, const Adapter& tuned) {
  const auto count = static_cast<int64_t>(emulator.layers.size());
  for (const auto& [key, tensor] : tuned.tensors) {
    const int64_t layer = LayerOf(whole, std::string_view(key).substr(std::min(kKeyPrefix.size(), key.size())));
    if (layer < emulator.ends || count - 1 - layer < emulator.ends) continue;
    return InvalidArgument(
        "the adapter tunes layer " + std::to_string(layer) +
        " of the emulator, which was distilled: the model has another in its place; name the first " + "and last " +
        std::to_string(emulator.ends) + " layers in layers_to_transform");
  }
  return OkStatus();
}

}  // namespace

std::vector<int64_t> Emulator::Middle() const {
  const auto count = static_cast<int64_t>(layers.size());
  if (ends < 0 || count - ends <= ends) return {};
  return {layers.begin() + ends, layers.end() - ends};
}

Result<Emulator> PlanEmulator(const fs::path& model, int64_t ends, int64_t kept, const fs::path& out) {
  HEDDLE_RETURN_IF_ERROR(model::CheckNewFolder(out));
  HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::ReadModelConfig(model));
  Emulator emulator{{}, spec.num_hidden_layers, ends, {}};
  HEDDLE_ASSIGN_OR_RETURN(emulator.layers, model::EmulatorLayers(spec.num_hidden_layers, ends, kept));
  HEDDLE_ASSIGN_OR_RETURN(const std::string config, ReadFile(model / "config.json", kMaxTextBytes));
  HEDDLE_RETURN_IF_ERROR(model::ConfigOfLayers(config, emulator.layers).status());
  return emulator;
}

Result<Emulator> MakeEmulator(const fs::path& model, int64_t ends, int64_t kept, const fs::path& out,
                              const Distilled* distilled) {
  HEDDLE_ASSIGN_OR_RETURN(Emulator emulator, PlanEmulator(model, ends, kept, out));
  HEDDLE_ASSIGN_OR_RETURN(const std::string config, ReadFile(model / "config.json", kMaxTextBytes));
  HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::ReadModelConfig(model));
  HEDDLE_ASSIGN_OR_RETURN(const std::string smaller, model::ConfigOfLayers(config, emulator.layers));
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile file, ReadModelSafetensors(model, Misaligned::kKeep));
  auto tensors = model::TensorsOfLayers(spec, file.tensors, emulator.layers);
  if (!tensors.ok()) return tensors.status().Annotate(model.string());
  if (distilled != nullptr) {
    const Status put = PutValues(spec, emulator, distilled->values, &*tensors);
    if (!put.ok()) return put.Annotate(model.string());
    emulator.distilled = distilled->how;
  }
  HEDDLE_ASSIGN_OR_RETURN(emulator.weights, WeightFilesOf(model));
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(out));
  HEDDLE_RETURN_IF_ERROR(WriteTensors(out / "model.safetensors", *tensors));
  HEDDLE_RETURN_IF_ERROR(model::CopyAllButTheModel(model, out, {kEmulatorFile}));
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(out / kEmulatorFile, EmulatorJson(emulator)));
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(out / "config.json", smaller));  // last: with it the folder is a model
  return emulator;
}

Result<Emulator> ReadEmulator(const fs::path& folder) {
  const fs::path path = folder / kEmulatorFile;
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxTextBytes));
  try {
    const json::value parsed = json::parse(text);
    const json::object& object = parsed.as_object();
    Emulator emulator;
    emulator.layers = json::value_to<std::vector<int64_t>>(object.at("layers"));
    emulator.num_layers = object.at("num_layers").to_number<int64_t>();
    emulator.ends = object.at("ends").to_number<int64_t>();
    for (const json::value& item : object.at("weights").as_array()) {
      auto digest = Sha256Digest::FromHex(json::value_to<std::string>(item.at("sha256")));
      if (!digest.ok()) return digest.status().Annotate(path.string());
      emulator.weights.emplace_back(json::value_to<std::string>(item.at("name")), *digest);
    }
    if (const json::value* how = object.if_contains("distilled")) {
      auto distilled = DistillationOf(how->as_object());
      if (!distilled.ok()) return distilled.status().Annotate(path.string());
      emulator.distilled = *std::move(distilled);
    }
    int64_t least = 0;
    for (const int64_t layer : emulator.layers) {
      if (layer < least || layer >= emulator.num_layers) {
        return InvalidArgument(path.string() + ": its layers must rise and be below num_layers");
      }
      least = layer + 1;
    }
    if (emulator.layers.empty()) return InvalidArgument(path.string() + ": it names no layers");
    return emulator;
  } catch (const std::exception& error) {
    return InvalidArgument(path.string() + " is damaged: " + error.what());
  }
}

Result<Adapter> PlugIn(const model::ModelSpec& whole, const Emulator& emulator, const Adapter& tuned) {
  const TuningKind kind = tuned.config.kind();
  if (kind == TuningKind::kIa3 || IsPromptLearning(kind)) {
    return InvalidArgument(
        "an adapter of the kind " + tuned.config.peft_type +
        " cannot be plugged in: it is not said by layer; tune with LORA, BOTTLENECK, BITFIT or FULL");
  }
  if (emulator.num_layers != whole.num_hidden_layers) {
    return InvalidArgument("the emulator is of a model with " + std::to_string(emulator.num_layers) +
                           " layers; this one has " + std::to_string(whole.num_hidden_layers));
  }
  if (emulator.distilled) HEDDLE_RETURN_IF_ERROR(CheckTunesEndsOnly(whole, emulator, tuned));
  Adapter out{tuned.config, {}};
  HEDDLE_RETURN_IF_ERROR(MapLayers(whole, emulator, tuned, &out.config.layers_to_transform));
  HEDDLE_RETURN_IF_ERROR(MapPaths(whole, emulator, &out.config.rank_pattern));
  HEDDLE_RETURN_IF_ERROR(MapPaths(whole, emulator, &out.config.alpha_pattern));
  for (std::string& target : out.config.target_modules) {
    HEDDLE_ASSIGN_OR_RETURN(target, Mapped(whole, emulator, target));
  }
  for (const auto& [key, tensor] : tuned.tensors) {
    if (!key.starts_with(kKeyPrefix)) return InvalidArgument("'" + key + "' is no adapter's tensor");
    HEDDLE_ASSIGN_OR_RETURN(const std::string name,
                            Mapped(whole, emulator, std::string_view(key).substr(kKeyPrefix.size())));
    out.tensors.emplace(std::string(kKeyPrefix) + name, tensor);
  }
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<Slot> slots, ListSlots(whole, out.config));
  HEDDLE_RETURN_IF_ERROR(CheckFits(slots, out.tensors));
  return out;
}

Status PlugInFolder(const fs::path& emulator_folder, const fs::path& tuned, const fs::path& model,
                    const fs::path& out) {
  HEDDLE_ASSIGN_OR_RETURN(const Emulator emulator, ReadEmulator(emulator_folder));
  HEDDLE_RETURN_IF_ERROR(CheckBaseModel(tuned, emulator_folder));
  HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec whole, model::ReadModelConfig(model));
  HEDDLE_ASSIGN_OR_RETURN(const BaseWeightFiles weights, WeightFilesOf(model));
  if (weights != emulator.weights) {
    return InvalidArgument("the emulator in " + emulator_folder.string() + " was made of other weights than those in " +
                           model.string() + "; name the model that it was made of");
  }
  HEDDLE_ASSIGN_OR_RETURN(const Adapter adapter, ReadAdapter(tuned));
  const Result<Adapter> plugged = PlugIn(whole, emulator, adapter);
  if (!plugged.ok()) return plugged.status().Annotate(tuned.string());
  HEDDLE_RETURN_IF_ERROR(WriteAdapter(out, plugged->config, plugged->tensors));
  return WriteFileAtomically(out / kBaseModelFile, BaseModelJson(weights));
}

}  // namespace heddle::peft
