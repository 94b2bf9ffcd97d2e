// Seeds of the tokenizers' readers: each kind of tokenizer.json, the older files, SentencePiece models.
#include <bit>
#include <filesystem>

#include "common/file.h"
#include "tests/fuzz/seeds.h"

namespace heddle::fuzz {
namespace {

// Fields of a protocol buffer.
std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string Field(uint64_t number, uint64_t value) { return Varint(number << 3) + Varint(value); }
std::string Field(uint64_t number, std::string_view bytes) {
  return Varint(number << 3 | 2) + Varint(bytes.size()) + std::string(bytes);
}
std::string Piece(std::string_view text, float score, uint64_t kind) {
  return Field(1, Field(1, text) + Varint(2 << 3 | 5) + Number(std::bit_cast<uint32_t>(score), 4) + Field(3, kind));
}

// A double array with the one rule that "A" becomes "a".
std::string CharsMap() {
  std::string trie;
  for (uint32_t i = 0; i < 384; ++i) {
    const uint32_t unit = i == 0             ? 256U << 10
                          : i == (256 ^ 'A') ? 'A' | 0x100U | 1U << 10
                          : i == (257 ^ 'A') ? 0x80000000U
                                             : 0;
    trie += Number(unit, 4);
  }
  return Number(trie.size(), 4) + trie + std::string("a\0", 2);
}

void SentencePieces() {
  std::string pieces = Piece("<unk>", 0, 2) + Piece("<s>", 0, 3) + Piece("</s>", 0, 3);
  float score = -1;
  for (const char* text :
       {"\u2581", "t", "h", "e", "i", "n", "th", "the", "\u2581the", "in", "\u2581in", "\u00e9", "g", "ng"})
    pieces += Piece(text, score -= 1, 1);
  pieces += Piece("[X]", 0, 4) + Piece("\u2581th", -3, 5);
  std::string bytes;
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(b));
    bytes += Piece(name, 0, 6);
  }
  const std::string bpe = Field(3, uint64_t{2}), unigram = Field(3, uint64_t{1}), fallback = Field(35, uint64_t{1});
  Write("fuzz_sentencepiece", "bpe", pieces + Field(2, bpe));
  Write("fuzz_sentencepiece", "unigram", pieces + Field(2, unigram));
  Write("fuzz_sentencepiece", "bytes", pieces + bytes + Field(2, bpe + fallback));
  Write("fuzz_sentencepiece", "charsmap", pieces + Field(2, unigram) + Field(3, Field(2, CharsMap())));
  Write("fuzz_sentencepiece", "suffix",
        pieces + Field(2, bpe + Field(24, uint64_t{1}) + Field(46, "<s>")) + Field(3, Field(4, uint64_t{0})));
  Write("fuzz_sentencepiece", "words", pieces + Field(2, Field(3, uint64_t{3})));
  Write("fuzz_sentencepiece", "twice", pieces + Piece("the", -1, 1));
  Write("fuzz_sentencepiece", "group", pieces + "\x0b\x0c");
}

}  // namespace

void TokenizerSeeds() {
  const std::filesystem::path cases = HEDDLE_SOURCE_DIR "/tests/data/tokenizers";
  for (const char* kind : {"wordpiece", "byte-level", "byte-level-split", "byte-fallback", "unigram"}) {
    const auto text = ReadFile(cases / kind / "tokenizer.json", 1 << 20);
    if (!text.ok()) return Fail(text.status().ToString());
    Write("fuzz_tokenizer_json", kind, *text);
  }
  // Short enough to be changed a lot in the time that there is.
  const auto small = [](const std::string& normalizer, const std::string& pre, const std::string& decoder) {
    return R"({"added_tokens":[{"id":0,"content":"[X]","single_word":true,"lstrip":true,"normalized":true}],"normalizer":)" +
           normalizer + R"(,"pre_tokenizer":)" + pre + R"(,"decoder":)" + decoder +
           R"(,"post_processor":{"type":"BertProcessing","sep":["a",1],"cls":["b",2]},)" +
           R"("model":{"type":"BPE","unk_token":"[X]","vocab":{"[X]":0,"a":1,"b":2,"ab":3},"merges":["a b"]}})";
  };
  Write(
      "fuzz_tokenizer_json", "small-whitespace",
      small(
          R"({"type":"Sequence","normalizers":[{"type":"Nmt"},{"type":"NFKD"},{"type":"StripAccents"},{"type":"Lowercase"},)"
          R"({"type":"Strip"},{"type":"Prepend","prepend":"_"}]})",
          R"({"type":"Sequence","pretokenizers":[{"type":"Whitespace"},{"type":"Digits","individual_digits":true}]})",
          R"({"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1}]})"));
  Write("fuzz_tokenizer_json", "small-split",
        small(R"({"type":"Replace","pattern":{"Regex":"b{2,}"},"content":"b"})",
              R"({"type":"Split","pattern":{"Regex":"(a+)+\\s*"},"behavior":"MergedWithNext","invert":true})",
              R"({"type":"WordPiece","prefix":"##","cleanup":true})"));
  Write("fuzz_tokenizer_json", "small-precompiled",
        small(R"({"type":"Precompiled","precompiled_charsmap":"DAAAAAAABAABAACAAAAAgGEA"})",
              R"({"type":"Metaspace","replacement":"_","prepend_scheme":"first"})",
              R"({"type":"Replace","pattern":{"String":"_"},"content":" "})"));
  Write("fuzz_tokenizer_files", "bert", "{}\n[PAD]\n[UNK]\n[CLS]\n[SEP]\nin\nthe\n##g\n##od\n.\n");
  Write(
      "fuzz_tokenizer_files", "cased",
      "{\"do_lower_case\":false,\"strip_accents\":null,\"unk_token\":{\"content\":\"?\"}}\n?\r\n[CLS]\r\n[SEP]\r\nIn");
  // All bytes as tokens, which GPT-2's vocabularies have.
  std::string vocab = "{";
  for (int b = 0, next = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    char key[16];
    std::snprintf(key, sizeof key, "\"\\u%04x\":", static_cast<unsigned>(printable ? b : 0x100 + next++));
    vocab += key + std::to_string(b) + ",";
  }
  vocab += R"("th":256,"the":257,"<s>":258,"</s>":259})";
  Write("fuzz_tokenizer_files", "added",
        "added\n"
        R"({"added_tokens_decoder":{"5":{"content":"[X]","special":true},"3":{"content":"the"}}})"
        "\n"
        R"({"unk_token":"[UNK]","pad_token":{"content":"[PAD]"}})"
        "\n"
        R"({"[PAD]":6,"[X]":5})");
  Write("fuzz_tokenizer_files", "gpt2", "merges\n\n" + vocab + "\n#version: 0.2\nt h\nth e\n");
  Write("fuzz_tokenizer_files", "roberta",
        "merges\n{\"tokenizer_class\":\"RobertaTokenizer\",\"add_prefix_space\":true}\n" + vocab + "\nt h\n");
  Write("fuzz_tokenizer_files", "opt",
        "merges\n{\"add_bos_token\":true,\"bos_token\":{\"content\":\"</s>\"}}\n" + vocab + "\nt h\nx y");
  SentencePieces();
}

}  // namespace heddle::fuzz
