// Methods that take a mean of the updates and do more with it than FedAvg. `mean` is weighted by num_examples unless
// said otherwise, d is an update, x the model. All compute in double from exact sums and round once to float32; what
// they remember is in their state, float32 too.
//
//   FedAvgM (Hsu et al., 1909.06335)      m = server_momentum m + mean(d);  x += server_learning_rate m
//   FedAdagrad, FedAdam, FedYogi (Reddi et al., 2003.00295, algorithm 2; no bias correction, v begins at tau^2):
//                                         m = beta_1 m + (1 - beta_1) mean(d);  x += server_learning_rate m / (sqrt(v)
//                                         + tau) v += mean(d)^2 | v = beta_2 v + (1 - beta_2) mean(d)^2 | v -= (1 -
//                                         beta_2) mean(d)^2 sign(v - mean(d)^2)
//   FedProx (Li et al., 1812.06127)       as FedAvg; devices are held to their start with proximal_mu
//   SCAFFOLD (Karimireddy et al., 1910.06378, option II): devices count equally. x += server_learning_rate mean(d);
//                                         c += |S| / N mean(c_i's change), with N = num_devices
//   FedNova (Wang et al., 2007.07481)     x += (sum p a) sum p d / a, a = what a device's steps add up to: their
//   number,
//                                         with local momentum rho (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho)
//   FedDyn (Acar et al., 2111.04263)      devices count equally. h -= alpha / N sum(d);  x += mean(d) - h / alpha
//   SPRY (Panchal et al., 2405.15551)     x += mean(d) tensor by tensor, over the devices whose group it is in
//   (layer_groups.h)
//   FedBPT (2310.01467)                   devices count equally. x += mean(d), but prompt_variance not below
//   min_sigma^2
#pragma once

#include "aggregation/method.h"

namespace heddle::aggregation {

Method FedAvgMMethod();
Method FedAdagradMethod();
Method FedAdamMethod();
Method FedYogiMethod();
Method FedProxMethod();
Method ScaffoldMethod();
Method FedNovaMethod();
Method FedDynMethod();
Method SpryMethod();
Method FedBptMethod();

}  // namespace heddle::aggregation
