// heddle-split-worker: computes a device's half of split learning. Started by heddle-split-client, which has the
// network and the keys; this has the model and the data.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <iostream>
#include <thread>

#include "client/split/pipe.h"
#include "client/split/setup.h"
#include "client/worker/worker_loop.h"
#include "common/build_info.h"
#include "common/logging.h"
#include "model/memory/tensor_memory.h"
#include "model/transformer/blas_check.h"

namespace heddle::client {
namespace {

// What the device's owner learns of a round.
void ReportStats(const protocol::SplitPlan& plan, const SplitDevice::Stats& stats) {
  const std::string correlation =
      plan.privacy.distance_correlation ? std::to_string(stats.distance_correlation) : "not asked for";
  Log(Severity::kInfo, "the steps of a round are done",
      {{"round", std::to_string(stats.round)},
       {"loss", std::to_string(stats.last_loss)},
       {"bytes_up", std::to_string(stats.bytes_up)},
       {"bytes_down", std::to_string(stats.bytes_down)},
       {"distance_correlation", correlation}});
}

Status Run(const std::string& plan_file, const std::string& data, const std::string& state,
           const std::string& compute_device, int output) {
  HEDDLE_ASSIGN_OR_RETURN(const protocol::SplitPlan plan, protocol::SplitPlan::LoadFile(plan_file));
  TaskResources resources;
  HEDDLE_ASSIGN_OR_RETURN(SplitDeviceOptions options, PrepareSplitDevice(plan, data, resources, state, compute_device));
  HEDDLE_ASSIGN_OR_RETURN(const auto device, SplitDevice::Make(std::move(options)));
  uint32_t reported = 0;  // rounds
  for (;;) {
    HEDDLE_ASSIGN_OR_RETURN(const std::optional<std::string> frame, ReadPipeFrame(STDIN_FILENO));
    if (!frame) return OkStatus();
    if (frame->empty()) {
      HEDDLE_RETURN_IF_ERROR(WritePipeFrame(output, ""));
      HEDDLE_RETURN_IF_ERROR(WritePipeFrame(output, device->Hello()));
      continue;
    }
    HEDDLE_ASSIGN_OR_RETURN(SplitDevice::Action action, device->Take(*frame));
    if (action.kind == SplitDevice::Action::Kind::kDone) return OkStatus();
    if (action.kind == SplitDevice::Action::Kind::kWait) {
      std::this_thread::sleep_for(std::chrono::milliseconds(action.retry_ms));
      HEDDLE_RETURN_IF_ERROR(WritePipeFrame(output, device->Hello()));
      continue;
    }
    if (const SplitDevice::Stats& stats = device->stats(); stats.step == plan.local_steps && stats.round > reported) {
      reported = stats.round;
      ReportStats(plan, stats);
    }
    while (action.kind == SplitDevice::Action::Kind::kSend) {
      HEDDLE_RETURN_IF_ERROR(WritePipeFrame(output, action.frame));
      HEDDLE_ASSIGN_OR_RETURN(action, device->Next());
    }
  }
}

int Main(int argc, char** argv) {
  CLI::App app("Computes a device's half of split learning for heddle-split-client");
  std::string plan, data, state, compute_device;
  app.add_option("--plan", plan, "the run's file")->required();
  app.add_option("--data", data, "the device's own data")->required();
  app.add_option("--state", state, "file that a restart goes on from");
  app.add_option("--compute-device", compute_device, "cpu, or cuda for the first GPU")->default_str("cpu");
  app.set_version_flag("--version", std::string(VersionString()));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  model::UseTensorMemory(model::kDeviceSpare);
  model::WarnOfSlowBlas();
  auto output = TakeStandardOutput();
  const Status status = output.ok() ? Run(plan, data, state, compute_device, output->get()) : output.status();
  if (status.ok()) return 0;
  std::cerr << "heddle-split-worker: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace heddle::client

int main(int argc, char** argv) {
  try {
    return heddle::client::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "heddle-split-worker: " << error.what() << "\n";
    return 1;
  }
}
