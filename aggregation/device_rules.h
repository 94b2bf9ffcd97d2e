// What a method asks of devices beside training: which tensors stay as they are, which never leave the device, what is
// added to the gradient; and what follows for the model that a device gets and the update it must send. Pure functions.
//
// Names of tensors under kOwnPrefix, beside the adapter's in a model or an update:
//   heddle.base_delta.<module path>.lora_A.weight [R, in], .lora_B.weight [out, R]: frozen factors that belong to the
//     base, W = W0 + B A (in models)
//   heddle.dense.<module path> [n], heddle.dense_seed: values at random places of a weight, part of the base's too
//     (common/sparse_delta.h; in models). They are trained and travel unless the rules freeze them ("heddle.dense")
//   heddle.trial.<g>.<key>, heddle.reserve.<key>: adapters of other groups of devices, and what adapters grow from
//     (growing/trials.h; in models, and never in what a device gets)
//   heddle.figure.<name> [1]: what the round that made the model found out (figures.h; in models); devices ignore it
//   heddle.control.<key>: the control variate of a trained tensor, in its shape (in models; its change in updates)
//   heddle.state.sha256 [32] U8: which state belongs to the model; devices ignore it
//   heddle.ledger U8: in place of an adapter, what it is the replay of (ledger/ledger_model.h)
// Thread-safe as any pure function.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::aggregation {

inline constexpr std::string_view kOwnPrefix = "heddle.";
inline constexpr std::string_view kControlPrefix = "heddle.control.";
inline constexpr std::string_view kBaseDeltaPrefix = "heddle.base_delta.";
inline constexpr std::string_view kFigurePrefix = "heddle.figure.";
inline constexpr std::string_view kStateDigestName = "heddle.state.sha256";

// What is added to the gradient of a device's steps.
enum class Correction : uint8_t {
  kNone,
  kScaffold,  // c - c_i (Karimireddy et al., 1910.06378, option II); the device keeps c_i
  kFedDyn,    // the device keeps the sum of its past gradients (Acar et al., 2111.04263)
};

// Directions that all devices and the coordinator know by number (ledger/methods.h): a device sends scalars in place of
// tensors.
struct SharedSeeds {
  bool on = false;
  uint64_t seed = 0;       // of the ledger
  uint32_t pool_size = 0;  // 0: the round's directions follow one another from first_ref on
  uint64_t first_ref = 0;
  uint32_t resolution_bits = 30;  // zo_optim/ledger/ledger.h
  uint64_t span = 0;              // with candidates: how many they are drawn from, from first_ref on
  uint32_t candidates = 0;        // for each step, to choose its directions among; 0: the device does not choose
  bool bfloat16 = false;          // how scalars travel; else float32
  friend bool operator==(const SharedSeeds&, const SharedSeeds&) = default;
};

struct DeviceRules {
  // Patterns of keys, see MatchesAny. What is frozen is not trained; what is kept is trained and stays on the device,
  // from one of its tasks to the next. Neither is in an update.
  std::vector<std::string> frozen, kept;
  Correction correction = Correction::kNone;
  double feddyn_alpha = 0;  // with kFedDyn
  double proximal_mu = 0;   // FedProx: the gradient gets proximal_mu (w - w_start)
  // HetLoRA: a device may send fewer rows of A and columns of B than it was given, at least one; it prunes its rank by
  // this factor when the tail has lost weight. 0: it sends all.
  double prune_gamma = 0, prune_lambda = 0;
  SharedSeeds seeds = {};
  bool mixed_ranks = false;  // devices of smaller ranks than the model's may take part
  uint32_t groups = 0;       // of devices that train adapters of their own side by side (growing/trials.h); 0: none
  uint32_t trial = 0;        // which devices are in which group is drawn anew for each trial
  friend bool operator==(const DeviceRules&, const DeviceRules&) = default;
};

// Whether a device's steps are its gradients times learning rates, as SCAFFOLD's control variates take them to be.
bool IsPlainSgd(std::string_view optimizer, double momentum, double weight_decay);

// Whether one of the patterns has its components (common/dotted_name.h) in the key: "lora_A", "classifier",
// "layers.0.self_attn".
bool MatchesAny(const std::vector<std::string>& patterns, std::string_view key);

// "....lora_A.weight" and "....lora_B.weight" of the adapter itself, not those under kOwnPrefix.
bool IsLoraA(std::string_view key);
bool IsLoraB(std::string_view key);

// The model for a device whose factors have `rank`: lora_A[:rank], lora_B[:, :rank]; every other tensor as it is, and
// factors of no more than `rank` too. rank 0: all. Tensors that are not cut share their bytes with `model`.
StateDict DeviceModel(const StateDict& model, int64_t rank);

// One tensor of that model.
Tensor CutToRank(std::string_view key, const Tensor& tensor, int64_t rank);

// What the update of a device with that rank must hold: the trained tensors that travel, and with kScaffold the control
// variate of each.
StateDictSpec UpdateSpec(const StateDictSpec& model, const DeviceRules& rules, int64_t rank);

}  // namespace heddle::aggregation
