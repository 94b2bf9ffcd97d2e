// Federated zeroth-order methods with shared seeds: what travels up is a scalar for each direction, what travels down
// is what the ledger has changed by; a message's size does not depend on the model's.
//
//   FedKSeed      (Qin et al., 2312.06353) pool_size seeds for the whole run; a device takes local_steps steps, each
//   along
//                 one of them drawn at random. n_k += sum over devices of N_c / N * its steps along k.
//   FedKSeed-Pro  (the same) seeds are drawn by their importance: the mean size of their scalars so far, scaled to 0 ..
//   1
//                 and put through a softmax, so that none is more than e times as likely as another.
//   DeComFL       (Li et al., 2405.15861) in each round all devices use the same new seeds: local_steps steps of
//                 num_perturbations directions each. n_r is the mean over the devices, each counting once.
//   BAFFLE        (Feng et al., 2301.12195) the same with one step of many directions (zo.num_perturbations), weighted
//   by
//                 examples: an estimate of the full gradient by Stein's identity.
//
//   FwdLLM        (Xu et al., 2308.13894) each device draws `candidates` directions at random, keeps the
//                 num_perturbations that are most like the model's last step (by the cosine over all trained tensors,
//                 with its sign) and sends their scalars. The model moves by the mean of all scalars once the
//                 gradient's variance is not above variance_threshold: the mean over elements of the variance of the
//                 two estimates from both halves of the scalars. All tensors count (in the authors' code one): with all
//                 their elements, or, in a model that has more than 65,536, each with its share of so many. Until then,
//                 and up to max_waiting of them, scalars wait in the state and devices are asked for more, on other
//                 batches (the paper: on the same). What is chosen by likeness is biased towards the last step, as
//                 momentum is: of the best tenth that component counts 3.25 times.
//
// trim (0 .. 0.5, 0.5 the median) and num_attackers (Krum, when above 0) make DeComFL and BAFFLE robust: on scalars
// both cost next to nothing. Krum needs 2 num_attackers + 3 updates, as it does elsewhere: a smaller cohort is refused
// (kInvalidArgument), a round that ends with fewer makes no model (kFailedPrecondition).
//
// Devices step by whole numbers of the ledger themselves (zo::StepOf), so with one device the next model is its own
// trajectory to the bit. Exact and independent of order.
//
// An update holds kScalarsName alone. It is refused with kWrongState when the digest of the weights that the device had
// rebuilt is not the round's.
#pragma once

#include "aggregation/method.h"

namespace heddle::aggregation {

Method FedKSeedMethod();
Method FedKSeedProMethod();
Method DeComFlMethod();
Method BaffleMethod();
Method FwdLlmMethod();

// Directions of a round of FwdLLM: devices draw theirs among them.
inline constexpr uint64_t kFwdLlmRoundSpan = uint64_t{1} << 20;

}  // namespace heddle::aggregation
