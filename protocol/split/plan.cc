#include "protocol/split/plan.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>

#include "common/config.h"
#include "common/digest.h"

namespace heddle::protocol {
namespace {

namespace fs = std::filesystem;

// A JSON number that reads back as the same double.
std::string NumberText(double value) {
  char buffer[40];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
}

void BindSide(ConfigSchema& schema, const std::string& table, SplitSide* side) {
  schema.Bind(table + ".peft_type", &side->peft_type,
              {.help = "what is trained on this side; NONE: nothing",
               .choices = {"LORA", "IA3", "BOTTLENECK", "BITFIT", "FULL", "NONE"}});
  schema.Bind(table + ".r", &side->r, {.help = "rank of LoRA factors", .min = 1, .max = 4096});
  schema.Bind(table + ".lora_alpha", &side->lora_alpha,
              {.help = "their scale is lora_alpha / r", .min = 1e-6, .max = 1e6});
  schema.Bind(table + ".lora_dropout", &side->lora_dropout, {.help = "of what factors read", .min = 0, .max = 0.9});
  schema.Bind(table + ".target_modules", &side->target_modules,
              {.help = "by their last names; none: all linear layers"});
  schema.Bind(table + ".layers_to_transform", &side->layers_to_transform,
              {.help = "only these layers, counted from 0 in the whole model", .max = 4096});
  schema.Bind(table + ".optimizer", &side->optimizer, {.help = "AdamW or SGD", .choices = {"AdamW", "SGD"}});
  schema.Bind(table + ".learning_rate", &side->learning_rate, {.help = "of every step", .min = 0, .max = 10});
  schema.Bind(table + ".weight_decay", &side->weight_decay, {.help = "of the optimizer", .min = 0, .max = 10});
  schema.Bind(table + ".max_grad_norm", &side->max_grad_norm,
              {.help = "a longer gradient of this side is clipped; 0: none is", .min = 0, .max = 1e6});
}

struct Texts {
  std::string base_model, encoding = "f32", gradient_encoding;
  uint64_t rounds = 1, devices = 2, checkpoint_every = 1, max_sessions = 16;
  uint64_t local_steps = 8, micros = 1, batch = 8, length = 64, pipeline = 1, server_batch = 1, min_devices = 1;
  std::optional<double> round_timeout_s;
  std::map<std::string, std::string> strategy;
};

void BindAll(ConfigSchema& schema, SplitPlan* plan, Texts* texts) {
  schema.Bind("name", &plan->name, {.help = "of the run", .min = 1, .max = 128});
  schema.Bind("base_model", &texts->base_model, {.help = "folder", .required = true, .is_path = true});
  schema.Bind("seed", &plan->seed, {.help = "of everything random"});
  schema.Bind("rounds", &texts->rounds, {.help = "each ends with a merge", .min = 1, .max = 1'000'000});
  schema.Bind("devices_per_round", &texts->devices, {.help = "updates that end a round", .min = 1, .max = 65'536});
  schema.Bind("split.cut", &plan->cut,
              {.help = "blocks on the device; 0: its embeddings alone", .min = 0, .max = 4095});
  schema.Bind("split.topology", &plan->topology,
              {.help = "where the head and the labels are: on the device, or on the server",
               .choices = {"u_shaped", "label_sharing"}});
  schema.Bind("split.server", &plan->server_mode,
              {.help = "a part of the server's own for each device and merged (SplitFed v1); one shared (v2); one that "
                       "steps once for all; or one device after the other",
               .choices = {"per_device", "shared", "parallel", "sequential"}});
  schema.Bind("split.encoding", &texts->encoding, {.help = "of activations", .choices = {"f32", "bf16", "int8"}});
  schema.Bind("split.gradient_encoding", &texts->gradient_encoding,
              {.help = "of gradients; as split.encoding unless given", .choices = {"", "f32", "bf16", "int8"}});
  schema.Bind("split.checkpoint_every", &texts->checkpoint_every,
              {.help = "steps between two checkpoints of the server", .min = 1, .max = 10'000});
  schema.Bind("split.max_sessions", &texts->max_sessions,
              {.help = "devices at a time; further ones wait", .min = 1, .max = 4096});
  schema.Bind("split.memory_limit_mb", &plan->memory_limit_mb,
              {.help = "what the server may need in MiB, by its own estimate; devices beyond it wait; 0: no limit",
               .min = 0,
               .max = 1e9});
  schema.Bind(
      "split.session_timeout_s", &plan->session_timeout_s,
      {.help = "a device that is silent for so long may lose its place to another; 0: never", .min = 0, .max = 1e6});
  schema.Bind("split.round_timeout_s", &texts->round_timeout_s,
              {.help = "so long after its first device a round ends without those that are not done; 0: never",
               .min = 0,
               .max = 1e8});
  schema.Bind(
      "split.min_devices", &texts->min_devices,
      {.help = "a round that ends without some of its devices has the updates of so many", .min = 1, .max = 4096});
  schema.Bind(
      "split.pipeline", &texts->pipeline,
      {.help = "micro-batches of a device on the way at a time", .min = 1, .max = double{kMaxSplitMicroBatches}});
  schema.Bind("split.step_timeout_s", &plan->step_timeout_s,
              {.help = "parallel: a step waits so long for the last device", .min = 0, .max = 1e6});
  schema.Bind(
      "split.server_batch", &texts->server_batch,
      {.help = "devices whose micro-batches the server computes with in one pass; 1: the same bits whoever else "
               "is there",
       .min = 1,
       .max = 4096});
  schema.Bind("split.server_wait_ms", &plan->server_wait_ms,
              {.help = "for so long a micro-batch waits for those of other devices", .min = 0, .max = 60'000});
  schema.Bind("train.local_steps", &texts->local_steps, {.help = "of a device in a round", .min = 1, .max = 100'000});
  schema.Bind("train.gradient_accumulation_steps", &texts->micros,
              {.help = "micro-batches a step", .min = 1, .max = double{kMaxSplitMicroBatches}});
  schema.Bind("train.batch_size", &texts->batch,
              {.help = "rows of a micro-batch", .min = 1, .max = double{kMaxSplitRows}});
  schema.Bind("train.sequence_length", &texts->length, {.help = "tokens of a row", .min = 1, .max = 1 << 20});
  BindSide(schema, "device", &plan->device);
  schema.Bind("device.gradient_checkpointing", &plan->device_checkpointing,
              {.help = "a device computes its blocks again on the way back instead of keeping their activations"});
  BindSide(schema, "server", &plan->server);
  schema.Bind("privacy.clip_norm", &plan->privacy.clip_norm,
              {.help = "a longer sample of activations is scaled to this norm; 0: none is", .min = 0, .max = 1e9});
  schema.Bind("privacy.noise_multiplier", &plan->privacy.noise_multiplier,
              {.help = "standard deviation of the activations' noise, in units of clip_norm", .min = 0, .max = 1e6});
  schema.Bind("privacy.label_epsilon", &plan->privacy.label_epsilon,
              {.help = "label_sharing: labels go through randomised response; 0: as they are", .min = 0, .max = 100});
  schema.Bind("privacy.distance_correlation", &plan->privacy.distance_correlation,
              {.help = "devices report how much activations say about the embeddings"});
  schema.BindTable("strategy", &texts->strategy,
                   "name: how the devices' parts are merged; max_abs: bound of an update's elements; what the method "
                   "itself takes");
}

// A table of its own: which numbers a method takes is known where it is made.
Status TakeStrategy(const std::map<std::string, std::string>& table, SplitPlan* plan) {
  for (const auto& [key, text] : table) {
    if (key == "name") {
      if (text.empty() || text.size() > 64) return InvalidArgument("strategy.name must be the name of a method");
      plan->strategy = text;
      continue;
    }
    double number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(number)) {
      return InvalidArgument("strategy." + key + " is '" + text + "'; it must be a number");
    }
    if (key != "max_abs") {
      plan->strategy_settings[key] = number;
    } else if (number >= 1e-6 && number <= 1e12) {
      plan->max_abs = number;
    } else {
      return InvalidArgument("strategy.max_abs is " + text + "; it must be from 1e-6 to 1e12");
    }
  }
  return OkStatus();
}

Result<SplitPlan> Finish(SplitPlan plan, const Texts& texts) {
  plan.base_model = texts.base_model;
  plan.rounds = static_cast<uint32_t>(texts.rounds);
  plan.devices_per_round = static_cast<uint32_t>(texts.devices);
  plan.checkpoint_every = static_cast<uint32_t>(texts.checkpoint_every);
  plan.max_sessions = static_cast<uint32_t>(texts.max_sessions);
  plan.local_steps = static_cast<uint32_t>(texts.local_steps);
  plan.gradient_accumulation_steps = static_cast<uint32_t>(texts.micros);
  plan.batch_size = static_cast<uint32_t>(texts.batch);
  plan.pipeline = static_cast<uint32_t>(texts.pipeline);
  plan.server_batch = static_cast<uint32_t>(texts.server_batch);
  plan.min_devices = static_cast<uint32_t>(texts.min_devices);
  if (plan.min_devices > plan.devices_per_round) {
    return InvalidArgument("split.min_devices is " + std::to_string(plan.min_devices) +
                           ", more than the devices_per_round of a round");
  }
  plan.round_timeout_s = texts.round_timeout_s;
  HEDDLE_RETURN_IF_ERROR(TakeStrategy(texts.strategy, &plan));
  if (plan.server_mode == "sequential" && plan.strategy != "FedAvg") {
    return InvalidArgument(
        "split.server = \"sequential\" has nothing to merge: each device goes on from the one before "
        "it; leave strategy.name out");
  }
  plan.sequence_length = static_cast<uint32_t>(texts.length);
  HEDDLE_ASSIGN_OR_RETURN(plan.encoding, CutEncodingFromName(texts.encoding));
  HEDDLE_ASSIGN_OR_RETURN(
      plan.gradient_encoding,
      CutEncodingFromName(texts.gradient_encoding.empty() ? texts.encoding : texts.gradient_encoding));
  if (!plan.device.trains() && !plan.server.trains()) {
    return InvalidArgument("device.peft_type and server.peft_type are both NONE: nothing would be trained");
  }
  if (plan.privacy.noise_multiplier > 0 && plan.privacy.clip_norm == 0) {
    return InvalidArgument("privacy.noise_multiplier is in units of privacy.clip_norm, which is not given");
  }
  if (plan.privacy.label_epsilon > 0 && plan.u_shaped()) {
    return InvalidArgument(
        "privacy.label_epsilon is for split.topology = \"label_sharing\": in a U the labels stay where "
        "they are");
  }
  const std::string& trained = plan.server.peft_type;
  if (plan.server_batch > 1 && trained != "LORA" && trained != "NONE") {
    return InvalidArgument("split.server_batch = " + std::to_string(plan.server_batch) +
                           " needs server.peft_type LORA or NONE: devices' other parameters do not go into one pass");
  }
  return plan;
}

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

}  // namespace

std::string SplitSide::AdapterConfigJson() const {
  std::string json = "{\"peft_type\": " + Quoted(peft_type) + ", \"task_type\": \"CAUSAL_LM\"" +
                     ", \"base_model_name_or_path\": \"base\", \"r\": " + std::to_string(r) +
                     ", \"lora_alpha\": " + NumberText(lora_alpha) + ", \"lora_dropout\": " + NumberText(lora_dropout);
  const bool targets = peft_type == "LORA" || !target_modules.empty();
  if (targets) {
    json += ", \"target_modules\": ";
    if (target_modules.empty()) {
      json += "\"all-linear\"";
    } else {
      for (size_t i = 0; i < target_modules.size(); ++i) json += (i == 0 ? "[" : ", ") + Quoted(target_modules[i]);
      json += "]";
    }
  }
  if (!layers_to_transform.empty()) {
    json += ", \"layers_to_transform\": ";
    for (size_t i = 0; i < layers_to_transform.size(); ++i) {
      json += (i == 0 ? "[" : ", ") + std::to_string(layers_to_transform[i]);
    }
    json += "]";
  }
  return json + "}";
}

uint32_t SplitPlan::turns(uint32_t places) const {
  places = std::max(1U, server_mode == "sequential" ? 1U : std::min(places, max_sessions));
  return std::max(1U, devices_per_round / places + (devices_per_round % places > 0 ? 1U : 0U));
}

double SplitPlan::RoundTimeout(uint32_t turns) const {
  const double turn = std::max(3600.0, local_steps * gradient_accumulation_steps * step_timeout_s);
  return round_timeout_s.value_or(std::min(turn * turns, 1e8));
}

std::string SplitPlan::Digest(std::string_view base_digest) const {
  std::string text = "heddle split plan 4\n";
  const auto add = [&text](std::string_view name, const std::string& value) {
    text += std::string(name) + " " + std::to_string(value.size()) + " " + value + "\n";
  };
  add("base", std::string(base_digest));
  add("name", name);
  add("topology", topology);
  add("encoding", std::string(CutEncodingName(encoding)));
  add("gradient_encoding", std::string(CutEncodingName(gradient_encoding)));
  for (const auto& [key, number] : std::map<std::string_view, int64_t>{{"cut", cut},
                                                                       {"rounds", rounds},
                                                                       {"seed", static_cast<int64_t>(seed)},
                                                                       {"local_steps", local_steps},
                                                                       {"micros", gradient_accumulation_steps},
                                                                       {"pipeline", pipeline},
                                                                       {"batch_size", batch_size},
                                                                       {"sequence_length", sequence_length}}) {
    add(key, std::to_string(number));
  }
  add("strategy", strategy);
  for (const auto& [key, number] : strategy_settings) add("strategy." + key, NumberText(number));
  for (const double number : {privacy.clip_norm, privacy.noise_multiplier, privacy.label_epsilon}) {
    add("privacy", NumberText(number));
  }
  for (const SplitSide* side : {&device, &server}) {
    add("adapter", side->AdapterConfigJson());
    add("optimizer", side->optimizer);
    for (const double number : {side->learning_rate, side->weight_decay, side->max_grad_norm}) {
      add("number", NumberText(number));
    }
  }
  return Sha256(text).ToHex();
}

Result<SplitPlan> SplitPlan::LoadFile(const fs::path& path, const std::map<std::string, std::string>& overrides) {
  SplitPlan plan;
  Texts texts;
  ConfigSchema schema("split plan");
  BindAll(schema, &plan, &texts);
  HEDDLE_RETURN_IF_ERROR(schema.LoadFile(path, overrides, /*use_environment=*/false));
  return Finish(std::move(plan), texts);
}

Result<SplitPlan> SplitPlan::LoadText(std::string_view toml, const fs::path& folder, std::string_view name,
                                      const std::map<std::string, std::string>& overrides) {
  SplitPlan plan;
  Texts texts;
  ConfigSchema schema("split plan");
  BindAll(schema, &plan, &texts);
  schema.SetFolder(folder);
  HEDDLE_RETURN_IF_ERROR(schema.LoadText(toml, name, overrides));
  return Finish(std::move(plan), texts);
}

}  // namespace heddle::protocol
