// Text to token ids and back. Free of LibTorch. Immutable after loading (but for a bounded cache of words), so safe to
// share between threads. Never fails on text: any bytes can be encoded.
//
// Encode and Decode are the plain form: nothing is added, cut or padded. EncodeText and EncodePair give what a model
// takes: with its special tokens, token types and masks. What a file says about truncation and padding is not applied:
// the caller knows what the model is used for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/status.h"
#include "model/config/model_spec.h"
#include "model/tokenizer/encoding.h"
#include "model/tokenizer/post_processor.h"

namespace heddle::model {

// Ids of tokens with a meaning; -1: there is none.
struct SpecialTokens {
  int32_t bos = -1, eos = -1, unknown = -1, pad = -1, cls = -1, sep = -1, mask = -1;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Adds no special tokens, but finds those written out in the text (not for SentencePiece models, in which they are no
  // text).
  virtual std::vector<int32_t> Encode(std::string_view text) const = 0;
  // Special tokens are written out. Ids out of range are skipped. Of byte-level tokenizers without a normalizer the
  // result is the bytes that were encoded (plus the space of add_prefix_space); others give UTF-8 that reads alike.
  virtual std::string Decode(std::span<const int32_t> ids) const = 0;

  // Errors: kInvalidArgument (max_length has no room for the special tokens; the text that truncation may cut is
  // missing or too short).
  Result<Encoding> EncodeText(std::string_view text, const EncodeOptions& options = {}) const;
  Result<Encoding> EncodePair(std::string_view first, std::string_view second, const EncodeOptions& options = {}) const;
  // Without the tokens that IsSpecial() says.
  std::string DecodeText(std::span<const int32_t> ids) const;

  int64_t vocab_size() const { return static_cast<int64_t>(texts_.size()); }  // largest id + 1
  const SpecialTokens& special() const { return special_; }
  int32_t bos_id() const { return special_.bos; }  // -1: none
  int32_t eos_id() const { return special_.eos; }
  // What pads: the pad token, else eos, else 0.
  int32_t pad_id() const;
  bool IsSpecial(int32_t id) const;
  // The token's text, of byte-level tokenizers its bytes; empty for ids that are not used.
  const std::string& TextOf(int32_t id) const;

  // From what is in the folder, in this order: tokenizer.json; vocab.txt; vocab.json with merges.txt; tokenizer.model
  // or spiece.model (SentencePiece). tokenizer_config.json, where it is there, says which tokens begin and end a text,
  // and for the older files what the tokenizer does. Errors: kNotFound; kInvalidArgument (what is wrong in which file);
  // kUnimplemented (a component that is not supported, by name); kResourceExhausted (a file over 64 MiB).
  static Result<std::shared_ptr<const Tokenizer>> Read(const std::filesystem::path& folder);
  // From the text of a tokenizer.json.
  static Result<std::shared_ptr<const Tokenizer>> FromJson(std::string_view json);

 protected:
  struct Common {
    std::vector<std::string> texts;    // by id
    std::vector<int32_t> special_ids;  // of IsSpecial()
    SpecialTokens special;
    PostProcessor post_processor;
  };
  explicit Tokenizer(Common common);
  const std::vector<std::string>& texts() const { return texts_; }

 private:
  std::vector<std::string> texts_;
  std::vector<bool> is_special_;
  SpecialTokens special_;
  PostProcessor post_processor_;
};

// Ok when every id of the tokenizer has a row in the model's embedding; else kInvalidArgument.
Status CheckTokenizerFits(int64_t vocab_size, const Tokenizer& tokenizer);
Status CheckTokenizerFits(const ModelSpec& config, const Tokenizer& tokenizer);

}  // namespace heddle::model
