// heddle-simulate-split: a run of split learning in one process, a line of JSON a round.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <iostream>

#include "common/build_info.h"
#include "common/config.h"
#include "common/file.h"
#include "model/memory/tensor_memory.h"
#include "model/transformer/blas_check.h"
#include "simulator/corpus/kjv.h"
#include "simulator/split/split_run.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string plan, folder, test, kjv, compute_device = "cpu";
  std::vector<std::string> devices, settings;
};

int Fail(const Status& status, int exit) {
  std::cerr << "heddle-simulate-split: " << status.message() << "\n";
  return exit;
}

Result<std::map<std::string, fs::path>> Devices(const std::vector<std::string>& arguments) {
  std::map<std::string, fs::path> devices;
  for (const std::string& device : arguments) {
    const size_t equals = device.find('=');
    if (equals == std::string::npos || equals == 0) return InvalidArgument("--device takes NAME=FILE, not " + device);
    devices[device.substr(0, equals)] = device.substr(equals + 1);
  }
  return devices;
}

Result<SplitRunOptions> Prepare(const Arguments& arguments, std::map<std::string, fs::path> devices,
                                const std::map<std::string, std::string>& settings) {
  SplitRunOptions options;
  HEDDLE_ASSIGN_OR_RETURN(options.plan, protocol::SplitPlan::LoadFile(arguments.plan, settings));
  options.folder = arguments.folder;
  options.test_data = arguments.test;
  options.compute = arguments.compute_device;
  options.devices = std::move(devices);
  if (arguments.kjv.empty()) return options;
  std::vector<std::string> names;
  for (const KjvPart& part : KjvParts()) names.push_back(part.name);
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(arguments.kjv));
  HEDDLE_ASSIGN_OR_RETURN(const KjvFiles files, WriteKjv(arguments.kjv, names));
  for (size_t i = 0; i < names.size(); ++i) options.devices[names[i]] = files.parts[i];
  options.test_data = files.heldout;
  return options;
}

int Main(int argc, char** argv) {
  CLI::App app("Runs split learning in one process");
  Arguments arguments;
  app.add_option("plan", arguments.plan, "the run's file")->required();
  app.add_option("--folder", arguments.folder, "for the server's state and the rounds' adapters")->required();
  app.add_option("--device", arguments.devices, "NAME=FILE: a device and its data");
  app.add_option("--test", arguments.test, "held-out data");
  app.add_option("--kjv", arguments.kjv, "folder: the devices are parts of the King James Bible, written there");
  app.add_option("--compute-device", arguments.compute_device, "cpu, or cuda for the first GPU")->capture_default_str();
  app.add_option("--set", arguments.settings, "key=value of the plan");
  app.set_version_flag("--version", std::string(VersionString()));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  auto devices = Devices(arguments.devices);
  if (!devices.ok()) return Fail(devices.status(), 2);
  const auto settings = ParseSettings(arguments.settings);
  if (!settings.ok()) return Fail(settings.status(), 2);
  model::UseTensorMemory(model::kServerSpare);
  model::WarnOfSlowBlas();
  const auto options = Prepare(arguments, *std::move(devices), *settings);
  Status status = options.status();
  if (status.ok()) {
    status = RunSplit(*options, [](const SplitRound& round) {
               std::printf(
                   "{\"round\":%u,\"train_loss\":%.6f,\"test_loss\":%.6f,\"perplexity\":%.4f,\"steps\":%llu,"
                   "\"examples\":%llu,\"bytes_up\":%llu,\"bytes_down\":%llu,\"distance_correlation\":%.4f}\n",
                   round.round, round.train_loss, round.test_loss, std::exp(round.test_loss),
                   static_cast<unsigned long long>(round.steps), static_cast<unsigned long long>(round.examples),
                   static_cast<unsigned long long>(round.bytes_up), static_cast<unsigned long long>(round.bytes_down),
                   round.distance_correlation);
               std::fflush(stdout);
             }).status();
  }
  return status.ok() ? 0 : Fail(status, 1);
}

}  // namespace
}  // namespace heddle::simulator

int main(int argc, char** argv) {
  try {
    return heddle::simulator::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "heddle-simulate-split: " << error.what() << "\n";
    return 1;
  }
}
