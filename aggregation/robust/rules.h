// The robust rules: what they make of a round's updates, whatever some of the devices sent. All end in
// next = float(parent + step) with the step in double; weights of devices count where it is said. Settings and their
// ranges are in each method's declaration.
//
//   CoordinateMedian  (Yin et al., 1803.01498) each element's median.
//   TrimmedMean       (the same) each element's mean without the floor(trim_fraction n) largest and smallest.
//   Krum, MultiKrum   (Blanchard et al., 1703.02757) the update, or the mean of num_selected updates (0: n - f), whose
//                     neighbours are nearest; n >= 2f + 3 with f = num_attackers.
//   Bulyan            (El Mhamdi et al., 1802.07927) n - 2f updates chosen by Krum one after the other, then of each
//                     element the mean of the n - 4f values nearest to the median; n >= 4f + 3.
//   GeometricMedian   (Pillutla et al., 1912.13445) smoothed Weiszfeld iterations from the mean, at most
//                     `max_iterations`, until the weights stand still.
//   FoolsGold         (Fung et al., 1808.04866) the mean weighted by how unlike all others a device has been over all
//                     rounds; its histories are in the state (fools_gold.h).
#pragma once

#include "aggregation/method.h"

namespace heddle::aggregation {

Method CoordinateMedianMethod();
Method TrimmedMeanMethod();
Method KrumMethod();
Method MultiKrumMethod();
Method BulyanMethod();
Method GeometricMedianMethod();
Method FoolsGoldMethod();

}  // namespace heddle::aggregation
