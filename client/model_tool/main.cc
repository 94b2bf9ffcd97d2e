// heddle-model: looks at a model's folder. `heddle model …` runs it. Exit status: 0
// done, 1 it failed (one sentence says why), 2 wrong usage.
#include <CLI/CLI.hpp>
#include <functional>
#include <iostream>

#include "client/model_tool/inspect.h"
#include "common/build_info.h"

namespace heddle::client {
namespace {

// Options of all subcommands, and what the chosen one will do.
struct CommandLine {
  std::string format = "text";
  InspectOptions inspect;
  std::filesystem::path folder;
  std::function<Status()> action;

  void Inspect(CLI::App* app);
};

void AddFormat(CLI::App* app, std::string* format) {
  app->add_option("--format", *format, "text or json")->check(CLI::IsMember({"text", "json"}));
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

int Main(int argc, char** argv) {
  CLI::App app("Looks at a model's folder.", "heddle model");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string(VersionString()));
  CommandLine line;
  line.Inspect(&app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
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
