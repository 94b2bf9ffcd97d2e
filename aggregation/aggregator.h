// The server half of a federated method: folds updates into a sum as they arrive and makes the next model from it.
//
// Life of an Aggregator, one per round attempt:
//   a. Made by MakeAggregator with the parent model (what all devices started from) and the state the method kept.
//   b. Validate(update) for each arriving update; const and thread-safe, so validations run side by side.
//   c. Fold(update) for each update that is accepted; one at a time.
//   d. Finish() once; the aggregator is used up.
// The result depends on the set of folded updates only, to the bit: not on their order, threads or restarts
// (DESIGN 5.3). Free of LibTorch, Protobuf and sockets.
//
// A model is one StateDict: the adapter's tensors by their PEFT keys, and what a method adds for devices, under names
// that begin with kOwnPrefix (device_rules.h lists them). A state is what the server alone remembers of a method from
// round to round: moments, histories. An update holds "trained minus start", F32, of what the round's DeviceRules let
// travel.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "aggregation/device_rules.h"
#include "common/digest.h"
#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::aggregation {

// What travels beside an update's tensors.
struct UpdateInfo {
  uint64_t num_examples = 0;
  uint32_t num_steps = 0;   // optimizer steps taken; 0: not said
  int64_t rank = 0;         // of the low-rank factors that the device was given; 0: the model's
  std::string device = {};  // who sent it; unique among the updates of a sum, and the order where a method needs one
  uint32_t group = 0;       // of the trial that the device is in (growing/trials.h)
  uint32_t layers = 0;      // that it was given (parts/sub_models.h); 0: all, or as many as `layers_of` says
  double first_loss = std::numeric_limits<double>::quiet_NaN();  // of its first batch, before training; NaN: not said
};

// A method's own settings by name, as the recipe gives them.
using Settings = std::map<std::string, double, std::less<>>;

// How devices of a method with shared seeds train (ledger/methods.h): both halves compute steps from it.
struct ZerothOrderTraining {
  double learning_rate = 0;       // of the round
  double peak_learning_rate = 0;  // of all rounds; 0: that of the round
  uint32_t local_steps = 1, num_perturbations = 1;
  double epsilon = 1e-3;    // size of perturbations
  double max_scalar = 1e6;  // a larger one is refused; devices cut theirs to it
  bool rademacher = false;  // directions of signs, not of normals
  uint64_t DirectionsPerTask() const { return uint64_t{local_steps} * num_perturbations; }
  double RatePerDirection() const { return learning_rate / num_perturbations; }
};

// Bounds that every method checks. From the recipe.
struct AggregatorOptions {
  uint64_t max_num_examples = 1'000'000;  // per update; FedAvg's weight. At most 2^29.
  uint64_t max_updates = 65'536;          // folded into one sum; at most 2^24
  double max_abs = 16.0;  // |element| of an update; sets the fixed-point scale. Power of two is exact; > 0
  double max_norm = 0;    // L2 norm of the whole update; 0: no bound. A longer one is refused
  double clip_norm = 0;   // a longer one counts as the one of this length in its direction (clipping.h); 0: none does
  unsigned threads = 1;   // for Fold and Finish of large tensors; never changes a bit of the result
  Settings method;        // those that were given; a maker in the registry sees all, with their defaults
  // Patterns of tensors (device_rules.h) that are trained and stay on each device, beside those of the method.
  std::vector<std::string> kept = {};

  // What the round is.
  uint64_t seed = 0;    // of the run
  uint32_t round = 1;   // that is being made, from 1
  double scaling = 1;   // of low-rank factors: W = W0 + scaling B A
  uint64_t cohort = 0;  // updates that are asked for; 0: not known

  // The model of before the first round with the random draws of `round`: what devices start from after their factors
  // were folded into the base. Empty: the method cannot be used.
  std::function<Result<StateDict>(uint32_t round)> fresh_adapter;
  // Folder for nameless files of what need not stay in memory; empty: the system's for temporary files.
  std::filesystem::path scratch;
  // For methods with shared seeds. `parent_digest` is that of the file that the parent was read from; `load_model`
  // reads an earlier model by its digest.
  ZerothOrderTraining zo = {};
  Sha256Digest parent_digest = {};
  std::function<Result<StateDict>(const Sha256Digest&)> load_model;
  // The scaling of a module by its path ("model.layers.0.self_attn.q_proj"), where modules have different ones. Empty:
  // `scaling` for all.
  std::function<double(std::string_view module_path)> scaling_of;
  // How many layers a device can hold, for methods that give each as many (parts/sub_models.h). Empty, or 0: all.
  std::function<uint32_t(std::string_view device)> layers_of;
};

// Why an update is refused. The numbers are those of heddle.v1.RefusalReason.
enum class Refusal : int {
  kNone = 0,
  kBadUpdate = 10,
  kNotFinite = 11,
  kOutOfBounds = 12,
  kBadNumExamples = 13,
  kWrongTensors = 20,
  kWrongShape = 21,
  kWrongDtype = 22,
  kWrongRank = 23,
  kNormTooLarge = 24,
  kWrongState = 26
};

struct Validity {
  Refusal refusal = Refusal::kNone;
  std::string message;  // what, in which tensor; empty when ok
  bool ok() const { return refusal == Refusal::kNone; }
};

// What a round makes. `state` is empty when the method remembers nothing.
struct RoundModel {
  StateDict model, state;
};

class Aggregator {
 public:
  virtual ~Aggregator() = default;

  // Names, dtypes and shapes as UpdateSpec (device_rules.h) says, all values finite and within bounds, num_examples in
  // 1 .. max_num_examples. Reads every byte once. Thread-safe.
  virtual Validity Validate(const StateDict& update, const UpdateInfo& info) const = 0;

  // Adds an update that Validate accepted (the spec and num_examples are checked again; a failure changes nothing).
  // Errors: kInvalidArgument; kResourceExhausted after max_updates; those of the scratch file.
  virtual Status Fold(const StateDict& update, const UpdateInfo& info) = 0;

  virtual uint64_t num_folded() const = 0;
  virtual uint64_t total_examples() const = 0;

  // The next model: parent (+) the folded updates. Errors: kFailedPrecondition when nothing was folded;
  // kResourceExhausted (memory); those of the scratch file.
  virtual Result<RoundModel> Finish() && = 0;
};

// Makes the aggregator of a method by its name in the recipe ("FedAvg"). `parent` is the committed model, F32 tensors;
// `state` what the method gave for it (empty in the first round). Errors: kInvalidArgument for an unknown method or
// setting (the nearest name is given), a setting out of its range, or a parent or state that the method cannot use (a
// dtype other than F32, non-finite values, other shapes).
Result<std::unique_ptr<Aggregator>> MakeAggregator(std::string_view method, const StateDict& parent,
                                                   const AggregatorOptions& options, const StateDict& state = {});

// What devices are asked in options.round. Errors: as MakeAggregator for the name and the settings.
Result<DeviceRules> RulesOf(std::string_view method, const AggregatorOptions& options);

// The model of before the first round: `adapter` and what the method adds for devices from the start. Errors: as
// MakeAggregator; kInvalidArgument for an adapter that the method cannot begin with.
Result<StateDict> FirstModel(std::string_view method, const StateDict& adapter, const AggregatorOptions& options);

// ---- what methods there are ----

// A number that a recipe may give in [strategy].
struct Setting {
  std::string_view name, help;
  double value;        // by default
  double min, max;     // inclusive
  bool whole = false;  // no fractions
};

// Names of all methods, sorted.
std::vector<std::string> AggregatorNames();
// Of one method, in the order of its declaration; empty for an unknown one.
std::vector<Setting> SettingsOf(std::string_view method);

}  // namespace heddle::aggregation
