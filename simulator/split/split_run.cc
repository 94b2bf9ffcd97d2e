#include "simulator/split/split_run.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <deque>
#include <set>

#include "client/split/setup.h"
#include "common/random.h"
#include "coordinator/split/setup.h"

namespace heddle::simulator {
namespace {

using client::SplitDevice;

class SplitRunner {
 public:
  explicit SplitRunner(const SplitRunOptions& options) : options_(options) {}

  Result<std::vector<SplitRound>> Run(const std::function<void(const SplitRound&)>& progress) {
    if (options_.devices.size() < options_.plan.devices_per_round) {
      return FailedPrecondition("a round needs " + std::to_string(options_.plan.devices_per_round) +
                                " devices, and there are " + std::to_string(options_.devices.size()) +
                                ": add devices, or make devices_per_round smaller");
    }
    HEDDLE_ASSIGN_OR_RETURN(auto prepared,
                            coordinator::PrepareSplitServer(options_.plan, options_.folder, options_.compute));
    server_part_ = prepared.part;
    HEDDLE_ASSIGN_OR_RETURN(server_, coordinator::SplitServer::Make(std::move(prepared)));
    for (const auto& [name, data] : options_.devices) {
      HEDDLE_ASSIGN_OR_RETURN(auto device,
                              client::PrepareSplitDevice(options_.plan, data, resources_, {}, options_.compute));
      device_part_ = device.part;
      device.secret = std::to_string(DeriveSeed(options_.plan.seed, "split secret", name));  // so that a run replays
      HEDDLE_ASSIGN_OR_RETURN(devices_[name], SplitDevice::Make(std::move(device)));
    }
    std::vector<SplitRound> rounds;
    const auto note = [&](uint32_t round) -> Status {
      HEDDLE_ASSIGN_OR_RETURN(const SplitRound noted, Noted(round));
      rounds.push_back(noted);
      if (progress) progress(noted);
      return OkStatus();
    };
    HEDDLE_RETURN_IF_ERROR(note(0));
    while (!server_->done()) {
      const uint32_t round = server_->round();
      // Once more for each attempt that is abandoned.
      for (uint32_t attempt = 0;
           attempt < coordinator::kMaxAbandonedAttempts && server_->failure().empty() && server_->round() == round;
           ++attempt) {
        if (options_.plan.server_mode == "parallel" || options_.plan.server_batch > 1) {
          HEDDLE_RETURN_IF_ERROR(AllAtOnce(round));
        } else {
          HEDDLE_RETURN_IF_ERROR(OneAfterTheOther(round));
        }
      }
      if (!server_->failure().empty()) return Aborted(server_->failure());
      if (server_->round() == round) {
        return FailedPrecondition("round " + std::to_string(round) + " does not end: of its " +
                                  std::to_string(options_.plan.devices_per_round) +
                                  " devices some are refused each time that they begin it");
      }
      HEDDLE_RETURN_IF_ERROR(note(round));
    }
    return rounds;
  }

 private:
  Status OneAfterTheOther(uint32_t round) {
    for (auto& [name, device] : devices_) {
      if (server_->round() != round || !server_->failure().empty()) break;
      HEDDLE_RETURN_IF_ERROR(OneRound(name, *device));
    }
    return OkStatus();
  }

  // Until the device waits for the next round.
  Status OneRound(const std::string& name, SplitDevice& device) {
    const uint32_t round = server_->round();
    std::deque<std::string> frames = {device.Hello()};
    while (server_->round() == round && !frames.empty()) {
      const std::string answer = server_->Handle(name, frames.front());
      frames.pop_front();
      HEDDLE_RETURN_IF_ERROR(Answered(device, answer, &frames).status());
    }
    return OkStatus();
  }

  // What the device has to send after an answer. False: it waits for the next round.
  static Result<bool> Answered(SplitDevice& device, const std::string& answer, std::deque<std::string>* frames) {
    using Kind = SplitDevice::Action::Kind;
    HEDDLE_ASSIGN_OR_RETURN(SplitDevice::Action action, device.Take(answer));
    if (action.kind == Kind::kWait || action.kind == Kind::kDone) return false;
    while (action.kind == Kind::kSend) {
      frames->push_back(action.frame);
      HEDDLE_ASSIGN_OR_RETURN(action, device.Next());
    }
    return true;
  }

  // All devices have the round together, a frame of each in the order of their names. Those for whom there is no place
  // ask again whenever nothing else happens: devices do so many times before anything else is due. Time stands still,
  // but where something waits for others.
  Status AllAtOnce(uint32_t round) {
    std::map<std::string, std::deque<std::string>> frames;
    for (const auto& [name, device] : devices_) frames[name] = {device->Hello()};
    std::map<uint64_t, std::string> owners;
    std::set<std::string> had, turned_away;  // who has had a place in this round, and who has asked for one in vain
    bool asked = false;                      // again, since the last pass
    uint64_t ticket = 0;
    for (bool moved = true; moved && server_->round() == round && server_->failure().empty();) {
      for (auto& [name, waiting] : frames) {
        for (; !waiting.empty(); waiting.pop_front()) {
          owners[++ticket] = name;
          server_->Submit(ticket, name, waiting.front(), now_);
        }
      }
      coordinator::SplitServer::Turn turn = server_->Advance(now_);
      auto replies = server_->TakeReplies();
      if (!turn.computed && replies.empty()) {
        if (!asked && !turned_away.empty()) {
          for (const std::string& name : turned_away) frames.at(name) = {devices_.at(name)->Hello()};
          turned_away.clear();
          asked = true;
          continue;
        }
        if (turn.wake) {
          now_ = std::max(now_, *turn.wake);
          turn = server_->Advance(now_);
          replies = server_->TakeReplies();
        }
      }
      if (turn.computed) asked = false;
      moved = turn.computed || !replies.empty();
      for (const auto& reply : replies) {
        const std::string& name = owners.at(reply.ticket);
        HEDDLE_ASSIGN_OR_RETURN(const bool goes_on, Answered(*devices_.at(name), reply.frame, &frames.at(name)));
        if (goes_on) {
          had.insert(name);
        } else if (!had.contains(name)) {
          turned_away.insert(name);
        }
      }
    }
    return OkStatus();
  }

  Result<SplitRound> Noted(uint32_t round) {
    SplitRound out;
    out.round = round;
    for (const auto& [name, device] : devices_) {
      const SplitDevice::Stats& stats = device->stats();
      out.train_loss += stats.last_loss / static_cast<double>(devices_.size());
      out.bytes_up += stats.bytes_up;
      out.bytes_down += stats.bytes_down;
      out.steps += stats.steps;
      out.examples += stats.examples;
      out.distance_correlation += stats.distance_correlation / static_cast<double>(devices_.size());
    }
    if (!options_.test_data.empty()) {
      HEDDLE_ASSIGN_OR_RETURN(out.test_loss, TestLoss());
    }
    return out;
  }

  // Of both parts, joined.
  Result<double> TestLoss() {
    const protocol::SplitPlan& plan = options_.plan;
    HEDDLE_ASSIGN_OR_RETURN(const auto device,
                            peft::SplitHalf::Make(device_part_, plan.device, server_->device_adapter()));
    HEDDLE_ASSIGN_OR_RETURN(const auto server,
                            peft::SplitHalf::Make(server_part_, plan.server, server_->server_adapter()));
    device->network()->eval();
    server->network()->eval();
    model::WeightOptions weights;
    weights.part = device_part_->spec.part;
    HEDDLE_ASSIGN_OR_RETURN(weights.device, model::DeviceFromName(options_.compute));
    HEDDLE_ASSIGN_OR_RETURN(const auto base, resources_.GetBase(plan.base_model, weights));
    HEDDLE_ASSIGN_OR_RETURN(const auto batches,
                            client::EvaluationBatches(options_.test_data, plan.sequence_length, base, resources_));
    torch::NoGradGuard no_grad;
    double sum = 0;
    int64_t counted = 0;
    for (;;) {
      HEDDLE_ASSIGN_OR_RETURN(std::optional<client::HeadBatch> batch, batches->Next());
      if (!batch) break;
      if (batch->counted == 0) continue;
      batch = batch->On(weights.device);
      const model::ModelInput told{.mask = batch->input.mask, .segments = batch->input.segments};
      if (told.segments.defined()) batch->input.positions = torch::Tensor();
      const torch::Tensor hidden = server->network()->Middle(device->network()->Front(batch->input), told);
      model::Transformer& tail = plan.u_shaped() ? device->network() : server->network();
      sum += tail->TailLoss(hidden, told, batch->targets).item<double>() * static_cast<double>(batch->counted);
      counted += batch->counted;
    }
    return counted > 0 ? sum / static_cast<double>(counted) : 0.0;
  }

  const SplitRunOptions& options_;
  client::TaskResources resources_;
  std::shared_ptr<const model::BaseWeights> device_part_, server_part_;
  std::unique_ptr<coordinator::SplitServer> server_;
  Duration now_{};
  std::map<std::string, std::unique_ptr<SplitDevice>> devices_;
};

}  // namespace

Result<std::vector<SplitRound>> RunSplit(const SplitRunOptions& options,
                                         const std::function<void(const SplitRound&)>& progress) {
  try {
    return SplitRunner(options).Run(progress);
  } catch (const c10::Error& error) {
    return Internal(std::string("LibTorch failed: ") + error.what_without_backtrace());
  }
}

}  // namespace heddle::simulator
