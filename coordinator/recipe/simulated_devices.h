// [simulation] of a recipe: the simulated devices, their data, and how long the virtual world lets their tasks take.
// Runs over TLS ignore it. A value.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "coordinator/recipe/device_profile.h"

namespace heddle::coordinator {

struct SimulatedDevices {
  std::vector<std::string> names;  // devices = ["device-1", …]; with num_devices: "device-001" and so on
  // source: "files" (one a device), "kjv" (the devices are its parts), or "split" (examples dealt by `partition`).
  std::string source = "files";
  std::vector<std::filesystem::path> data;  // relative to the recipe; with "split": the files that are dealt

  // With "split" (simulator/partition/partition.h, split.h).
  std::string partition = "uniform";
  double alpha = 1;
  uint64_t labels_per_device = 1, clusters = 10;
  uint64_t min_examples = 0;                             // after Load: train.batch_size where the recipe says 0
  uint64_t max_examples = 0;                             // 0: all
  uint64_t labelled_examples = 0, labelled_devices = 0;  // that keep their labels; 0: all
  std::vector<std::string> columns, text_fields, label_names;
  std::string label_field = "label", group_field;

  // What the models are tested on: files, or with "split" a share of the examples.
  std::vector<std::filesystem::path> test_data;
  double test_fraction = 0, device_test_fraction = 0;
  uint64_t max_test_examples = 0;  // 0: all
  uint64_t eval_every = 0;         // rounds from one test to the next; 0: after the last round only

  double seconds_per_step = 0.1;                            // virtual time of a training step
  double download_bytes_per_s = 0, upload_bytes_per_s = 0;  // of each device; 0: transfers take no virtual time
  double watts = 0, radio_watts = 0;                        // of each, while it computes, while it sends or receives
  double memory_limit_mb = 0;                               // of each, as worker.memory_limit_mb; 0: none
  std::vector<DeviceProfile> profiles;                      // at least one: "device" where the recipe names none
  double speed_spread = 0;         // devices are up to this factor slower, drawn by seed: 0 all equal
  double failure_probability = 0;  // a task ends as interrupted, drawn by seed
  double attackers = 0;            // share of the devices that send something else than what they learnt, drawn by seed
  std::string attack = "sign_flip";  // what: attack_scale times the opposite, or noise of that many times its length
  double attack_scale = 1;
  unsigned threads = 0;        // worker threads; 0: the machine's cores
  std::string device = "cpu";  // what computes: "cpu" or "cuda"
};

}  // namespace heddle::coordinator
