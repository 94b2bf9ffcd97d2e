// `heddle model eval`: what a model, and perhaps an adapter on it, is worth on a data set. Free of LibTorch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>

#include "common/status.h"

namespace heddle::client {

struct EvaluateSettings {
  std::filesystem::path folder, data,
      adapter;           // Hugging Face layout; a file or folder of examples; PEFT layout, or empty
  int64_t length = 0;    // tokens of a row; 0: 512, or what the model takes at most
  std::string device;    // "cpu" (also when empty) or "cuda"
  std::string dtype;     // of the frozen weights, by WeightTypeName; bfloat16 is also computed in
  unsigned threads = 0;  // 0: LibTorch's own number
  bool json = false;
};

// Prints the metrics of the model's head: perplexity; accuracy, F1 and Matthews' correlation; or Spearman's and
// Pearson's correlation and the squared error. Errors: those of EvaluateModel (client/worker/local_task.h);
// kInvalidArgument: a length that the model does not take.
Status EvaluateCommand(const EvaluateSettings& settings, std::ostream& out);

}  // namespace heddle::client
