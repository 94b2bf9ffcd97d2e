// A small model, devices with texts, and a split server, in one process: frames go from one to the other as over a
// wire, unless a test has them lost.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "client/split/setup.h"
#include "common/logging.h"
#include "coordinator/split/setup.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle {

using Settings = std::map<std::string, std::string>;

inline Settings With(Settings settings, const Settings& more) {
  for (const auto& [key, value] : more) settings[key] = value;
  return settings;
}

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

// What each side computes on.
struct SplitCompute {
  std::string server = "cpu", device = "cpu";
};

class SplitWorld {
 public:
  explicit SplitWorld(const Settings& settings = {}, const std::string& toml = kPlan, SplitCompute compute = {})
      : compute_(std::move(compute)) {
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
    ++lives_;
    server.reset();
    auto options = coordinator::PrepareSplitServer(plan, folder() / "run", compute_.server);
    ASSERT_TRUE(options.ok()) << options.status();
    auto made = coordinator::SplitServer::Make(*std::move(options));
    ASSERT_TRUE(made.ok()) << made.status();
    server = *std::move(made);
  }

  void AddDevice(const std::string& name) {
    const bool own = data_files.contains(name);
    const std::filesystem::path data = own ? data_files.at(name) : folder() / (name + ".txt");
    if (!own && !std::filesystem::exists(data)) {
      model::Require(WriteFileAtomically(data, model::SampleText(3000, 100 + devices.size())));
    }
    auto options = client::PrepareSplitDevice(
        plan, data, resources_, keeps_state ? folder() / (name + ".state") : std::filesystem::path(), compute_.device);
    ASSERT_TRUE(options.ok()) << options.status();
    options->secret = name;
    auto made = client::SplitDevice::Make(*std::move(options));
    ASSERT_TRUE(made.ok()) << made.status();
    devices[name] = *std::move(made);
    next_[name] = {devices[name]->Hello()};
  }

  // One exchange of the device: its frame to the server and the answer back. False when it has nothing more to do.
  bool Turn(const std::string& name) {
    if (next_[name].empty()) return false;
    ++frames;
    const std::string frame = next_[name].front();
    next_[name].pop_front();
    sent = name + " " + frame;
    if (loses_request && loses_request(frames)) return Reconnect(name);
    const std::string answer = server->Handle(name, frame);
    if (loses_answer && loses_answer(frames)) return Reconnect(name);
    return Deliver(name, answer);
  }
  bool Deliver(const std::string& name, const std::string& answer) {
    if (before_delivery) before_delivery(name, answer);
    using Kind = client::SplitDevice::Action::Kind;
    auto action = devices[name]->Take(answer);
    EXPECT_TRUE(action.ok()) << name << ": " << action.status();
    if (!action.ok() || action->kind == Kind::kDone) return Stop(name);
    if (action->kind == Kind::kWait) {
      waited = true;
      return Reconnect(name);
    }
    while (action->kind == Kind::kSend) {
      next_[name].push_back(action->frame);
      most_ahead = std::max(most_ahead, next_[name].size());
      action = devices[name]->Next();
      EXPECT_TRUE(action.ok()) << name << ": " << action.status();
      if (!action.ok()) return Stop(name);
    }
    return true;
  }
  bool Reconnect(const std::string& name) {
    next_[name] = {devices[name]->Hello()};
    return true;
  }
  bool Stop(const std::string& name) {
    over_.insert(name);
    next_[name].clear();
    return false;
  }
  const std::string& Next(const std::string& name) { return next_[name].front(); }
  bool Done(const std::string& name) { return next_[name].empty(); }

  // All devices at once: what they have is submitted, and what waits for others waits until nobody else can come.
  // `silent` says of whom no frame comes any more. Until nothing happens. `after` is called after each answer; it and
  // the hooks may start the server anew.
  void AllAtOnce(const std::function<bool(const std::string&)>& silent = {},
                 const std::function<void(const std::string&)>& after = {}) {
    on_the_way_.clear();
    for (int guard = 0, idle = 0, calm = 0; guard < 20'000 && idle < 50; ++guard) {
      const bool skipped = SubmitAll(silent, &calm);
      auto turn = server->Advance(now);
      // Time passes when nobody else is there; who was cut off is soon back.
      if (!turn.computed && turn.wake && time_passes && calm == 0 && (!skipped || idle >= 5)) {
        now = std::max(now, *turn.wake);
        turn = server->Advance(now);
      }
      calm = std::max(0, calm - 1);
      const bool answered = DeliverAll(after, &calm);
      idle = turn.computed || answered ? 0 : idle + 1;
    }
  }

  // All that the devices have to send. Whether one of them is silent.
  bool SubmitAll(const std::function<bool(const std::string&)>& silent, int* calm) {
    bool skipped = false;
    for (const std::string& name : Names()) {
      if (silent && silent(name)) {
        skipped = true;
        continue;
      }
      while (!next_[name].empty()) {
        const std::string frame = next_[name].front();
        next_[name].pop_front();
        sent = name + " " + frame;
        ++frames;
        if (loses_request && loses_request(frames)) {
          *calm = kCalm;
          Reconnect(name);
          break;
        }
        on_the_way_[++ticket_] = {name, sent, frames};
        server->Submit(ticket_, name, frame, now);
      }
    }
    return skipped;
  }
  // Whether there was an answer of more than politeness.
  bool DeliverAll(const std::function<void(const std::string&)>& after, int* calm) {
    bool moved = false;
    const auto replies = server->TakeReplies();
    const int life = lives_;
    std::set<std::string> gone;  // their connections broke
    for (const auto& reply : replies) {
      const auto kind = protocol::KindOf(reply.frame);
      // Devices that only ask again and again do not count.
      moved = moved || (kind.ok() && *kind != protocol::FrameKind::kWelcome);
      const OnTheWay request = on_the_way_.at(reply.ticket);
      on_the_way_.erase(reply.ticket);
      if (gone.contains(request.device)) continue;
      sent = request.sent;
      if (loses_answer && loses_answer(request.frame)) {
        gone.insert(request.device);
        *calm = kCalm;
        Reconnect(request.device);
      } else {
        Deliver(request.device, reply.frame);
        if (after) after(request.device);
      }
      if (lives_ == life) continue;
      *calm = kCalm;  // the server has begun anew, and all connections are gone
      on_the_way_.clear();
      for (const std::string& name : Names()) {
        if (!over_.contains(name)) Reconnect(name);
      }
      return true;
    }
    return moved;
  }

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
  // Called with the answer that a device is about to get.
  std::function<void(const std::string& device, const std::string& answer)> before_delivery;
  // Of devices that are added from then on, in place of a text.
  std::map<std::string, std::filesystem::path> data_files;
  int frames = 0;
  std::string sent;  // the frame of the last turn, and whose it was
  Duration now{};
  bool time_passes = true;  // for what waits for others, in AllAtOnce
  size_t most_ahead = 0;
  bool waited = false;
  bool keeps_state = false;

 private:
  SplitCompute compute_;
  struct OnTheWay {
    std::string device, sent;
    int frame = 0;
  };
  static constexpr int kCalm = 5;

  TempDir dir_;
  int lives_ = 0;  // of the server
  uint64_t ticket_ = 0;
  std::map<uint64_t, OnTheWay> on_the_way_;  // AllAtOnce: by ticket
  std::set<std::string> over_;               // who has heard that the run is over
  client::TaskResources resources_;
  std::map<std::string, std::deque<std::string>> next_;  // what a device has made; empty: done
};

inline void ExpectSameBits(const StateDict& a, const StateDict& b) {
  ASSERT_EQ(SpecOf(a), SpecOf(b));
  for (const auto& [key, tensor] : a) {
    const auto left = tensor.bytes(), right = b.find(key)->second.bytes();
    EXPECT_TRUE(std::equal(left.begin(), left.end(), right.begin(), right.end())) << key;
  }
}

// The largest difference of two outcomes, relative to the largest value.
inline double RelativeDistance(const StateDict& a, const StateDict& b) {
  EXPECT_EQ(SpecOf(a), SpecOf(b));
  if (SpecOf(a) != SpecOf(b)) return INFINITY;
  double largest = 0, scale = 0;
  for (const auto& [key, tensor] : a) {
    const auto left = tensor.values<float>(), right = b.find(key)->second.values<float>();
    for (size_t i = 0; i < left.size(); ++i) {
      largest = std::max(largest, std::abs(double{left[i]} - right[i]));
      scale = std::max(scale, std::abs(double{left[i]}));
    }
  }
  return largest / scale;
}

// The largest difference of two elements.
inline double Distance(const StateDict& a, const StateDict& b) {
  EXPECT_EQ(SpecOf(a), SpecOf(b));
  double largest = 0;
  for (const auto& [key, tensor] : a) {
    const auto left = tensor.values<float>(), right = b.find(key)->second.values<float>();
    for (size_t i = 0; i < left.size(); ++i) largest = std::max(largest, std::abs(double{left[i]} - right[i]));
  }
  return largest;
}

}  // namespace heddle
