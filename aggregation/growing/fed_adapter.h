// FedAdapter (AdaFL; Cai et al., 2205.10162): bottleneck adapters that begin in few layers and narrow, and grow where
// growing pays. Three groups of devices train side by side for trial_rounds rounds: one the adapter as it is, one with
// a layer more, one wider by width_step. The group that lowered the loss most for each second is gone on with, and the
// next trial begins from what it made.
//
// What counts: the loss of the devices' first batches, before they train on them. At a trial's begin all groups compute
// the same, so the mean over all devices is where they start; in its last round each group's own mean is where it has
// come to. Seconds are of the paper's cost model, from settings (a step: seconds_per_step + seconds_per_layer for each
// layer that has adapters; the adapter down and up at bytes_per_second), not of a clock: a choice must be the same
// after a restart and in the simulator. Losses are what devices report; equal ones count for the smaller adapter. A
// group of which no device reported in the last round is not chosen.
//
// Within its group an update is folded as FedAvg does. State: the loss at the trial's begin.
#pragma once

#include "aggregation/method.h"

namespace heddle::aggregation {

Method FedAdapterMethod();

}  // namespace heddle::aggregation
