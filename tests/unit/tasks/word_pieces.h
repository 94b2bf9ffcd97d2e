// A tokenizer.json of WordPiece over a few words, as BERT's.
#pragma once

#include <string>

namespace heddle::client {

inline constexpr const char* kWords[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the",  "film", "play", "was",
                                         "is",    "very",  "good",  "fine",  "bad",    "poor", ".",    "and"};

inline std::string TokenizerJson() {
  std::string vocabulary, added;
  for (int id = 0; id < 17; ++id) {
    const std::string entry = "\"" + std::string(kWords[id]) + "\"", comma = id > 0 ? ", " : "";
    vocabulary += comma + entry + ": " + std::to_string(id);
    if (id < 5) added += comma + "{\"id\": " + std::to_string(id) + ", \"content\": " + entry + ", \"special\": true}";
  }
  return "{\"added_tokens\": [" + added + R"(], "normalizer": {"type": "BertNormalizer", "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
              "max_input_chars_per_word": 100, "vocab": {)" +
         vocabulary + "}}}";
}

}  // namespace heddle::client
