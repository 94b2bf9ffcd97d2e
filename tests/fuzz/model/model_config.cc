// Any bytes as a model's config.json, of whatever architecture: refused with a reason, or a specification that hangs
// together. After a line "generation": a generation_config.json, refused, or the tokens that end a text.
#include <boost/json.hpp>
#include <cmath>
#include <set>

#include "model/architectures/architectures.h"
#include "model/config/new_head.h"
#include "model/config/registry.h"
#include "model/config/rotary.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/scratch.h"

using heddle::fuzz::Require;
using heddle::model::ModelSpec;

namespace {

// What is written can be read, and is the same. The JSON library's reading of decimals may be off in the last place.
void CheckWritten(const ModelSpec& spec) {
  const std::string written = heddle::model::LlamaConfigJson(spec);
  const auto second = heddle::model::ParseModelConfig(written);
  Require(second.ok(), "what is written can be read", second.status().message());
  const auto near = [](double a, double b) { return std::abs(a - b) <= 1e-15 * std::abs(a); };
  Require(near(spec.norm_eps, second->norm_eps) && near(spec.rotary.theta, second->rotary.theta),
          "real numbers survive", written);
  ModelSpec same = *second;
  same.norm_eps = spec.norm_eps;
  same.rotary.theta = spec.rotary.theta;
  Require(heddle::model::LlamaConfigJson(same) == written, "and all else is the same", written);
}

void CheckNames(const ModelSpec& spec) {
  const heddle::StateDictSpec weights = spec.WeightSpec();
  for (const auto& [name, tensor] : weights) {
    Require(heddle::NumElements(tensor.shape).ok(), "every tensor has a size", name);
    Require(spec.NameOf(name) == name, "a parameter's name is its own", name);
  }
  for (const auto& linear : spec.LinearModules()) {
    const auto found = weights.find(linear.path + ".weight");
    Require(found != weights.end(), "every linear layer has a weight", linear.path);
    Require(found->second.shape[linear.transposed ? 1 : 0] == linear.out, "of its size", linear.path);
  }
  const heddle::Status fits = spec.CheckTensors(weights);
  Require(fits.ok(), "a checkpoint of just these tensors fits", fits.message());
}

}  // namespace

namespace {

// For masked words it has a head whose parameters the weights must have, or there is none for it.
void CheckMaskedHead(std::string_view text) {
  const auto changed = heddle::model::ConfigWithMaskedHead(text);
  if (!changed.ok()) return;
  const auto spec = heddle::model::ParseModelConfig(*changed);
  if (!spec.ok()) return;  // the rest may still be wrong
  Require(spec->head.task == heddle::model::Task::kMaskedLm && spec->fresh.empty(), "its head is whole", *changed);
  Require(heddle::model::HeadParameters(*spec).size() == 5, "a dense layer, a norm and a bias", *changed);
  const auto again = heddle::model::ConfigWithMaskedHead(*changed);
  Require(again.ok() && *again == *changed, "and is the same when it is made twice", *changed);
}

// With a new head it is a classifier whose head may be absent from the weights, or there is none for it.
void CheckNewHead(std::string_view text) {
  const auto changed = heddle::model::ConfigWithNewHead(text, 3);
  if (!changed.ok()) return;
  const auto spec = heddle::model::ParseModelConfig(*changed);
  if (!spec.ok()) return;  // the rest may still be wrong
  Require(spec->num_labels == 3 && !spec->fresh.empty(), "it has the labels", *changed);
  const auto again = heddle::model::ConfigWithNewHead(*changed, 3);
  Require(again.ok() && *again == *changed, "and is the same when it is made twice", *changed);
  if (spec->num_hidden_layers > 16) return;
  heddle::StateDictSpec body = spec->WeightSpec();
  for (const std::string& name : spec->fresh) Require(body.erase(name) == 1, "what is new is a parameter", name);
  Require(spec->CheckTensors(body).ok(), "the body alone fits");
  Require(heddle::model::MissingHeadParameters(*spec, body).size() == spec->fresh.size(), "all of the head is missing");
}

namespace json = boost::json;

// They are those of config.json and those that the JSON library finds, each once, in order.
void CheckEndTokens(std::string_view text) {
  static const heddle::fuzz::Scratch scratch;
  scratch.Write("generation_config.json", text);
  ModelSpec spec = heddle::model::LlamaSpec();
  spec.eos_token_id = 2;
  spec.more_eos_token_ids = {5, 2};
  const auto ids = heddle::model::ReadEndTokens(scratch.path(), spec);
  if (!ids.ok()) {
    Require(ids.status().code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument",
            ids.status().message());
    return;
  }
  json::error_code error;
  const json::value root = json::parse(text, error);
  Require(!error && root.is_object(), "what is read is an object", text);
  std::set<int64_t> expected = {2, 5};
  const auto add = [&](const json::value& id) {
    json::error_code none;
    const auto number = id.to_number<double>(none);  // exact: ids are below 2^53
    Require(!none, "an id is a number", text);
    if (number != -1) expected.insert(static_cast<int64_t>(number));
  };
  const json::value* end = root.get_object().if_contains("eos_token_id");
  if (end != nullptr && end->is_array()) {
    for (const json::value& id : end->get_array()) add(id);
  } else if (end != nullptr && !end->is_null()) {
    add(*end);
  }
  Require(std::vector<int64_t>(expected.begin(), expected.end()) == *ids, "these are the tokens", text);
  Require(ids->front() >= 0 && ids->back() <= heddle::model::kMaxVocab, "and can be tokens", text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr std::string_view kGeneration = "generation\n";
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.starts_with(kGeneration)) {
    CheckEndTokens(input.substr(kGeneration.size()));
    return 0;
  }
  CheckNewHead({reinterpret_cast<const char*>(data), size});
  CheckMaskedHead({reinterpret_cast<const char*>(data), size});
  const auto spec = heddle::model::ParseModelConfig({reinterpret_cast<const char*>(data), size});
  if (!spec.ok()) {
    Require(!spec.status().message().empty(), "a refusal says why");
    return 0;
  }
  Require(spec->MaxLength() >= 1, "there is room for a token");
  if (spec->architecture == "LlamaForCausalLM" && spec->rotary.scaling == heddle::model::RotaryScaling::kNone) {
    CheckWritten(*spec);
  }
  if (spec->RotaryDims() > 0 && spec->RotaryDims() <= 4096) {
    const auto table = heddle::model::RotaryFrequencies(*spec, spec->MaxLength());
    Require(static_cast<int64_t>(table.frequencies.size()) == spec->RotaryDims() / 2, "a frequency for each pair");
    for (const double frequency : table.frequencies) Require(!std::isnan(frequency), "frequencies are numbers");
  }
  if (spec->num_hidden_layers <= 16) CheckNames(*spec);
  return 0;
}
