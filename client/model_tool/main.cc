// heddle-model: looks at a model's folder, evaluates it, completes a prompt, makes emulators, merges adapters. `heddle
// model …` runs it. Exit status: 0 done, 1 it failed (one sentence says why), 2 wrong usage.
#include <CLI/CLI.hpp>
#include <functional>
#include <iostream>

#include "client/model_tool/distil.h"
#include "client/model_tool/evaluate_command.h"
#include "client/model_tool/generate.h"
#include "client/model_tool/inspect.h"
#include "client/model_tool/merge.h"
#include "common/build_info.h"
#include "common/command_line.h"
#include "common/logging.h"
#include "model/memory/tensor_memory.h"
#include "model/parts/masked_model.h"
#include "model/parts/part_folder.h"
#include "model/quant/weight_type.h"
#include "model/transformer/blas_check.h"
#include "peft/parts/emulator.h"

namespace heddle::client {
namespace {

// Options of all subcommands, and what the chosen one will do.
struct CommandLine {
  std::string format = "text";
  InspectOptions inspect;
  EvaluateSettings evaluate;
  GenerateSettings generate;
  DistilSettings distil;
  std::filesystem::path folder, out, emulator, adapter;
  model::Cut cut;
  std::string topology = "u_shaped";
  uint64_t head_seed = 1;
  std::function<Status()> action;

  void Inspect(CLI::App* app);
  void Evaluate(CLI::App* app);
  void Generate(CLI::App* app);
  void Emulator(CLI::App* app);
  void Part(CLI::App* app);
  void Plug(CLI::App* app);
  void Masked(CLI::App* app);
  void Merge(CLI::App* app);
};

void AddFormat(CLI::App* app, std::string* format) {
  app->add_option("--format", *format, "text or json")->check(CLI::IsMember({"text", "json"}));
}

constexpr unsigned kMostThreads = 1024;  // as worker.threads

void AddCompute(CLI::App* app, std::string* device, std::string* dtype, unsigned* threads) {
  app->add_option("--device", *device, "cpu or cuda")->default_str("cpu");
  app->add_option("--dtype", *dtype,
                  "of the weights: float32, bfloat16 (also computed in, which many processors are slow at), int8, nf4")
      ->check(CLI::IsMember(model::WeightTypeNames()))
      ->default_str("float32");
  app->add_option("--threads", *threads, "compute threads; 0: as LibTorch chooses")
      ->check(CLI::Range(0U, kMostThreads));
}

void CommandLine::Inspect(CLI::App* app) {
  CLI::App* command = app->add_subcommand("inspect", "architecture, parameters, memory, names for target_modules");
  command->add_option("DIR", folder, "the model's folder")->required();
  command->add_option("--batch", inspect.batch, "sequences in a batch")->capture_default_str();
  command->add_option("--length", inspect.length, "tokens in a sequence; default 512, or what the model takes");
  command->add_option("--rank", inspect.rank, "LoRA's rank")->capture_default_str();
  command
      ->add_option("--target-modules", inspect.target_modules, "LoRA's targets, or all-linear; default: the suggested")
      ->delimiter(',');
  command->add_option("--dtype", inspect.base_dtype, "of frozen weights: float32, bfloat16, int8, nf4")
      ->check(CLI::IsMember(model::WeightTypeNames()))
      ->default_str("float32");
  command->add_flag("--bf16", inspect.bf16, "activations in bfloat16");
  command->add_flag("--checkpoint", inspect.checkpoint, "activation checkpointing");
  AddFormat(command, &format);
  command->callback([this] {
    action = [this] {
      inspect.json = format == "json";
      return InspectModel(folder, inspect, std::cout);
    };
  });
}

void CommandLine::Evaluate(CLI::App* app) {
  CLI::App* command = app->add_subcommand("eval", "metrics of the model, and an adapter, on a data set");
  command->footer(
      "A causal model reads the texts of a .txt or .jsonl as one stream, EOS between them and no BOS, and other rows "
      "each by itself, with EOS and, where the tokenizer adds one, BOS.");
  command->add_option("DIR", evaluate.folder, "the model's folder")->required();
  command->add_option("DATA", evaluate.data, ".txt, .jsonl, .csv, .tsv; for images an IDX file or a folder")
      ->required();
  command->add_option("--adapter", evaluate.adapter, "a folder in PEFT's layout");
  command->add_option("--length", evaluate.length, "tokens of a row; default 512, or what the model takes");
  AddCompute(command, &evaluate.device, &evaluate.dtype, &evaluate.threads);
  AddFormat(command, &format);
  command->callback([this] {
    action = [this] {
      evaluate.json = format == "json";
      return EvaluateCommand(evaluate, std::cout);
    };
  });
}

void CommandLine::Generate(CLI::App* app) {
  CLI::App* command = app->add_subcommand("generate", "complete a prompt");
  command->add_option("DIR", generate.folder, "the model's folder")->required();
  command->add_option("PROMPT", generate.prompt, "the text to go on with")->required();
  command->add_option("--adapter", generate.adapter, "a folder in PEFT's layout");
  command->add_option("--max-tokens", generate.max_new_tokens, "most tokens to add")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--temperature", generate.temperature, "0: the likeliest token; 1: as the model says")
      ->capture_default_str();
  command->add_option("--top-k", generate.top_k, "draw from so many of the likeliest tokens; 0: from all");
  command->add_option("--top-p", generate.top_p, "draw from the likeliest that hold this much probability")
      ->capture_default_str();
  command->add_option("--seed", generate.seed, "of the draws")->capture_default_str();
  AddCompute(command, &generate.device, &generate.dtype, &generate.threads);
  AddFormat(command, &format);
  command->callback([this] {
    action = [this] {
      generate.json = format == "json";
      return GenerateText(generate, std::cout, std::cerr);
    };
  });
}

std::string Joined(const std::vector<int64_t>& numbers) {
  std::string text;
  for (const int64_t number : numbers) text += (text.empty() ? "" : ", ") + std::to_string(number);
  return text;
}

// What there is to say of a new emulator.
void Describe(const peft::Emulator& made, bool json, std::ostream& out) {
  std::vector<int64_t> ends;
  const auto count = static_cast<int64_t>(made.layers.size());
  for (int64_t i = 0; i < count; ++i) {
    if (i < made.ends || i >= count - made.ends) ends.push_back(i);
  }
  if (json) {
    out << "{\"layers\": [" << Joined(made.layers) << "], \"num_layers\": " << made.num_layers
        << ", \"layers_to_transform\": [" << Joined(ends) << "]}\n";
  } else {
    out << "layers " << Joined(made.layers) << " of " << made.num_layers
        << "\nto tune its ends: layers_to_transform = [" << Joined(ends) << "]\n";
  }
}

void CommandLine::Emulator(CLI::App* app) {
  CLI::App* command = app->add_subcommand(
      "emulator", "a smaller model around whose middle devices tune the first and last layers, without the model");
  command->add_option("DIR", distil.folder, "the model's folder")->required();
  command->add_option("OUT", distil.out, "a new folder")->required();
  command->add_option("--ends", distil.ends, "layers at each end that stay, to be tuned")->capture_default_str();
  command->add_option("--keep", distil.kept, "layers between the ends that stay, evenly spread")->required();
  CLI::Option* data =
      command->add_option("--distil", distil.data, "data on which these learn to do what all of the model's do there");
  const auto add = [&](const char* name, auto* value, const char* what) {
    return command->add_option(name, *value, what)->needs(data);
  };
  add("--steps", &distil.steps, "of distillation")->check(CLI::PositiveNumber)->capture_default_str();
  add("--warmup-steps", &distil.warmup_steps, "of them; default a tenth");
  add("--batch-size", &distil.batch_size, "rows of a step")->check(CLI::PositiveNumber)->capture_default_str();
  add("--sequence-length", &distil.sequence_length, "tokens of a row; default 512, or what the model takes");
  add("--learning-rate", &distil.learning_rate, "at its highest")->capture_default_str();
  add("--lm-weight", &distil.lm_weight, "of the emulator's own loss")->capture_default_str();
  add("--kd-weight", &distil.kd_weight, "of the distance to what the model has between its ends")
      ->capture_default_str();
  add("--seed", &distil.seed, "of the order of the data")->capture_default_str();
  add("--device", &distil.device, "cpu or cuda")->default_str("cpu");
  add("--threads", &distil.threads, "compute threads; 0: as LibTorch chooses")->check(CLI::Range(0U, kMostThreads));
  AddFormat(command, &format);
  command->callback([this, data] {
    const bool distils = data->count() > 0;
    action = [this, distils]() -> Status {
      HEDDLE_ASSIGN_OR_RETURN(const peft::Emulator made,
                              distils ? DistilEmulator(distil, std::cerr)
                                      : peft::MakeEmulator(distil.folder, distil.ends, distil.kept, distil.out));
      Describe(made, format == "json", std::cout);
      return OkStatus();
    };
  });
}

void CommandLine::Part(CLI::App* app) {
  CLI::App* command =
      app->add_subcommand("part", "what a device of split learning has of a model: the tensors of its part alone");
  command->add_option("DIR", folder, "the model's folder")->required();
  command->add_option("OUT", out, "a new folder")->required();
  command->add_option("--cut", cut.blocks, "split.cut of the run: blocks on the device")->required();
  command->add_option("--topology", topology, "split.topology of the run")->capture_default_str();
  command->callback([this] {
    action = [this]() -> Status {
      HEDDLE_ASSIGN_OR_RETURN(cut.topology, model::SplitTopologyFromName(topology));
      return model::WriteDevicePart(folder, cut, out);
    };
  });
}

void CommandLine::Plug(CLI::App* app) {
  CLI::App* command = app->add_subcommand("plug", "an adapter that was tuned on an emulator, for the whole model");
  command->add_option("EMULATOR", emulator, "the emulator's folder")->required();
  command->add_option("ADAPTER", adapter, "a folder in PEFT's layout")->required();
  command->add_option("DIR", folder, "the whole model's folder")->required();
  command->add_option("OUT", out, "a folder for the adapter")->required();
  command->callback([this] { action = [this] { return peft::PlugInFolder(emulator, adapter, folder, out); }; });
}

void CommandLine::Masked(CLI::App* app) {
  CLI::App* command =
      app->add_subcommand("masked", "a BERT without a head for masked words as one with it, to be pre-trained further");
  command->add_option("DIR", folder, "the model's folder")->required();
  command->add_option("OUT", out, "a new folder")->required();
  command->add_option("--seed", head_seed, "of what the head lacks")->capture_default_str();
  command->callback([this] {
    action = [this]() -> Status {
      HEDDLE_ASSIGN_OR_RETURN(const std::vector<std::string> made, model::WriteMaskedModel(folder, head_seed, out));
      for (const std::string& name : made) std::cout << "new: " << name << "\n";
      return OkStatus();
    };
  });
}

void CommandLine::Merge(CLI::App* app) {
  CLI::App* command = app->add_subcommand("merge", "the model with an adapter in its weights, as a folder of its own");
  command->add_option("DIR", folder, "the model's folder")->required();
  command->add_option("ADAPTER", adapter, "a folder in PEFT's layout")->required();
  command->add_option("OUT", out, "a new folder")->required();
  command->callback([this] { action = [this] { return MergeModel(folder, adapter, out); }; });
}

int Main(int argc, char** argv) {
  CLI::App app("Looks at a model's folder, evaluates it, completes a prompt, makes emulators, merges adapters.",
               "heddle model");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string(VersionString()));
  CommandLine line;
  line.Inspect(&app);
  line.Evaluate(&app);
  line.Generate(&app);
  line.Emulator(&app);
  line.Part(&app);
  line.Plug(&app);
  line.Masked(&app);
  line.Merge(&app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return ExitOfUsage(app, error);
  }
  if (const Status logging = InitLogging({}); !logging.ok()) {  // to standard error: the other has the results
    std::cerr << "heddle model: " << logging.message() << "\n";
    return 1;
  }
  model::UseTensorMemory(model::kServerSpare);
  model::WarnOfSlowBlas();
  const Status status = line.action();
  if (status.ok()) return 0;
  std::cerr << "heddle model: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace heddle::client

int main(int argc, char** argv) {
  try {
    return heddle::client::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "heddle model: " << error.what() << "\n";
    return 1;
  }
}
