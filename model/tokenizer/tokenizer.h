// Text to token ids and back. Byte-level BPE read from tokenizer.json (Hugging Face tokenizers). Free of LibTorch.
// Immutable after loading, so safe to share between threads. Never fails on text: any bytes can be encoded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "model/model_config.h"

namespace heddle::model {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::vector<int32_t> Encode(std::string_view text) const = 0;
  virtual std::string Decode(std::span<const int32_t> ids) const = 0;  // ids out of range are skipped
  virtual int64_t vocab_size() const = 0;                              // largest id + 1
  virtual int32_t bos_id() const = 0;                                  // -1: none
  virtual int32_t eos_id() const = 0;

  // From <folder>/tokenizer.json, and bos_token and eos_token from tokenizer_config.json where it is there. Encode adds
  // no special tokens of itself, but finds those written out in the text. Decode gives back the bytes that were
  // encoded, special tokens included (plus the space of add_prefix_space). Errors: kNotFound; kInvalidArgument (what is
  // wrong in it); kUnimplemented (a model type or pre-tokenizer that is not supported, by name).
  static Result<std::shared_ptr<const Tokenizer>> Read(const std::filesystem::path& folder);
  static Result<std::shared_ptr<const Tokenizer>> FromJson(std::string_view json);
};

// Ok when every id of the tokenizer has a row in the model's embedding; else kInvalidArgument.
Status CheckTokenizerFits(const LlamaConfig& config, const Tokenizer& tokenizer);

}  // namespace heddle::model
