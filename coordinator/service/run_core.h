// One run, driven: the engine with its store, its blobs and its sum. This is the code between the pure engine and the
// world, and it is the same in the service and in the simulator.
//
// It writes the engine's steps in one transaction and only then acts on them: folds updates, makes and stores models,
// writes the run folder, and hands back the answers that waiting devices are to get. Several events may share a
// transaction, and so its wait for the disk: Take each, then Commit. To the engine that is the same as a world in which
// effects take a little longer.
//
// Life cycle: Create or Resume; Take and Commit (or Handle, both in one) for events, and a TickEvent at NextDeadline();
// when state() is no longer kRunning the run has ended and the object only answers late reports. When Commit fails (the
// disk), the answers of all waiting polls are lost and the engine has been, or will be, rebuilt from what is stored.
//
// Thread-safety: none; one thread or strand owns it. The validator and open_assignments() alone may be used from any.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "aggregation/aggregator.h"
#include "common/clock.h"
#include "coordinator/engine/engine.h"
#include "coordinator/recipe/checkpoint.h"
#include "coordinator/recipe/recipe.h"
#include "coordinator/service/open_assignments.h"
#include "coordinator/service/round_loss_watch.h"
#include "coordinator/service/run_files.h"
#include "coordinator/service/update_reader.h"
#include "coordinator/store/blob_store.h"
#include "coordinator/store/store.h"
#include "protocol/v1/device.pb.h"

namespace heddle::coordinator {

// What a poll or a report is answered with. A Status is a refusal: kNotFound (no such assignment), kPermissionDenied
// (another device's), kUnavailable.
using Answer = std::variant<v1::CheckinResponse, v1::ReportResponse, Status>;
struct AddressedAnswer {
  PollToken token = 0;
  Answer answer;
};

// What metrics, progress and logs want to hear of. Called on the owner's thread.
struct RunObserver {
  std::function<void(const RoundRecord& round, std::span<const AssignmentRecord> assignments)> round_ended;
  std::function<void(const RunRecord& run)> run_ended;
};

struct RunCoreOptions {
  Store* store = nullptr;  // not owned; outlive the core
  BlobStore* blobs = nullptr;
  const Clock* clock = nullptr;
  std::filesystem::path runs_folder;  // one folder a run is made in it
  std::filesystem::path run_folder;   // when not empty: the run's own folder instead
  std::filesystem::path scratch;      // for nameless files of the aggregation; empty: the system's for temporary files
  unsigned aggregation_threads = 1;
  std::function<Traffic()> traffic;  // bytes moved for devices since the program started; may be empty
  RunObserver observer;
};

// A recipe as it was submitted.
struct Submission {
  std::string recipe_text;
  std::filesystem::path folder;                  // what the recipe's paths are relative to
  std::map<std::string, std::string> overrides;  // key -> value, over the text
};

struct RunProgress {
  RunRecord run;
  uint32_t rounds = 0;
  uint32_t round = 0, attempt = 0;  // the present ones
  RoundPhase phase = RoundPhase::kSelecting;
  size_t waiting = 0, open = 0, accepted = 0;
  uint32_t cohort_size = 0;  // of the present round
  uint64_t max_update_bytes = 0;
  std::optional<double> last_train_loss;  // of the newest committed round; none where no device told one
  bool loss_stalled = false;              // round_loss_watch.h
  std::string storage_error;              // why the run stands still, as storage_state() has it; empty: it does not
  Traffic traffic;                        // since this program took the run up
};

// The content of a small update that came inside its report; null: none.
// The blob of the weights that a ledger stands for.
struct WeightsBlob {
  Sha256Digest digest;
  uint64_t bytes = 0;
  friend bool operator==(const WeightsBlob&, const WeightsBlob&) = default;
};

using InlineContent = std::shared_ptr<const std::string>;

// What an aggregator is told beside the update of a device that was given this view of the model.
aggregation::UpdateInfo UpdateInfoOf(const DeviceView& view, const DeviceId& device, const ReportMetrics& metrics);

class RunCore {
 public:
  // Starts a run: reads the recipe, puts the base model's files, the adapter's configuration and the initial adapter
  // into the blobs, makes the run's folder, and writes the run. Once it is written it goes on, whatever the disk says
  // (ready, folder_state). Errors: those of Recipe::LoadText, PrepareRun and the store (kAlreadyExists:
  // the same recipe with the same seed has been run here; kFailedPrecondition: another run is active).
  static Result<std::unique_ptr<RunCore>> Create(RunCoreOptions options, const Submission& submission);

  // Takes up a stored run; also where its folder cannot be written (folder_state), and where its blobs cannot be read
  // for the moment (ready). Errors: kNotFound, kDataLoss; the store's.
  static Result<std::unique_ptr<RunCore>> Resume(RunCoreOptions options, const RunId& id);

  // The engine takes the event up; nothing of it is written or answered before Commit. `content` goes with a report.
  void Take(const Event& event, InlineContent content = nullptr);
  // Writes what was taken and acts on it. Errors: the storage failed, as above.
  Result<std::vector<AddressedAnswer>> Commit();
  // Take and Commit.
  Result<std::vector<AddressedAnswer>> Handle(const Event& event, InlineContent content = nullptr);
  std::optional<Time> NextDeadline() const;
  // Stops a run while it is not ready: what keeps its engine from being rebuilt may last. Returns how it has ended,
  // which may have been stored before. Afterwards only MendFolder and questions. Errors: the store's; kDataLoss: rows
  // that make no engine, which end the run as failed at the next start.
  Result<RunState> StopUnready(const std::string& reason);

  const RunId& id() const { return origin_.spec.id; }
  const RunSpec& spec() const { return origin_.spec; }
  bool running() const { return !engine_ || engine_->run().state == RunState::kRunning; }
  // False after storage failed under a step, until the next Handle has rebuilt the engine.
  bool ready() const { return engine_.has_value(); }
  // What failed; ok while ready.
  const Status& storage_state() const { return storage_state_; }
  // As it was when it was taken up, and without rounds, while not ready.
  RunProgress Progress() const;
  const std::filesystem::path& folder() const { return files_.folder(); }
  // Why the folder does not tell all that is stored; ok when it does. It is tried again by itself (NextDeadline), and
  // rounds go on meanwhile.
  const Status& folder_state() const { return folder_state_; }
  // Writes what the folder lacks, if it lacks anything and it is time to try; `now_too`: whether or not it is time.
  void MendFolder(bool now_too = false);
  const Recipe& recipe() const { return recipe_; }

  // True when the present attempt has this assignment and it is open; such a report's update needs a look.
  bool IsOpen(const AssignmentId& id, const DeviceId& device) const;
  bool Holds(const AssignmentId& id) const;

  std::shared_ptr<const OpenAssignments> open_assignments() const { return open_assignments_; }

  // What goes with a device's update into Validate and the sum.
  aggregation::UpdateInfo UpdateInfoOf(const AssignmentRecord& assignment) const;

  // Checks an update's tensors; Validate() may be called from any thread while this object lives or not.
  std::shared_ptr<const aggregation::Aggregator> validator() const { return aggregator_; }

  // Reads updates for the validator; as thread-safe. Null before the first round and when the sum could not be begun.
  std::shared_ptr<const UpdateReader> reader() const { return reader_; }

  // Whether devices may fetch the blob: the base model, the adapter's configuration, the newest models of this run.
  bool IsPublished(const Sha256Digest& digest) const { return published_.contains(digest); }
  const std::set<Sha256Digest>& published() const { return published_; }
  // The method's states of the present round's model and the one before: blobs that no row names and no device gets.
  const std::set<Sha256Digest>& states() const { return states_; }
  // The weights that published ledgers stand for, by the ledger's digest; published too.
  const std::map<Sha256Digest, WeightsBlob>& ledger_weights() const { return ledger_weights_; }

 private:
  explicit RunCore(RunCoreOptions options) : options_(std::move(options)), files_({}) {}

  Status Prepare(const Submission& submission, RunMaterial* material);
  Status TakeUp(const StoredRun& stored);
  Status Rebuild(std::vector<AddressedAnswer>* answers);
  Status RecallLosses();
  Status Execute(std::vector<Step> steps, std::vector<AddressedAnswer>* answers);
  Status Write(const std::vector<Step>& steps);
  // Errors: the model cannot be read. Then what was noted before stays; what was not is noted without a start.
  Status NoteOpen(const AssignmentRecord& assignment, const Sha256Digest& parent);
  void NoteOpenAssignments(const Step& step);

  void On(const AssignEffect& effect, std::vector<AddressedAnswer>* answers, std::vector<Event>* next);
  void On(const RejectEffect& effect, std::vector<AddressedAnswer>* answers, std::vector<Event>* next);
  void On(const VerdictEffect& effect, std::vector<AddressedAnswer>* answers, std::vector<Event>* next);
  void On(const UnknownAssignmentEffect& effect, std::vector<AddressedAnswer>* answers, std::vector<Event>* next);
  void On(const FoldEffect& effect, std::vector<AddressedAnswer>* answers, std::vector<Event>* next);
  void On(const CommitEffect& effect, std::vector<AddressedAnswer>* answers, std::vector<Event>* next);
  void On(const ResetSumEffect& effect, std::vector<AddressedAnswer>* answers, std::vector<Event>* next);
  void On(const RoundEndedEffect& effect, std::vector<AddressedAnswer>* answers, std::vector<Event>* next);
  void On(const RunEndedEffect& effect, std::vector<AddressedAnswer>* answers, std::vector<Event>* next);

  // The adapter of `parent` as a device with that view gets it; made once, and published. Errors: the storage's.
  Result<AdapterBlobs> ViewOf(const Sha256Digest& parent, const DeviceView& of);
  // The ledger that `parent` holds, published with the weights that it stands for. Nothing: `parent` is an adapter.
  Status PublishWeights(const StateDict& parent, const Sha256Digest& ledger);
  Result<std::optional<v1::BlobRef>> LedgerView(const StateDict& parent, Sha256Digest* start);
  // What training starts from there: the digest of the ledger, or of the adapter. Writes nothing.
  Result<Sha256Digest> StartOf(const Sha256Digest& parent, const DeviceView& of) const;
  // Its configuration and tensors.
  Result<Checkpoint> MakeView(const Sha256Digest& parent, const DeviceView& of) const;
  // The same before it is rounded.
  Result<Checkpoint> MakeFloatView(const Sha256Digest& parent, const DeviceView& of) const;
  void PublishAround(const Sha256Digest& parent, const Sha256Digest& model);
  Result<StateDict> LoadModel(const Sha256Digest& digest) const;
  Result<StateDict> LoadState(const StateDict& model);
  Result<StateDict> LoadUpdate(const AssignmentRecord& assignment) const;
  Status Fold(const AssignmentRecord& assignment);
  Result<Sha256Digest> MakeModel();
  Status ResetSum(const Sha256Digest& parent, uint32_t round);
  // One of the blobs that every attempt of the round starts from, held against its digest.
  Result<std::shared_ptr<const MappedFile>> MapStart(const Sha256Digest& digest);
  // The sum or the model could not be made. Where the disk is to blame for the moment (full, no descriptors, not
  // writable), the step fails, and the next one rebuilds and tries again: accepted updates are not thrown away.
  // `for_good`: what every attempt of the round starts from is lost.
  void SpoilSum(const Status& status, uint32_t round, uint32_t attempt, std::vector<Event>* next,
                bool for_good = false);
  void WriteRound(const RoundEndedEffect& effect, const Traffic& traffic);
  // Writes what the folder lacks. False: not all of it yet.
  Result<bool> WriteFolder(uint64_t most_bytes);
  void FolderIs(Status status);
  Time NextMend() const;
  // `at`; now, where it lies further off than it can: it was set when the clock stood elsewhere.
  Time NotLaterThanIn(Duration most, Time at) const;
  std::filesystem::path FolderOf(const RunId& run) const {
    return options_.run_folder.empty() ? options_.runs_folder / run.value() : options_.run_folder;
  }
  // Storage failed: the engine is rebuilt at the next event.
  void GoOnFromWhatIsStored(const Status& status);
  Traffic TrafficNow() const { return options_.traffic ? options_.traffic() : Traffic{}; }

  RunCoreOptions options_;
  Recipe recipe_;
  RunOrigin origin_;
  RunRecord taken_up_;  // as it was then
  RunMaterial material_;
  RunFiles files_;
  std::optional<Engine> engine_;  // empty after storage failed, until it has been rebuilt
  // Taken, not committed.
  std::vector<Step> taken_;
  // Of reports among them, which need not all be of one mind.
  std::map<std::pair<AssignmentId, Sha256Digest>, InlineContent> contents_;
  std::vector<AddressedAnswer> early_answers_;  // of a rebuild among them
  Status take_state_;                           // why what was taken cannot be committed
  std::shared_ptr<OpenAssignments> open_assignments_ = std::make_shared<OpenAssignments>();
  std::shared_ptr<aggregation::Aggregator> aggregator_;
  std::shared_ptr<const UpdateReader> reader_;  // of the same round
  Status sum_state_;                            // why the sum of this attempt is of no use
  Status storage_;                              // what the disk would not do for an effect of the step under way
  Status storage_state_;                        // why there is no engine
  std::set<Sha256Digest> always_published_;     // the base model, the adapter's configuration
  std::set<Sha256Digest> published_;
  std::map<std::pair<Sha256Digest, DeviceView>, AdapterBlobs> views_;
  std::map<Sha256Digest, WeightsBlob> ledger_weights_;
  std::set<Sha256Digest> states_;  // of the present round's model and the one before
  std::optional<double> last_train_loss_;
  RoundLossWatch loss_watch_;
  Traffic start_traffic_, round_traffic_;
  // What the run folder could not take up: why, when to try again, and what of it the store does not know.
  Status folder_state_;
  Time mend_folder_at_{};
  Time rebuild_at_{};             // while there is no engine
  bool restoring_ = false;        // what was accepted earlier is folded again
  bool start_lost_ = false;       // what every attempt starts from is gone, or damaged
  std::set<Sha256Digest> known_;  // not hashed again: put by the commit before, or hashed when a round before began
  Duration rebuild_pause_ = Seconds(1);  // doubled each time in vain
  TrafficOfRounds unwritten_traffic_;
};

// Answers a report when no run has been taken up. Errors: the storage failed.
Result<AddressedAnswer> AnswerReportWithoutRun(Store& store, Time now, const ReportEvent& event);

}  // namespace heddle::coordinator
