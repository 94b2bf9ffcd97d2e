// A small model, devices with texts, and a split server, in one process: frames go from one to the other as over a
// wire, unless a test has them lost.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "client/split/setup.h"
#include "common/logging.h"
#include "coordinator/split/setup.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle {

using Settings = std::map<std::string, std::string>;

inline const char kPlan[] = R"(
base_model = "base"
seed = 5
rounds = 2
devices_per_round = 2
[split]
cut = 1
[train]
local_steps = 3
batch_size = 3
sequence_length = 16
[device]
r = 2
lora_dropout = 0.1
learning_rate = 0.02
[server]
r = 3
lora_dropout = 0.1
learning_rate = 0.02
)";

class SplitWorld {
 public:
  explicit SplitWorld(const Settings& settings = {}, const std::string& toml = kPlan) {
    LogOptions quiet;
    quiet.level = "error";
    EXPECT_TRUE(InitLogging(quiet).ok());
    std::filesystem::create_directory_symlink(BaseFolder(), folder() / "base");
    auto loaded = protocol::SplitPlan::LoadText(toml, folder(), "plan.toml", settings);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    plan = *std::move(loaded);
    StartServer();
    for (uint32_t i = 0; i < plan.devices_per_round; ++i) AddDevice("device-" + std::to_string(i));
  }

  const std::filesystem::path& folder() const { return dir_.path(); }
  // Made once for all worlds of the process.
  static const std::filesystem::path& BaseFolder() {
    static const TempDir dir;
    static const std::filesystem::path base = [] {
      model::ModelSpec spec = model::TinyConfig();
      spec.num_hidden_layers = 3;
      model::WriteModelFolder(dir.path() / "base", spec);
      return dir.path() / "base";
    }();
    return base;
  }

  void StartServer() {
    server.reset();
    auto options = coordinator::PrepareSplitServer(plan, folder() / "run");
    ASSERT_TRUE(options.ok()) << options.status();
    auto made = coordinator::SplitServer::Make(*std::move(options));
    ASSERT_TRUE(made.ok()) << made.status();
    server = *std::move(made);
  }

  void AddDevice(const std::string& name) {
    const std::filesystem::path data = folder() / (name + ".txt");
    if (!std::filesystem::exists(data)) {
      model::Require(WriteFileAtomically(data, model::SampleText(3000, 100 + devices.size())));
    }
    auto options = client::PrepareSplitDevice(plan, data, resources_,
                                              keeps_state ? folder() / (name + ".state") : std::filesystem::path());
    ASSERT_TRUE(options.ok()) << options.status();
    auto made = client::SplitDevice::Make(*std::move(options));
    ASSERT_TRUE(made.ok()) << made.status();
    devices[name] = *std::move(made);
    next_[name] = devices[name]->Hello();
  }

  // One exchange of the device: its frame to the server and the answer back. False when it has nothing more to do.
  bool Turn(const std::string& name) {
    if (next_[name].empty()) return false;
    ++frames;
    if (loses_request && loses_request(frames)) return Reconnect(name);
    const std::string answer = server->Handle(name, next_[name]);
    if (loses_answer && loses_answer(frames)) return Reconnect(name);
    auto action = devices[name]->Take(answer);
    EXPECT_TRUE(action.ok()) << name << ": " << action.status();
    if (!action.ok()) return Stop(name);
    switch (action->kind) {
      case client::SplitDevice::Action::Kind::kSend:
        next_[name] = action->frame;
        return true;
      case client::SplitDevice::Action::Kind::kWait:
        next_[name] = devices[name]->Hello();
        waited = true;
        return true;
      case client::SplitDevice::Action::Kind::kDone:
        break;
    }
    return Stop(name);
  }
  bool Reconnect(const std::string& name) {
    next_[name] = devices[name]->Hello();
    return true;
  }
  bool Stop(const std::string& name) {
    next_[name].clear();
    return false;
  }
  const std::string& Next(const std::string& name) { return next_[name]; }

  // Turns of all devices, one frame each in their order, until all are done; with `after` called after each.
  void Interleaved(const std::function<void(const std::string&)>& after = {}) {
    for (int guard = 0; guard < 20'000; ++guard) {
      bool any = false;
      for (const std::string& name : Names()) {
        if (!Turn(name)) continue;
        any = true;
        if (after) after(name);
      }
      if (!any) return;
    }
    FAIL() << "the devices are never done";
  }
  // Each device has its round to itself, one after the other.
  void OneAfterTheOther(const std::function<void(const std::string&)>& after = {}) {
    for (int guard = 0; guard < 1000 && !server->done(); ++guard) {
      for (const std::string& name : Names()) {
        waited = false;
        while (!waited && Turn(name)) {
          if (after) after(name);
        }
      }
    }
    for (const std::string& name : Names()) Turn(name);
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& [name, device] : devices) names.push_back(name);
    return names;
  }

  // What the run has made: both parts.
  StateDict Outcome() const {
    EXPECT_TRUE(server->done());
    StateDict out = server->device_adapter();
    for (const auto& [key, tensor] : server->server_adapter()) out.emplace(key, tensor);
    return out;
  }

  protocol::SplitPlan plan;
  std::unique_ptr<coordinator::SplitServer> server;
  std::map<std::string, std::unique_ptr<client::SplitDevice>> devices;
  std::function<bool(int frame)> loses_request, loses_answer;
  int frames = 0;
  bool waited = false;
  bool keeps_state = false;

 private:
  TempDir dir_;
  client::TaskResources resources_;
  std::map<std::string, std::string> next_;  // empty: done
};

inline void ExpectSameBits(const StateDict& a, const StateDict& b) {
  ASSERT_EQ(SpecOf(a), SpecOf(b));
  for (const auto& [key, tensor] : a) {
    const auto left = tensor.bytes(), right = b.find(key)->second.bytes();
    EXPECT_TRUE(std::equal(left.begin(), left.end(), right.begin(), right.end())) << key;
  }
}

}  // namespace heddle
