// `heddle model generate`: completes a prompt, token by token, with the keys and values of earlier tokens kept. Free of
// LibTorch, so that its users are too; the implementation uses it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>

#include "common/status.h"

namespace heddle::client {

struct GenerateSettings {
  std::filesystem::path folder, adapter;  // Hugging Face layout; PEFT layout, or empty
  std::string prompt;
  int64_t max_new_tokens = 128;
  double temperature = 0;  // 0: always the likeliest token
  int64_t top_k = 0;       // 0: all
  double top_p = 1;
  uint64_t seed = 0;
  std::string device;    // "cpu" (also when empty) or "cuda"
  std::string dtype;     // of the frozen weights, by WeightTypeName; bfloat16 is also computed in
  unsigned threads = 0;  // 0: LibTorch's own number
  bool json = false;     // one object at the end: {"text", "tokens"}
};

// Writes the text to `out` as it comes, without the prompt, and ends it with a newline; as JSON, with U+FFFD for each
// byte that is no UTF-8. To `said` goes a line where the model's positions end the text. What the tokenizer puts before
// a text is put before the prompt, what it puts behind is not. Errors: kNotFound, kInvalidArgument: one sentence about
// the model, the adapter, the tokenizer or a setting; kFailedPrecondition: no such device; kInternal: LibTorch failed.
Status GenerateText(const GenerateSettings& settings, std::ostream& out, std::ostream& said);

}  // namespace heddle::client
