// A small BERT on disk for tests: config.json, weights drawn from a seed, and a WordPiece tokenizer of the words of
// SampleText.
#pragma once

#include <boost/json.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::model {

inline std::string BertConfigJson(const std::string& architecture, int64_t layers = 2) {
  return R"({"architectures": [")" + architecture + R"("], "model_type": "bert", "hidden_size": 12,
    "num_hidden_layers": )" +
         std::to_string(layers) + R"(, "num_attention_heads": 3, "intermediate_size": 20, "vocab_size": 40,
    "max_position_embeddings": 64, "pad_token_id": 0})";
}

// `more`: words after those of SampleText; 40 with the special ones at most. Exceptions of the JSON library pass.
inline void WriteWordPieceFiles(const std::filesystem::path& folder, const std::vector<std::string>& more = {}) {
  namespace json = boost::json;
  std::vector<std::string> words = {"[PAD]", "[UNK]",  "[CLS]", "[SEP]",   "[MASK]", "the",  "a",     "old",
                                    "river", "weaver", "pulls", "threads", "over",   "and",  "under", "loom",
                                    "wool",  "cloth",  "is",    "blue",    "slow",   "then", "she",   "sings",
                                    "while", "rain",   "falls", "on",      "roofs",  "."};
  words.insert(words.end(), more.begin(), more.end());
  json::object vocabulary;
  json::array added;
  for (size_t id = 0; id < words.size(); ++id) {
    vocabulary[words[id]] = id;
    if (id < 5) added.push_back(json::object{{"id", id}, {"content", words[id]}, {"special", true}});
  }
  json::object tokenizer = json::parse(R"({"normalizer": {"type": "BertNormalizer", "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
              "max_input_chars_per_word": 100}})")
                               .as_object();
  tokenizer["added_tokens"] = std::move(added);
  tokenizer["model"].as_object()["vocab"] = std::move(vocabulary);
  Require(MakeDirectories(folder));
  Require(WriteFileAtomically(folder / "tokenizer.json", json::serialize(tokenizer)));
  Require(WriteFileAtomically(folder / "tokenizer_config.json",
                              R"({"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
                                  "pad_token": "[PAD]", "unk_token": "[UNK]"})"));
}

// A folder that a BertForMaskedLM is read from.
inline void WriteMaskedFolder(const std::filesystem::path& folder, const std::vector<std::string>& more = {},
                              uint64_t seed = 1) {
  const std::string config = BertConfigJson("BertForMaskedLM");
  WriteWordPieceFiles(folder, more);
  Require(WriteFileAtomically(folder / "config.json", config));
  Require(WriteSafetensors(folder / "model.safetensors", RandomWeights(ParseModelConfig(config).value(), seed)));
}

}  // namespace heddle::model
