// `heddle model inspect`: what is in a model's folder, what it takes, and what adapters can be put on. Reads
// config.json, the tokenizer and the heads of the weights' files, loads no weights. Free of LibTorch.
#pragma once

#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

#include "common/status.h"
#include "model/config/memory_estimate.h"

namespace heddle::client {

struct InspectOptions {
  int64_t batch = 1, length = 0;  // length 0: 512, or what the model takes at most
  int64_t rank = 8;
  std::vector<std::string> target_modules;  // empty: those that are suggested
  std::string base_dtype;                   // of frozen weights, by WeightTypeName; empty: float32
  bool bf16 = false, checkpoint = false;
  bool json = false;
};

// Linear layers of one last name: "q_proj".
struct TargetGroup {
  std::string name;
  int64_t count = 0;
  int64_t in = 0, out = 0;  // of the first; `varies` when others differ
  bool varies = false;
  bool output = false;  // the head's: what "all-linear" leaves out
  bool suggested = false;
};
// In the order in which they first come in a layer. Suggested are the projections to queries and values (Hu et al.,
// 2106.09685), or the one matrix that holds both.
std::vector<TargetGroup> TargetGroups(const model::ModelSpec& spec);

// Errors: those of ReadModelConfig, Tokenizer::Read and ReadModelSafetensors (a folder without a tokenizer or weights
// is said, not refused), kInvalidArgument also for weights that are not the configuration's; kInvalidArgument: options
// out of range, targets that match nothing (the message lists the names).
Status InspectModel(const std::filesystem::path& folder, const InspectOptions& options, std::ostream& out);

}  // namespace heddle::client
