// Which example goes to which simulated device. Every example is on exactly one device, and every device has at least
// `min_examples`. A split depends on its arguments only, on every machine (draws.h).
//
//   method             a device gets                                              known in the literature as
//   uniform            an equal share, at random                                  IID
//   dirichlet          an equal share; how much of it of which label is its own   label-Dirichlet, "niid_label": Hsu et
//                      draw from Dirichlet(alpha x the labels' frequencies);      al., 1909.06335; FedNLP, 2104.08815
//                      a label that is used up is drawn no more
//   dirichlet_classes  of each label a share of Dirichlet(alpha) over devices, so  Yurochkin et al., 1905.12022; Li et
//                      that sizes differ too                                      al., 2102.02079; FedML
//   quantity           a share of Dirichlet(alpha) over devices, at random        quantity skew, "niid_quantity":
//   FedNLP label              examples of `labels_per_device` labels only; a label is    pathological split, "#C = k":
//   McMahan
//                      shared equally by the devices that have it                 et al., 1602.05629; Li et al.
//   natural            whole groups (a speaker, a writer), the largest ones       natural clients: LEAF, 1812.01097
//                      first, each to the device that has least
//   kmeans             as dirichlet, with clusters of like texts for labels       feature skew: FedNLP
//
// Thread-safety: functions of their arguments.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"

namespace heddle::simulator {

struct PartitionOptions {
  std::string method = "uniform";
  int64_t num_devices = 1;
  double alpha = 1;               // above 0: small ones make devices differ, large ones make them alike
  int64_t labels_per_device = 1;  // of "label"
  int64_t min_examples = 1;       // of every device; what lacks comes from the largest ones
  uint64_t seed = 0;
};

// What is known of the examples. Of `labels` and `groups` each is empty where there are none, else has a number from 0
// to one below num_labels (num_groups) for every example.
struct PartitionInput {
  int64_t num_examples = 0;
  std::vector<int32_t> labels, groups;
  int32_t num_labels = 0, num_groups = 0;
};

// Indices of examples, ascending, for each device. Errors: kInvalidArgument: the method is not known (with the nearest
// name), there are fewer examples than devices x min_examples, the method needs labels or groups that are not there,
// labels_per_device is more than there are labels or too few to give every label to some device, there are fewer groups
// than devices, a device's groups are together below min_examples.
Result<std::vector<std::vector<int64_t>>> Partition(const PartitionInput& input, const PartitionOptions& options);

std::vector<std::string> PartitionNames();
// Whether the method looks at labels, at groups, at the texts themselves.
bool PartitionNeedsLabels(const std::string& method);
bool PartitionNeedsGroups(const std::string& method);
bool PartitionNeedsClusters(const std::string& method);

}  // namespace heddle::simulator
