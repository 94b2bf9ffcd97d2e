// The low-rank family. Notation: device c has the factors B_c [d, r], A_c [r, k] after training and the share p_c of
// all examples; a layer is W0 + s B A, s the scaling. Devices of smaller ranks may take part in every method: columns
// that they do not have count as zero. Tensors that are not factors (a classifier) are averaged as FedAvg does.
//
//   FedIT      (Zhang et al., 2305.05644)   A = sum p A_c, B = sum p B_c: what most do. Not the mean of the products.
//   FFA-LoRA   (Sun et al., 2403.12313)     A stays as it was drawn, B = sum p B_c: exact, half of the bytes.
//   RoLoRA     (Chen et al., 2409.02346)    odd rounds B with A held, even rounds A with B held: exact, half of the
//   bytes. FedSA-LoRA (Guo et al., 2410.01463)     only A travels; B and, with keep_head, the head stay on their
//   device. FLoRA      (Wang et al., 2409.05976)    sum p s B_c A_c goes into the base, devices start from fresh
//   factors: exact.
//                                           warm_start: its best rank-r part stays in the adapter instead, exact too.
//   FedEx-LoRA (Singhal et al., 2410.09432) factors as FedIT, what they miss goes into the base: exact.
//   FlexLoRA   (Bai et al., 2402.11505)     the best rank-r approximation of sum p s B_c A_c: B = U S / s, A = V^T. The
//   HLoRA      (Liu et al., 2503.00813)     first r_c columns are the best of rank r_c, so each device gets its slice.
//                                           HLoRA is the same on the server.
//   SLoRA      (Babakniya et al., 2308.06522) for sparse_rounds rounds devices train sparse_density of each layer's
//                                           weight at random places; then the factors are the best rank-r approximation
//                                           of what that added up to, and it goes on as FedIT.
//   HetLoRA    (Cho et al., 2401.06432)     factors averaged with weights as |B_c A_c|_F of each module; devices prune
//                                           their own rank by prune_gamma where the tail has lost weight.
//   LoRA-FAIR  (Bian et al., 2411.14961)    factors as FedIT, then B + D with the D that minimises
//                                           |sum p B_c A_c - (B + D) A|_F^2 + fair_lambda |D|_F^2, in closed form.
#pragma once

#include "aggregation/method.h"

namespace heddle::aggregation::low_rank {

Method FedItMethod();
Method FfaLoraMethod();
Method RoLoraMethod();
Method FedSaLoraMethod();
Method FloraMethod();
Method FedExLoraMethod();
Method FlexLoraMethod();
Method HLoraMethod();
Method HetLoraMethod();
Method LoraFairMethod();
Method SLoraMethod();

}  // namespace heddle::aggregation::low_rank
