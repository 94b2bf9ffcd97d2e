// Learning from few labels: most devices have none, and label examples of their own with the model of a round. The
// server's half is a mean; what is its own is the pace, which follows from the round's number alone:
//
//   FeS (Cai et al., 2212.05974)    every `infer_every` rounds (f) about `infer_devices` (n) of the round's devices
//                                   label anew, each at most k, 2 k, 3 k … examples (`infer_samples`, growing with each
//                                   such round), the surest of representative ones whose logit reaches `min_logit`
//   LP-FL (Jiang et al., 2307.13896) after `warmup_rounds` every device labels all that it has, in each round, and
//                                   trains on the probabilities
//
// A device that has nothing to train on sends zeros and says that it took no step: it does not weigh anything. When no
// device of a round took a step the model stays.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "aggregation/method.h"

namespace heddle::aggregation {

// What devices of a round do with examples of theirs that nobody labelled.
struct PseudoLabelling {
  bool on = false;
  // Share of the round's devices that label anew before they train (drawn by LabelsNow); 0 in other rounds.
  double share = 0;
  uint32_t samples = 0;                               // examples that a device labels at most
  std::optional<double> min_logit;                    // of the class that is chosen
  bool soft = false;                                  // probabilities in place of the choice
  uint32_t neighbours = 0, candidates = 0, pool = 0;  // as heddle.v1.PseudoLabels
};

// In options.round, with the method's defaults for settings that are not given; off for other methods.
PseudoLabelling LabellingOf(std::string_view method, const AggregatorOptions& options);

// Whether a device labels anew in that round: drawn by the run's seed, the round and the device's name, so that neither
// a restart nor another device changes it. Pure.
bool LabelsNow(const PseudoLabelling& labelling, uint64_t run_seed, uint32_t round, std::string_view device);

Method FesMethod();
Method LpFlMethod();

}  // namespace heddle::aggregation
