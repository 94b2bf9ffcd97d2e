// A run of three rounds with two devices, driven through RunCore in one thread: small enough to commit its state folder
// as a fixture, and the same in every process, so that a run continued from a fixture must end with the model of one
// that was never interrupted.
//
// Life cycle: Open, then Create or Resume; then Round or its parts. Throws std::runtime_error when something fails that
// must not. Thread-safety: none.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "coordinator/service/run_core.h"

namespace heddle::coordinator::testing {

// Stands still until `now` is set.
class HandClock final : public Clock {
 public:
  Time Now() const override { return now; }
  Time now = FromUnixMicros(1'764'000'000'000'000);
};

class SmallRun {
 public:
  static constexpr uint32_t kRounds = 3;
  static constexpr const char* kFirst = "anna";
  static constexpr const char* kSecond = "bert";

  // `state`: the state folder (coordinator.db, blobs/, runs/), made when absent.
  explicit SmallRun(std::filesystem::path state) : state_(std::move(state)) {}

  // Store and blobs. Errors: those of Store::Open and BlobStore::Open.
  Status Open();
  // Begins the run with a base model that is written to `folder`; `overrides` go over the recipe's keys.
  void Create(const std::filesystem::path& folder, const std::map<std::string, std::string>& overrides = {});
  // The same for others who begin it: writes the base model.
  static Submission Prepare(const std::filesystem::path& folder,
                            const std::map<std::string, std::string>& overrides = {});
  // Takes up the run that is running.
  void Resume();

  // The device asks for work and gets its task of the present round.
  void Checkin(const std::string& device);
  // Both ask: neither has a task before the other has asked too.
  void CheckinBoth();
  // The device hands in the update of its task and hears ACCEPTED.
  void Report(const std::string& device);
  // Both devices take part in one round, which commits.
  void Round();
  // A second passes.
  void Tick();
  void SetClockBack(Duration by) { clock_.Add(-by); }
  Time Now() const { return clock_.Now(); }

  Store& store() { return *store_; }
  BlobStore& blobs() { return *blobs_; }
  // Of a device that has been given a task and has not reported on it.
  const v1::TaskAssignment& task(const std::string& device) const { return tasks_.at(device); }
  RunCore& core() { return *core_; }
  bool running() const { return core_->running(); }
  RunRecord run() const { return core_->Progress().run; }
  std::filesystem::path folder() const { return core_->folder(); }

 private:
  // Stands still but for a second each time it is asked for by an event.
  class SteppingClock final : public Clock {
   public:
    Time Now() const override { return now_; }
    void Step() { now_ += Seconds(1); }
    void Add(Duration duration) { now_ += duration; }
    void NotBefore(Time time) { now_ = std::max(now_, time); }

   private:
    Time now_ = FromUnixMicros(1'764'000'000'000'000);
  };

  RunCoreOptions Options();
  void Feed(const Event& event);

  std::filesystem::path state_;
  SteppingClock clock_;
  Traffic traffic_;  // grows with each event
  std::unique_ptr<Store> store_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<RunCore> core_;
  PollToken next_token_ = 1;
  std::map<PollToken, std::string> asked_;  // waiting check-ins and reports
  std::map<std::string, v1::TaskAssignment> tasks_;
  std::map<std::string, v1::ReportResponse> verdicts_;
};

}  // namespace heddle::coordinator::testing
