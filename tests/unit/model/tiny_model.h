// Small models in Hugging Face's layout, made in code: random weights, a tokenizer learnt from generated text. For
// tests and benchmarks, which must not depend on files outside the repository. Free of LibTorch. Throws when a write
// fails.
#pragma once

#include <array>
#include <cmath>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "model/architectures/architectures.h"
#include "model/tokenizer/bpe_trainer.h"
#include "model/tokenizer/tokenizer.h"

namespace heddle::model {

inline ModelSpec TinyConfig() {
  ModelSpec config = LlamaSpec();
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 320;
  config.max_position_embeddings = 64;
  config.norm_eps = 1e-5;
  config.tie_word_embeddings = true;
  config.bos_token_id = config.eos_token_id = 0;
  return config;
}

// As small as the checks of a base model allow.
inline ModelSpec SmallestConfig(int64_t vocab_size) {
  ModelSpec config = TinyConfig();
  config.hidden_size = 8;
  config.intermediate_size = 8;
  config.num_hidden_layers = 1;
  config.num_attention_heads = 2;
  config.num_key_value_heads = 1;
  config.head_dim = 4;
  config.vocab_size = vocab_size;
  return config;
}

// Uniform with standard deviation `deviation`; norms are one.
inline StateDict RandomWeights(const ModelSpec& config, uint64_t seed, float deviation = 0.1F) {
  StateDict weights;
  for (const auto& [name, spec] : config.WeightSpec()) {
    std::vector<float> values(static_cast<size_t>(*NumElements(spec.shape)), 1.0F);
    if (spec.shape.size() > 1 || name.ends_with(".bias")) {
      const PhiloxStream random(DeriveSeed(seed, "test weights", name));
      const float bound = deviation * std::sqrt(3.0F);
      for (size_t i = 0; i < values.size(); ++i) values[i] = (2 * random.UniformAt(i) - 1) * bound;
    }
    weights.emplace(name, Tensor::FromFloats(spec.shape, values));
  }
  return weights;
}

// Sentences of common words in documents of a few lines, so that there is something to learn. At least `bytes` long.
inline std::string SampleText(size_t bytes, uint64_t seed) {
  constexpr std::array<const char*, 24> kWords = {
      "the",   "a",  "old",  "river", "weaver", "pulls", "threads", "over",  "and",  "under", "loom", "wool",
      "cloth", "is", "blue", "slow",  "then",   "she",   "sings",   "while", "rain", "falls", "on",   "roofs"};
  PhiloxStream random(seed);
  std::string text;
  while (text.size() < bytes) {
    for (uint32_t lines = 1 + random.NextBelow(4); lines > 0; --lines) {
      const uint32_t words = 5 + random.NextBelow(9);
      // Each word tends to be followed by the next of the list: text with a pattern.
      uint32_t word = random.NextBelow(kWords.size());
      for (uint32_t i = 0; i < words; ++i) {
        text += std::string(i > 0 ? " " : "") + kWords[word];
        word = random.NextBelow(4) == 0 ? random.NextBelow(kWords.size()) : (word + 1) % kWords.size();
      }
      text += ".\n";
    }
    text += "\n";
  }
  return text;
}

inline std::string TinyTokenizerJson(int64_t vocab_size) {
  BpeTrainer trainer;
  trainer.Add(SampleText(20'000, 1));
  BpeTrainerOptions options;
  options.vocab_size = vocab_size;
  options.special_tokens = {"<|endoftext|>"};
  auto json = trainer.Train(options);
  if (!json.ok()) throw std::runtime_error(json.status().ToString());
  return *std::move(json);
}

inline void Require(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

// config.json, model.safetensors, tokenizer.json and tokenizer_config.json.
inline void WriteModelFolder(const std::filesystem::path& folder, const ModelSpec& config, uint64_t seed = 1,
                             float deviation = 0.1F) {
  Require(MakeDirectories(folder));
  Require(WriteFileAtomically(folder / "config.json", LlamaConfigJson(config)));
  Require(WriteSafetensors(folder / "model.safetensors", RandomWeights(config, seed, deviation)));
  Require(
      WriteFileAtomically(folder / "tokenizer.json", TinyTokenizerJson(std::min<int64_t>(config.vocab_size, 2048))));
  Require(WriteFileAtomically(folder / "tokenizer_config.json",
                              R"({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})"));
}

}  // namespace heddle::model
