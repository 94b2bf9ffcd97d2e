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
// Pearson's correlation and the squared error; and how many tokens were evaluated ("tokens": of a language model those
// that it was asked for) and, of a causal model, how many the data have ("data_tokens"). Every token of a running text
// but the first is asked for once, in a last, shorter window too. Errors: those of EvaluateModel
// (client/worker/local_task.h); kInvalidArgument: a length that the model does not take, texts without a token to ask
// for.
Status EvaluateCommand(const EvaluateSettings& settings, std::ostream& out);

}  // namespace heddle::client
