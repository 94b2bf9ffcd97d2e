// A set of examples dealt to simulated devices, as files:
//
//   <folder>/<device>.jsonl        what the device trains on
//   <folder>/<device>.test.jsonl   what it is tested on, where device_test_fraction asks for it
//   <folder>/all.jsonl             all devices' training examples together, for a centralised run
//   <folder>/test.jsonl            held out from all, where there are test files or test_fraction asks for it
//   <folder>/split.json            who got how many examples of which label
//
// Pictures in place of texts are IDX pairs: <device>-images-idx3-ubyte and <device>-labels-idx1-ubyte, and so on.
//
// Files and not lists of numbers, because then a simulated device and a real one read the same thing. Each example is
// written twice at most, so a thousand devices cost as much disk as one.
//
// Thread-safety: one call at a time for a folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/status.h"
#include "simulator/partition/labelled_data.h"
#include "simulator/partition/partition.h"

namespace heddle::simulator {

struct SplitOptions {
  LabelledSource source;
  PartitionOptions partition;                     // num_devices is that of `devices`
  std::vector<std::string> devices;               // their names
  int64_t max_examples = 0;                       // so many of the examples, drawn by the seed; 0: all
  int64_t clusters = 10;                          // of "kmeans"
  double test_fraction = 0;                       // of the source's examples: held out for all, before max_examples
  double device_test_fraction = 0;                // of each device's: held out on the device
  std::vector<std::filesystem::path> test_files;  // instead of test_fraction
  int64_t max_test_examples = 0;                  // so many of the held-out ones, drawn by the seed; 0: all
  // Of the devices' training examples so many keep their labels, dealt evenly to so many devices, both drawn by the
  // seed; 0: all of them, and all devices.
  int64_t labelled_examples = 0, labelled_devices = 0;
};

struct Split {
  std::vector<std::filesystem::path> train;        // one a device
  std::vector<std::filesystem::path> device_test;  // one a device, or none at all
  std::filesystem::path all, test;                 // test is empty when nothing is held out
  std::vector<int64_t> sizes;                      // training examples of each device
  int64_t num_test = 0;
  std::vector<std::string> label_names;
};

// Writes the files. Errors: those of LabelledData, Partition, ClusterTexts and files.
Result<Split> WriteSplit(const SplitOptions& options, const std::filesystem::path& folder);

}  // namespace heddle::simulator
