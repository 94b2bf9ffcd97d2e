// heddle: the administrator's command line. Exit status: 0 done, 1 it failed (one sentence says why), 2 wrong usage.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "common/build_info.h"
#include "common/command_line.h"
#include "common/config.h"
#include "coordinator/admin/commands.h"

namespace heddle::coordinator {
namespace {

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::map<std::string, std::string> Settings(const std::vector<std::string>& settings) {
  auto overrides = ParseSettings(settings);
  if (!overrides.ok()) throw UsageError(overrides.status().message());
  return *std::move(overrides);
}

// Options of all subcommands, and what the chosen one will do.
struct CommandLine {
  std::string config_path = "/etc/heddle/coordinator.toml", format = "text", device, run, recipe, out, expected;
  std::vector<std::string> config_settings, settings;
  std::optional<double> hours;
  std::optional<uint32_t> round;
  double timeout_s = 0;
  bool wait = false;
  size_t last = 20;
  std::function<Status(const CommandContext&)> action;

  CLI::App* Command(CLI::App* parent, const char* name, const char* help,
                    std::function<Status(const CommandContext&)> what) {
    CLI::App* command = parent->add_subcommand(name, help);
    command->callback([this, what = std::move(what)] { action = what; });
    return command;
  }
  void Devices(CLI::App* app);
  void Runs(CLI::App* app);
  void Audit(CLI::App* app);
};

void CommandLine::Devices(CLI::App* app) {
  CLI::App* device_app = app->add_subcommand("device", "enrolled devices")->require_subcommand(1);
  auto* token = Command(device_app, "token", "print a one-time enrolment token for a device",
                        [this](const auto& c) { return DeviceToken(c, device, hours); });
  token->add_option("NAME", device, "the device's name")->required();
  token->add_option("--hours", hours, "how long it is valid");
  Command(device_app, "list", "list devices", [](const auto& c) { return DeviceList(c); });
  auto* revoke = Command(device_app, "revoke", "make a device's certificate worthless, at once",
                         [this](const auto& c) { return DeviceRevoke(c, device); });
  revoke->add_option("NAME", device, "the device's name")->required();
}

void CommandLine::Runs(CLI::App* app) {
  CLI::App* run_app = app->add_subcommand("run", "federated runs")->require_subcommand(1);
  auto* submit = Command(run_app, "submit", "start a run from a recipe",
                         [this](const auto& c) { return RunSubmit(c, recipe, Settings(settings), wait); });
  submit->add_option("RECIPE", recipe, "recipe.toml")->required();
  submit->add_option("--set", settings, "key=value, over the recipe (repeatable)");
  submit->add_flag("--wait", wait, "wait for its end");
  Command(run_app, "list", "list runs, newest first", [](const auto& c) { return RunList(c); });
  auto with_run = [this](CLI::App* command) { command->add_option("RUN", run, "the run's id")->required(); };
  with_run(Command(run_app, "show", "show one run", [this](const auto& c) { return RunShow(c, run); }));
  with_run(Command(run_app, "stop", "stop the active run", [this](const auto& c) { return RunStop(c, run); }));
  auto* wait_app = Command(run_app, "wait", "wait until a run has ended",
                           [this](const auto& c) { return RunWait(c, run, timeout_s); });
  with_run(wait_app);
  wait_app->add_option("--timeout", timeout_s, "seconds; 0: no limit");
  auto* export_app = Command(run_app, "export", "copy a checkpoint in PEFT's layout",
                             [this](const auto& c) { return RunExport(c, run, round, out); });
  with_run(export_app);
  export_app->add_option("--round", round, "which round; default the newest");
  export_app->add_option("--out", out, "a new folder")->required();
}

void CommandLine::Audit(CLI::App* app) {
  CLI::App* audit_app = app->add_subcommand("audit", "what was done and what was refused")->require_subcommand(1);
  auto* verify = Command(audit_app, "verify", "check that no line of the audit log was changed or is missing",
                         [this](const auto& c) { return AuditVerify(c, expected); });
  verify->add_option("--expect", expected, "NUMBER:HASH of a line, as an earlier verify printed its head");
  auto* show =
      Command(audit_app, "show", "print the newest lines", [this](const auto& c) { return AuditShow(c, last); });
  show->add_option("--last", last, "how many")->capture_default_str();
}

// `heddle model …` is a program beside this one, since it links LibTorch.
int RunModelTool(char** argv) {
  std::error_code error;
  const auto tool = std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "heddle-model";
  ::execv(tool.c_str(), argv + 1);
  std::cerr << "heddle: cannot run " << tool.string() << ": "
            << (errno == ENOENT ? "it is not installed; it comes with the builds that train (./run build)"
                                : std::strerror(errno))
            << "\n";
  return 1;
}

int Main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "model") return RunModelTool(argv);
  CLI::App app("Administers a Heddle coordinator.", "heddle");
  CommandLine line;
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", std::string(VersionString()));
  app.add_option("-c,--config", line.config_path, "coordinator.toml")->capture_default_str();
  app.add_option("--config-set", line.config_settings, "key=value, over coordinator.toml (repeatable)");
  app.add_option("--format", line.format, "text or json")->check(CLI::IsMember({"text", "json"}));

  CLI::App* coordinator = app.add_subcommand("coordinator", "the coordinator itself")->require_subcommand(1);
  line.Command(coordinator, "init", "make the private authority and the server's certificate",
               [](const auto& c) { return CoordinatorInit(c); });
  line.Devices(&app);
  line.Runs(&app);
  line.Audit(&app);
  CLI::App* config = app.add_subcommand("config", "coordinator.toml")->require_subcommand(1);
  line.Command(config, "check", "read it and say what is wrong", [](const auto& c) {
    *c.out << "the configuration is fine\n";
    return OkStatus();
  });
  line.Command(config, "show", "every setting with its value and where it comes from",
               [](const auto& c) { return ConfigShow(c); });
  CLI::App* recipe = app.add_subcommand("recipe", "recipes")->require_subcommand(1);
  auto* check = line.Command(recipe, "check", "read a recipe and its base model, and say what is wrong",
                             [&line](const auto& c) { return RecipeCheck(c, line.recipe, Settings(line.settings)); });
  check->add_option("RECIPE", line.recipe, "recipe.toml")->required();
  check->add_option("--set", line.settings, "key=value, over the recipe (repeatable)");

  app.add_subcommand("model", "look at a model, evaluate it, complete a prompt, make an emulator (heddle model --help)")
      ->allow_extras()
      ->callback([] { throw UsageError("'model' must be the first word, and its options follow"); });

  try {
    app.parse(argc, argv);
    auto loaded = CoordinatorConfig::Load(line.config_path, Settings(line.config_settings));
    const bool needs_config = !recipe->parsed();
    if (!loaded.ok() && needs_config) {
      std::cerr << "heddle: " << loaded.status().message() << "\n";
      return 1;
    }
    CommandContext context;
    if (loaded.ok()) context.config = *std::move(loaded);
    context.json = line.format == "json";
    context.out = &std::cout;
    const Status status = line.action(context);
    if (status.ok()) return 0;
    std::cerr << "heddle: " << status.message() << "\n";
    return 1;
  } catch (const CLI::ParseError& error) {
    return ExitOfUsage(app, error);
  } catch (const UsageError& error) {
    std::cerr << "heddle: " << error.what() << "\n";
    return 2;
  }
}

}  // namespace
}  // namespace heddle::coordinator

int main(int argc, char** argv) {
  try {
    return heddle::coordinator::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "heddle: " << error.what() << "\n";
    return 1;
  }
}
