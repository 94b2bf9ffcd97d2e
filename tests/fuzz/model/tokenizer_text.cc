// Any bytes as a text: encoded and decoded, they are the same bytes. With the tokenizer of the corpus' own making: a
// few merges, and added tokens of which one begins another.
#include <array>
#include <string>

#include "model/tokenizer/bpe_trainer.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using heddle::model::Tokenizer;

namespace {

std::shared_ptr<const Tokenizer> MakeTokenizer() {
  heddle::model::BpeTrainer trainer;
  trainer.Add(
      "In the beginning God created the heaven and the earth. And the earth was without form, and void; and "
      "darkness was upon the face of the deep. And the Spirit of God moved upon the face of the waters.");
  heddle::model::BpeTrainerOptions options;
  options.vocab_size = 320;
  options.special_tokens = {"<|endoftext|>", "<|end", "<s>", "\n\n"};
  const auto json = trainer.Train(options);
  Require(json.ok(), "the tokenizer can be trained", json.status().message());
  const auto tokenizer = Tokenizer::FromJson(*json);
  Require(tokenizer.ok(), "and read", tokenizer.status().message());
  return *tokenizer;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::shared_ptr<const Tokenizer> tokenizer = MakeTokenizer();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::vector<int32_t> ids = tokenizer->Encode(text);
  Require(ids.size() <= size, "no more tokens than bytes");
  Require(tokenizer->Decode(ids) == text, "decoding gives the text back");
  // Long enough for the cache of words, which must change nothing.
  if (size > 0 && size < 512) {
    std::string repeated;
    while (repeated.size() < 5000) repeated.append(text).append(" x ");
    Require(tokenizer->Decode(tokenizer->Encode(repeated)) == repeated, "long texts too");
  }
  std::string joined;
  for (std::string_view word : heddle::model::SplitWords(text)) {
    Require(!word.empty(), "words are not empty");
    joined.append(word);
  }
  Require(joined == text, "the words together are the text");
  // The bytes as ids, legal or not.
  std::vector<int32_t> any;
  heddle::fuzz::Input input(data, size);
  while (!input.rest().empty()) any.push_back(static_cast<int32_t>(static_cast<uint32_t>(input.TakeNumber(4))));
  (void)tokenizer->Decode(any);
  return 0;
}
