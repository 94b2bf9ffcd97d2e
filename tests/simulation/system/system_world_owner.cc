// The owner of the run in a simulated world, who gives it up before its end, whatever state it is in.
#include "tests/simulation/system/system_world.h"

namespace heddle::system_simulation {

// One world in ten, of which no kept one is; most runs take less than seven minutes.
std::optional<OwnersStop> SystemWorld::DrawStop(uint64_t seed) {
  const uint64_t draw = DeriveSeed(seed, "the owner stops the run", "");
  if (draw % 10 != 5) return std::nullopt;
  PhiloxStream random(draw);
  const bool patient = random.NextBelow(4) != 0;
  return OwnersStop{.after = std::chrono::milliseconds(random.NextBelow(patient ? 200'000 : 400'000)),
                    .patience = patient ? Seconds(400) : Seconds(0)};
}

void SystemWorld::PlanStop() {
  if (!stop_) return;
  const Time impatient_at = time_.true_now() + stop_->after + stop_->patience;
  time_.After(stop_->after, [this, impatient_at] {
    if (stop_->patience > Duration(0) && host_.up() && !faults_over_ && !disk_trouble_) {
      Kill();
      time_.Note("the blobs cannot be read");
      ++checker_.counts.happened["read error"];
      host_.FailReadsOfBlobs();
      disk_trouble_ = true;
      HealLater(Seconds(40));
    }
    TryToStop(impatient_at);
  });
}

// Until it is stopped, or has ended before.
void SystemWorld::TryToStop(Time impatient_at) {
  const auto progress = host_.up() ? host_.driver().Progress() : std::nullopt;
  const bool stands_still = progress && !progress->storage_error.empty();
  if (host_.up() && (stands_still || time_.true_now() >= impatient_at)) {
    const bool must = host_.database_works();
    const Status stopped = host_.StopRun(*checker_.run());
    time_.Note("the owner stops the run: " + std::string(CodeName(stopped.code())));
    if (stopped.ok()) {
      ++checker_.counts.happened["stopped run"];
      if (stands_still) ++checker_.counts.happened["stopped run that stood still"];
      return checker_.WasStopped();
    }
    if (stopped.code() == Code::kNotFound) return;
    // What cannot be read of the blobs does not keep anybody from ending.
    if (must && host_.up()) return checker_.Breach("the run cannot be stopped: " + stopped.ToString());
  }
  time_.After(std::chrono::milliseconds(300), [this, impatient_at] { TryToStop(impatient_at); });
}

bool SystemWorld::RunHasEnded() {
  if (!submitted_ || !host_.up()) return false;
  coordinator::RunRecord run;
  if (const auto progress = host_.driver().Progress()) {
    run = progress->run;
  } else if (const auto stored = host_.store().GetRun(*checker_.run()); stored.ok()) {
    run = stored->run;  // it ended before a restart
  }
  if (run.state == coordinator::RunState::kRunning) return false;
  const bool was_stopped = run.state == coordinator::RunState::kStopped && stop_;
  if (run.state != coordinator::RunState::kComplete && !was_stopped) {
    checker_.Breach("the run ended otherwise than complete: " + run.reason);
  }
  return true;
}

}  // namespace heddle::system_simulation
