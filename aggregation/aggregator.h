// The server half of a federated method: folds updates into a sum as they arrive and makes the next model from it.
//
// Life of an Aggregator, one per round attempt:
//   a. Made by MakeAggregator with the parent model (the adapter all devices started from).
//   b. Validate(update) for each arriving update; const and thread-safe, so validations run side by side.
//   c. Fold(update) for each update that is accepted; one at a time.
//   d. Finish() once; the aggregator is used up.
// The result depends on the set of folded updates only, to the bit: not on their order, threads or restarts
// (DESIGN 5.3). Free of LibTorch, Protobuf and sockets.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::aggregation {

// What travels beside an update's tensors.
struct UpdateInfo {
  uint64_t num_examples = 0;
};

// Bounds that every method checks. From the recipe.
struct AggregatorOptions {
  uint64_t max_num_examples = 1'000'000;  // per update; FedAvg's weight. At most 2^29.
  uint64_t max_updates = 65'536;          // folded into one sum; at most 2^24
  double max_abs = 16.0;  // |element| of an update; sets the fixed-point scale. Power of two is exact; > 0
  double max_norm = 0;    // L2 norm of the whole update; 0: no bound
  unsigned threads = 1;   // for Fold and Finish of large tensors; never changes a bit of the result
  std::map<std::string, std::string> method;  // the method's own settings: [strategy] keys it declares
};

// Why an update is refused. The numbers are those of heddle.v1.RefusalReason.
enum class Refusal : int {
  kNone = 0,
  kNotFinite = 11,
  kOutOfBounds = 12,
  kBadNumExamples = 13,
  kWrongTensors = 20,
  kWrongShape = 21,
  kWrongDtype = 22,
  kWrongRank = 23,
  kNormTooLarge = 24
};

struct Validity {
  Refusal refusal = Refusal::kNone;
  std::string message;  // what, in which tensor; empty when ok
  bool ok() const { return refusal == Refusal::kNone; }
};

class Aggregator {
 public:
  virtual ~Aggregator() = default;

  // Names, dtypes and shapes as the parent's, all values finite and within bounds, num_examples in 1 ..
  // max_num_examples. Reads every byte once. Thread-safe.
  virtual Validity Validate(const StateDict& update, const UpdateInfo& info) const = 0;

  // Adds an update that Validate accepted (the spec and num_examples are checked again; a failure changes nothing).
  // Errors: kInvalidArgument; kResourceExhausted after max_updates.
  virtual Status Fold(const StateDict& update, const UpdateInfo& info) = 0;

  virtual uint64_t num_folded() const = 0;
  virtual uint64_t total_examples() const = 0;

  // The next model: parent (+) the folded updates. Errors: kFailedPrecondition when nothing was folded;
  // kResourceExhausted (memory).
  virtual Result<StateDict> Finish() && = 0;
};

// Makes the aggregator of a method by its name in the recipe ("FedAvg"). `parent` is the committed adapter: F32
// tensors. Errors: kInvalidArgument for an unknown method (the nearest name is given), an unknown setting, or a parent
// that the method cannot aggregate (a dtype other than F32, non-finite values).
Result<std::unique_ptr<Aggregator>> MakeAggregator(std::string_view method, const StateDict& parent,
                                                   const AggregatorOptions& options);

// Names of all methods, sorted.
std::vector<std::string> AggregatorNames();

}  // namespace heddle::aggregation
