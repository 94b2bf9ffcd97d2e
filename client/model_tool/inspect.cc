#include "client/model_tool/inspect.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <map>

#include "common/safetensors.h"
#include "model/config/registry.h"
#include "model/tokenizer/tokenizer.h"
#include "peft/adapter/adapter.h"

namespace heddle::client {
namespace {

namespace json = boost::json;

constexpr int64_t kDefaultLength = 512, kMaxBatch = 1 << 20, kMaxRank = 1 << 16;
constexpr model::MemoryUse kUses[] = {model::MemoryUse::kInference, model::MemoryUse::kLora,
                                      model::MemoryUse::kZerothOrder, model::MemoryUse::kFull};

std::string LastName(const std::string& path) { return path.substr(path.rfind('.') + 1); }

// All that is printed.
struct ModelReport {
  model::ModelSpec spec;
  std::string stored_as;
  std::string tokenizer;  // for people
  int64_t tokenizer_vocab = -1;
  std::vector<TargetGroup> groups;
  std::vector<std::string> targets;  // names in use
  model::MemorySettings settings;
  std::vector<std::pair<model::MemoryUse, model::MemoryEstimate>> memory;
};

Status CheckOptions(const InspectOptions& options, const model::ModelSpec& spec) {
  if (options.batch < 1 || options.batch > kMaxBatch)
    return InvalidArgument("--batch must be from 1 to " + std::to_string(kMaxBatch));
  if (options.rank < 1 || options.rank > kMaxRank)
    return InvalidArgument("--rank must be from 1 to " + std::to_string(kMaxRank));
  if (options.length < 0 || (!spec.TakesImages() && options.length > spec.MaxLength())) {
    return InvalidArgument("--length is " + std::to_string(options.length) + ", but the model takes at most " +
                           std::to_string(spec.MaxLength()) + " tokens");
  }
  return OkStatus();
}

// The type of most of the weights, once their files are found to be what the configuration says; without files what the
// configuration says of it.
Result<std::string> StoredAs(const std::filesystem::path& folder, const model::ModelSpec& spec) {
  const auto file = ReadModelSafetensors(folder, Misaligned::kKeep);
  std::error_code ignored;
  const bool listed = std::filesystem::exists(folder / "model.safetensors.index.json", ignored);
  if (file.status().code() == Code::kNotFound && !listed) {
    return spec.torch_dtype + " by its configuration, no weights here";
  }
  if (!file.ok()) return file.status();
  if (Status status = spec.CheckTensors(SpecOf(file->tensors)); !status.ok()) return status.Annotate(folder.string());
  std::map<DType, uint64_t> bytes;
  for (const auto& [name, tensor] : file->tensors) bytes[tensor.dtype()] += tensor.bytes().size();
  const auto most =
      std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == bytes.end()) return spec.torch_dtype;
  switch (most->first) {
    case DType::kF32:
      return std::string("float32");
    case DType::kF16:
      return std::string("float16");
    case DType::kBF16:
      return std::string("bfloat16");
    default:
      return std::string(DTypeName(most->first));
  }
}

Result<ModelReport> Gather(const std::filesystem::path& folder, const InspectOptions& options) {
  ModelReport report;
  HEDDLE_ASSIGN_OR_RETURN(report.spec, model::ReadModelConfig(folder));
  HEDDLE_RETURN_IF_ERROR(CheckOptions(options, report.spec));
  HEDDLE_ASSIGN_OR_RETURN(report.stored_as, StoredAs(folder, report.spec));
  if (!report.spec.TakesImages()) {
    const auto tokenizer = model::Tokenizer::Read(folder);
    if (!tokenizer.ok() && tokenizer.status().code() != Code::kNotFound) return tokenizer.status();
    report.tokenizer = "none in the folder";
    if (tokenizer.ok()) {
      report.tokenizer_vocab = (*tokenizer)->vocab_size();
      report.tokenizer = std::to_string(report.tokenizer_vocab) + " tokens";
      if (!model::CheckTokenizerFits(report.spec.vocab_size, **tokenizer).ok())
        report.tokenizer += ": too many, it belongs to another model";
    }
  }
  report.groups = TargetGroups(report.spec);
  peft::AdapterConfig adapter;
  adapter.target_modules = options.target_modules;
  if (adapter.target_modules.empty()) {
    for (const TargetGroup& group : report.groups) {
      if (group.suggested) adapter.target_modules.push_back(group.name);
    }
  } else if (adapter.target_modules == std::vector<std::string>{"all-linear"}) {
    adapter.target_modules_regex = "all-linear";
    adapter.target_modules.clear();
  }
  report.targets = adapter.target_modules_regex.empty() ? adapter.target_modules : options.target_modules;
  const std::vector<model::LinearSpec> linears = report.spec.LinearModules();
  HEDDLE_ASSIGN_OR_RETURN(const auto found, peft::FindTargets(report.spec, adapter));
  for (const std::string& name : adapter.target_modules) {  // a name that matches nothing is a mistake here
    peft::AdapterConfig alone;
    alone.target_modules = {name};
    HEDDLE_RETURN_IF_ERROR(peft::FindTargets(report.spec, alone).status());
  }
  model::MemorySettings& settings = report.settings;
  for (const peft::TargetModule& target : found) {
    for (const model::LinearSpec& linear : linears) {
      if (linear.path == target.path) settings.targets.push_back(linear);
    }
  }
  settings.batch = options.batch;
  settings.length = options.length > 0 ? options.length : std::min(kDefaultLength, report.spec.MaxLength());
  if (report.spec.TakesImages()) settings.length = report.spec.patches.NumTokens();
  settings.rank = options.rank;
  settings.bf16 = options.bf16;
  settings.checkpoint = options.checkpoint;
  HEDDLE_ASSIGN_OR_RETURN(settings.base, model::WeightTypeFromName(options.base_dtype));
  for (const model::MemoryUse use : kUses)
    report.memory.emplace_back(use, model::EstimateMemory(report.spec, use, settings));
  return report;
}

json::value ToJson(const ModelReport& report) {
  const model::ModelSpec& spec = report.spec;
  json::object memory;
  for (const auto& [use, estimate] : report.memory) {
    memory[model::MemoryUseName(use)] = json::object{{"weights", estimate.weights},
                                                     {"gradients", estimate.gradients},
                                                     {"optimizer", estimate.optimizer},
                                                     {"activations", estimate.activations},
                                                     {"total", estimate.total()}};
  }
  json::array groups, suggested;
  for (const TargetGroup& group : report.groups) {
    groups.push_back(json::object{{"name", group.name},
                                  {"count", group.count},
                                  {"in", group.in},
                                  {"out", group.out},
                                  {"varies", group.varies},
                                  {"output", group.output}});
    if (group.suggested) suggested.push_back(json::string(group.name));
  }
  json::array dropout;
  for (const std::string& name : spec.unused_dropout) dropout.push_back(json::string(name));
  json::array targets;
  for (const std::string& name : report.targets) targets.push_back(json::string(name));
  return json::object{{"architecture", spec.architecture},
                      {"parameters", spec.NumParameters()},
                      {"hidden_size", spec.hidden_size},
                      {"intermediate_size", spec.intermediate_size},
                      {"layers", spec.num_hidden_layers},
                      {"heads", spec.num_attention_heads},
                      {"key_value_heads", spec.num_key_value_heads},
                      {"head_dim", spec.head_dim},
                      {"vocab_size", spec.vocab_size},
                      {"max_length", spec.MaxLength()},
                      {"labels", spec.num_labels},
                      {"tokenizer_vocab_size", report.tokenizer_vocab},
                      {"stored_as", report.stored_as},
                      {"unused_dropout", std::move(dropout)},
                      {"linear_layers", std::move(groups)},
                      {"suggested_target_modules", std::move(suggested)},
                      {"lora",
                       {{"rank", report.settings.rank},
                        {"target_modules", std::move(targets)},
                        {"parameters", model::LoraParameters(report.settings.targets, report.settings.rank)}}},
                      {"memory_bytes", std::move(memory)},
                      {"kept_front_bytes_per_example", model::FrontBytes(spec, report.settings)},
                      {"memory_at",
                       {{"batch", report.settings.batch},
                        {"length", report.settings.length},
                        {"base_dtype", model::WeightTypeName(report.settings.base)},
                        {"bf16", report.settings.bf16},
                        {"checkpointing", report.settings.checkpoint}}}};
}

std::string Number(int64_t value) {  // 1 234 567
  std::string digits = std::to_string(value), out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ' ';
    out += digits[i];
  }
  return out;
}

std::string Bytes(double bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  int unit = 0;
  while (bytes >= 1000 && unit < 4) bytes /= 1000, ++unit;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 || bytes >= 100 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
  return text;
}

template <typename... Values>
void Line(std::ostream& out, const char* format, Values... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  out << text << "\n";
}

void PrintMemory(const ModelReport& report, std::ostream& out) {
  const model::MemorySettings& s = report.settings;
  out << "\nMemory at batch " << s.batch << " x " << s.length << " tokens, base in " << model::WeightTypeName(s.base)
      << ", activations in " << (s.bf16 ? "bfloat16" : "float32") << (s.checkpoint ? ", checkpointed" : "") << "\n";
  Line(out, "  %-14s %10s %10s %10s %12s %10s", "", "weights", "gradients", "optimizer", "activations", "total");
  const char* names[] = {"inference", "LoRA", "zeroth-order", "full training"};
  for (size_t i = 0; i < report.memory.size(); ++i) {
    const model::MemoryEstimate& e = report.memory[i].second;
    Line(out, "  %-14s %10s %10s %10s %12s %10s", names[i], Bytes(e.weights).c_str(), Bytes(e.gradients).c_str(),
         Bytes(e.optimizer).c_str(), Bytes(e.activations).c_str(), Bytes(e.total()).c_str());
  }
  Line(out, "  zeroth-order: %s more for each example whose frozen front is kept (zo.kept_front_mb)",
       Bytes(model::FrontBytes(report.spec, s)).c_str());
  out << "  LoRA: rank " << s.rank << " on " << s.targets.size() << " layers, "
      << Number(model::LoraParameters(s.targets, s.rank)) << " parameters. An estimate from the sizes\n"
      << "  (model/config/memory_estimate.h has the formulas), without the program's own 150 MB or so.\n";
}

void Print(const ModelReport& report, std::ostream& out) {
  const model::ModelSpec& spec = report.spec;
  out << "architecture   " << spec.architecture << "\n";
  out << "parameters     " << Number(spec.NumParameters()) << ", stored as " << report.stored_as << "\n";
  out << "layers         " << spec.num_hidden_layers << ", " << spec.hidden_size << " wide, MLP "
      << spec.intermediate_size << "\n";
  out << "attention      " << spec.num_attention_heads << " heads of " << spec.head_dim << ", "
      << spec.num_key_value_heads << " for keys and values\n";
  if (spec.TakesImages()) {
    out << "images         " << spec.patches.channels << " x " << spec.patches.image_size << " x "
        << spec.patches.image_size << ", patches of " << spec.patches.patch_size << "\n";
  } else {
    out << "vocabulary     " << spec.vocab_size << "; tokenizer: " << report.tokenizer << "\n";
    out << "length         at most " << spec.MaxLength() << " tokens\n";
  }
  if (spec.num_labels > 0) out << "labels         " << spec.num_labels << "\n";
  if (!spec.unused_dropout.empty()) {
    out << "dropout        not applied in training, use lora_dropout:";
    for (const std::string& name : spec.unused_dropout) out << " " << name;
    out << "\n";
  }
  PrintMemory(report, out);
  out << "\nLinear layers (names for target_modules; * suggested)\n";
  for (const TargetGroup& group : report.groups) {
    const std::string shape = std::to_string(group.in) + " -> " + std::to_string(group.out);
    Line(out, "%c %-24s %5lld x  %s%s%s", group.suggested ? '*' : ' ', group.name.c_str(),
         static_cast<long long>(group.count), shape.c_str(), group.varies ? " and others" : "",
         group.output ? "  (the head: not in all-linear)" : "");
  }
  out << "\ntarget_modules = [";
  bool first = true;
  for (const TargetGroup& group : report.groups) {
    if (!group.suggested) continue;
    out << (first ? "\"" : ", \"") << group.name << "\"";
    first = false;
  }
  out << "]    # or \"all-linear\"\n";
}

}  // namespace

std::vector<TargetGroup> TargetGroups(const model::ModelSpec& spec) {
  std::vector<TargetGroup> groups;
  const model::LayerNames& names = spec.layer;
  for (const model::LinearSpec& linear : spec.LinearModules()) {
    const std::string name = LastName(linear.path);
    auto group = std::find_if(groups.begin(), groups.end(), [&](const TargetGroup& g) { return g.name == name; });
    if (group == groups.end()) {
      TargetGroup fresh;
      fresh.name = name;
      fresh.in = linear.in;
      fresh.out = linear.out;
      fresh.output = linear.output;
      for (const std::string* one : {&names.query, &names.value, &names.qkv})
        fresh.suggested = fresh.suggested || (!one->empty() && LastName(*one) == name);
      groups.push_back(std::move(fresh));
      group = std::prev(groups.end());
    }
    ++group->count;
    group->varies = group->varies || linear.in != group->in || linear.out != group->out;
  }
  return groups;
}

Status InspectModel(const std::filesystem::path& folder, const InspectOptions& options, std::ostream& out) {
  HEDDLE_ASSIGN_OR_RETURN(const ModelReport report, Gather(folder, options));
  if (options.json) {
    out << json::serialize(ToJson(report)) << "\n";
  } else {
    Print(report, out);
  }
  return OkStatus();
}

}  // namespace heddle::client
