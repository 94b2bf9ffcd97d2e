// pretrain.toml: where the text comes from, and what is trained on it. Values; free of LibTorch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/status.h"
#include "model/architectures/architectures.h"

namespace heddle::model {

// Text from one package of the distribution.
struct CorpusSource {
  std::string package, what, licence;
  std::vector<std::string> paths;    // folders or files, relative to the root; searched recursively
  std::string ending;                // of the file names ("" = all); .gz and .dz files are unpacked
  std::string format;                // text, markdown, html, pod, quoted, json, wordnet, blocks, wml
  std::vector<std::string> exclude;  // parts of paths
};

struct PretrainSettings {
  std::string name, description, licence;
  uint64_t seed = 0;
  ModelSpec model = LlamaSpec();  // vocab_size is set from the tokenizer
  int64_t vocab_size = 2048;
  int64_t steps = 0, batch_size = 0, sequence_length = 0, warmup_steps = 0, threads = 1, checkpoint_seconds = 60;
  double learning_rate = 0, final_learning_rate = 0, weight_decay = 0, beta1 = 0.9, beta2 = 0.95, max_grad_norm = 1.0;
  std::vector<CorpusSource> sources;

  // Errors: kNotFound, kInvalidArgument with the key.
  static Result<PretrainSettings> Read(const std::filesystem::path& path);
};

}  // namespace heddle::model
