// The faked training of the simulated worlds: updates drawn from a seed, good ones and ones with every kind of flaw,
// and the model and the state of a round computed anew from the accepted updates with none of the code of aggregation/.
//
// Pure functions of their arguments; thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "aggregation/compression/compressor.h"
#include "aggregation/privacy/update_privacy.h"
#include "common/digest.h"
#include "common/state_dict.h"
#include "common/status.h"
#include "zo_optim/ledger/ledger.h"

namespace heddle::system_simulation {

// The bounds of the simulated recipes.
inline constexpr double kMaxAbs = 4.0;
inline constexpr double kMaxNorm = 6.0;
inline constexpr uint64_t kMaxExamples = 64;
inline constexpr uint32_t kLocalSteps = 8;  // of a task, before a second stage

// What a device may get wrong, on purpose or not.
enum class Flaw {
  kNone,
  kTruncatedFile,
  kNotSafetensors,
  kNan,
  kInfinity,
  kElementTooLarge,
  kNormTooLarge,
  kWrongShape,
  kWrongRank,
  kWrongDtype,
  kMissingTensor,
  kExtraTensor,
  kNoExamples,
  kTooManyExamples,
  kWrongSize,    // the report says another size than the file has
  kWrongDigest,  // the bytes are not those of the declared digest
  kTooLong,      // more bytes than the plan allows
  // Of devices that have a part of the model (layers.h); behind the others, so that these are drawn as ever.
  kOneLayerMore,  // than it was asked to train
  kOneLayerLess,
  kOtherPart,  // the layers that another device sends, or in another round
  // Of the worlds that MakesRareFlaws names.
  kWrongBase,  // a good one, whose report names another adapter than the task's
};
inline constexpr uint32_t kNumCommonFlaws = static_cast<uint32_t>(Flaw::kTooLong) + 1;
inline constexpr uint32_t kNumLayerFlaws = static_cast<uint32_t>(Flaw::kOtherPart) + 1 - kNumCommonFlaws;
inline constexpr uint32_t kNumFlaws = static_cast<uint32_t>(Flaw::kWrongBase) + 1;
const char* FlawName(Flaw flaw);
// The bytes of the update's digest are good ones, and a later report may name them. (Those of kWrongBase are of a
// training of their own.)
bool HasGoodBytes(Flaw flaw);

// The reasons with which such an update may be refused, by their number in heddle.v1.RefusalReason. `encoded`: the
// world's updates are made smaller, so that the bytes of other tensors are none of the task's.
const std::set<int>& ReasonsFor(Flaw flaw, bool encoded);

// What the seed alone decides of a world, each from a stream in which no kept seed is drawn or that was there before
// them. Its devices make their updates smaller, where these are tensors.
bool EncodesUploads(uint64_t seed);
// One in eight: its devices make kTooLong and kWrongBase too.
bool MakesRareFlaws(uint64_t seed);

using Values = std::map<std::string, std::vector<float>>;

struct MadeUpdate {
  Flaw flaw = Flaw::kNone;
  std::string bytes;
  Sha256Digest digest;        // as the device declares it
  uint64_t size_bytes = 0;    // as the report says
  uint64_t num_examples = 1;  // as the report says
  // Of one whose digest is that of good bytes, whatever is wrong with its report or the copy that is sent.
  std::shared_ptr<const Values> values;
  // Of such a one with shared seeds, whose values are empty: how far it steps along each direction.
  std::shared_ptr<const std::vector<zo::LedgerEntry>> steps;
};

// The update of one device for one task: the same for the same key. With a compressor in its encoded form; `values` are
// then what the coordinator decodes, and what cannot be encoded is forged. A good one is clipped and noised before, as
// `how` says.
MadeUpdate MakeUpdate(const StateDictSpec& model, uint64_t key, Flaw flaw, uint64_t max_update_bytes,
                      const compression::Compressor* compressor = nullptr, const privacy::UpdatePrivacy& how = {},
                      std::string_view secret = {});

// An update of these bytes with the flaws that concern its file and its report; `key` picks the number of examples.
MadeUpdate Wrapped(std::string bytes, uint64_t key, Flaw flaw, uint64_t max_update_bytes);

// Reads a model's values. Errors: those of ParseSafetensors.
Result<Values> ReadValues(const std::string& safetensors, StateDictSpec* spec);

// The methods of the simulated recipes, with their default settings: without a state, with one, with updates that are
// read again from a file, with a ledger in place of tensors (ledgers.h), and with parts of the model (layers.h).
enum class Method {
  kFedAvg,
  kFedAvgM,
  kFedAdam,
  kCoordinateMedian,
  kTrimmedMean,
  kFedKSeed,
  kDeComFl,
  kHeteroLayers,
  kFedBfpt,
  kFreezeLayers
};
inline constexpr uint32_t kNumTensorMethods = static_cast<uint32_t>(Method::kTrimmedMean) + 1;
inline constexpr uint32_t kNumMethods = static_cast<uint32_t>(Method::kFreezeLayers) + 1;
const char* MethodName(Method method);

// A committed version: the adapter's values, and what the method remembers with it; or a ledger and the values that it
// leads to.
struct Version {
  Values model, state;
  zo::Ledger ledger = {};
};

// The next version, from its parent and the accepted updates with their weights, in whatever order: each tensor from
// the updates that have it; one that none has stays. `max_updates` is the cohort's size.
Version NextVersion(Method method, const Version& parent,
                    const std::vector<std::pair<const Values*, uint64_t>>& accepted, uint64_t max_updates);

// The bytes of its files; the model's name those of the state. No state: an empty text.
struct VersionFiles {
  std::string model, state;
};
VersionFiles FilesOf(const StateDictSpec& spec, const Version& version);

// The digest of what devices get of it where downloads are rounded: bfloat16 by arithmetic, not by bits. `spec`: of
// what they get.
Sha256Digest RoundedFileOf(const StateDictSpec& spec, const Version& version);

}  // namespace heddle::system_simulation
