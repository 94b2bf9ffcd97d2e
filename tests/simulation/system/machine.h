// One device's machine in a simulated world: the real client session, and around it what the daemon does, on virtual
// time, with faked training. It can vanish and come back, with its journal, without it, or from a backup.
//
// Two machines may share one identity (a stolen token). Not thread-safe; one a world and machine.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "client/daemon/session.h"
#include "client/daemon/short_forms.h"
#include "model/parts/tensor_tree.h"
#include "tests/simulation/system/machine_disk.h"
#include "tests/simulation/system/network.h"
#include "tests/simulation/system/system_checker.h"

namespace heddle::system_simulation {

// How a machine is.
struct Nature {
  double slowness = 1;        // factor on training
  double clock = 1;           // its clock runs that much too slowly
  double fails = 0;           // a task ends as failed
  double interrupts = 0;      // or is interrupted
  double flaws = 0;           // an update has a flaw
  uint64_t inline_bytes = 0;  // smaller updates travel in their report
  double splits = 0;          // a file is fetched in two ranges
};

class Machine {
 public:
  Machine(size_t number, size_t identity, Timeline& time, Network& network, SystemChecker& checker, Nature nature,
          uint64_t seed);

  enum class Memory { kKept, kLost, kBackup };
  void Start(Memory memory);
  // Gone without a word.
  void Vanish();
  // The same, and its disk has what was synced and a part of the rest.
  void CutPower();
  // Until it is healed: nothing can be written, or nothing be read.
  void FillDisk() { full_ = true; }
  void FailReads() { unreadable_ = true; }
  void HealDisk() { full_ = unreadable_ = false; }
  bool alive() const { return session_ != nullptr; }
  // Of a file that it fetches a part has come.
  bool in_download() const { return !kept_.parts.empty(); }
  // It has stopped for good, with this sentence.
  const std::optional<Status>& stopped() const { return stopped_; }
  void TakeBackup() { backup_ = kept_; }
  void SetEligible(bool eligible);
  void BecomeGood() {
    nature_.flaws = nature_.fails = nature_.interrupts = 0;
    HealDisk();
  }

  size_t number() const { return number_; }
  const std::string& device() const { return peer_.device; }
  const protocol::Peer& peer() const { return peer_; }
  void SetSerial(std::string serial) { peer_.serial_hex = std::move(serial); }
  // Bodies of reports it has sent, for repetitions.
  const std::vector<std::string>& sent_reports() const { return sent_reports_; }

 private:
  struct UploadState {
    std::string assignment, location;
    bool asked;
  };

  void Tell(client::Event event);
  void Do(const client::ProbeWorker&);
  void Do(const client::CheckIn& action);
  void Do(const client::Fetch& action);
  void Do(const client::Train& action);
  void Do(const client::Upload& action);
  void Do(const client::Report& action);
  void Do(const client::Wait& action);
  void Do(const client::CancelOperation&);
  void Do(const client::SaveReport& action);
  void Do(const client::EndTask&);
  void Do(const client::Note& action);
  void Do(const client::Finish& action);

  using Task = std::shared_ptr<const v1::TaskAssignment>;
  void FetchNext(const Task& task);
  void FetchRange(const Task& task, const v1::BlobRef& blob, std::string have, uint64_t until);
  void FetchLedger(const Task& task, const v1::BlobRef& blob);
  void FetchWeights(const Task& task);
  using Tensors = std::shared_ptr<const std::vector<model::TensorFile>>;
  void FetchPart(const Task& task);
  void FetchTensor(const Task& task, Tensors tensors, size_t at);
  void Got(const v1::BlobRef& blob, const std::string& bytes);
  void TakePatch(const v1::BlobRef& blob, const std::string& patch);
  MadeUpdate Made(const v1::TaskAssignment& task, uint64_t key, Flaw flaw);
  void EndTraining(const v1::TaskAssignment& task);
  void BeginUpload(bool whole);
  void Patch(uint64_t offset, int patches);
  void UploadAnswered(Result<Network::Answer> answer, int patches);
  void Call(Request request, Network::Heard heard, Network::Cut cut = nullptr);
  void Later(Duration delay, std::function<void()> what);  // part of the operation under way
  void Failed(const Result<Network::Answer>& answer);
  void Failed(Status status);

  size_t number_;
  Timeline& time_;
  Network& network_;
  SystemChecker& checker_;
  Nature nature_;
  uint64_t seed_;
  protocol::Peer peer_;

  std::unique_ptr<client::Session> session_;
  uint64_t life_ = 0;
  uint64_t operation_ = 0;  // answers to earlier ones are not heard
  uint64_t call_ = 0;       // under way; 0: none
  bool training_ = false, waiting_ = false, fresh_ = false, dispatching_ = false, eligible_ = true;
  std::deque<client::Event> pending_;
  std::optional<Status> stopped_;
  std::optional<UploadState> upload_;
  client::ShortForms forms_;  // of every other machine
  v1::ReportRequest uploading_;
  MachineDisk kept_, backup_;
  bool full_ = false, unreadable_ = false;  // its disk
  std::optional<uint64_t> too_large_;       // in this life: what a task needs for which there was no memory
  std::map<std::string, Tensors> parts_;    // by trees and layers, which say all of it
  std::vector<std::string> sent_reports_;
};

}  // namespace heddle::system_simulation
