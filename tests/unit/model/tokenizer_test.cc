// Byte-level BPE: any bytes come back, and the ids are those of a slow and obvious implementation.
#include "model/tokenizer/tokenizer.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <boost/json.hpp>
#include <fstream>
#include <limits>
#include <map>
#include <regex>
#include <thread>

#include "model/config/registry.h"
#include "model/tokenizer/byte_level.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/test_data.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::model {
namespace {

namespace json = boost::json;

std::shared_ptr<const Tokenizer> Load(const std::string& text) {
  auto tokenizer = Tokenizer::FromJson(text);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

const std::string& TrainedJson() {
  static const std::string text = TinyTokenizerJson(600);
  return text;
}
const Tokenizer& Trained() {
  static const auto tokenizer = Load(TrainedJson());
  return *tokenizer;
}

// Merges by the definition: always the pair of the lowest rank, the leftmost of equals, until there is none.
class SlowBpe {
 public:
  explicit SlowBpe(const std::string& text) {
    const json::value root = json::parse(text);
    for (const auto& [name, id] : root.at("model").at("vocab").as_object())
      ids_[std::string(name)] = id.to_number<int>();
    int rank = 0;
    for (const auto& merge : root.at("model").at("merges").as_array())
      ranks_.emplace(std::string(merge.as_string()), rank++);
  }
  std::vector<int32_t> EncodeWord(std::string_view word) const {
    std::vector<std::string> parts;
    for (const char c : word) parts.push_back(ByteCharacters()[static_cast<uint8_t>(c)]);
    while (true) {
      int best = std::numeric_limits<int>::max();
      size_t where = 0;
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto found = ranks_.find(parts[i] + " " + parts[i + 1]);
        if (found != ranks_.end() && found->second < best) best = found->second, where = i;
      }
      if (best == std::numeric_limits<int>::max()) break;
      parts[where] += parts[where + 1];
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(where) + 1);
    }
    std::vector<int32_t> ids;
    for (const std::string& part : parts) ids.push_back(ids_.at(part));
    return ids;
  }
  std::vector<int32_t> Encode(std::string_view text) const {
    std::vector<int32_t> ids;
    for (const std::string_view word : SplitWords(text)) {
      const auto part = EncodeWord(word);
      ids.insert(ids.end(), part.begin(), part.end());
    }
    return ids;
  }

 private:
  std::map<std::string, int> ids_, ranks_;
};

// Text in which merges happen: words of the training text, cut and glued anywhere, with odd bytes between.
std::string WordyText() {
  std::string text;
  const std::string sample = SampleText(2000, 1);
  for (auto pieces = *rc::gen::inRange(0, 12); pieces > 0; --pieces) {
    const auto begin = *rc::gen::inRange<size_t>(0, sample.size());
    text += sample.substr(begin, *rc::gen::inRange<size_t>(0, 60));
    if (*rc::gen::inRange(0, 3) == 0) text += *rc::gen::string<std::string>();
    if (*rc::gen::inRange(0, 6) == 0) text += std::string(*rc::gen::inRange<size_t>(0, 80), 'e');
  }
  return text;
}

TEST(Tokenizer, AnyBytesComeBack) {
  EXPECT_TRUE(rc::check("decode(encode(bytes)) = bytes", [](const std::string& bytes) {
    RC_ASSERT(Trained().Decode(Trained().Encode(bytes)) == bytes);
  }));
  std::string all;
  for (int round = 0; round < 3; ++round) {
    for (int b = 0; b < 256; ++b) all.push_back(static_cast<char>(round == 1 ? 255 - b : b));
  }
  EXPECT_EQ(Trained().Decode(Trained().Encode(all)), all);
  EXPECT_TRUE(Trained().Encode("").empty());
}

TEST(Tokenizer, IdsAreThoseOfTheDefinition) {
  const SlowBpe slow(TrainedJson());
  EXPECT_TRUE(rc::check("fast and slow agree", [&] {
    const std::string text = WordyText();
    RC_ASSERT(Trained().Encode(text) == slow.Encode(text));
  }));
}

TEST(Tokenizer, LongTextsAndLongWordsAreEncodedLikeShortOnes) {
  const SlowBpe slow(TrainedJson());
  const std::string text = SampleText(20'000, 9);  // long enough for the cache of words
  EXPECT_EQ(Trained().Encode(text), slow.Encode(text));
  std::string word;  // one word without a space
  for (const char c : SampleText(1500, 10)) {
    if (c >= 'a' && c <= 'z') word.push_back(c);
  }
  EXPECT_EQ(Trained().Encode(word), slow.Encode(word));
}

TEST(Tokenizer, AMegabyteOfOneLetterIsNoTrouble) {
  const std::string text(1 << 20, 'e');
  EXPECT_EQ(Trained().Decode(Trained().Encode(text)), text);
}

TEST(Tokenizer, OneTokenizerServesManyThreads) {
  const std::string text = SampleText(10'000, 2);
  const auto expected = Trained().Encode(text);
  std::vector<std::vector<int32_t>> results(4);
  {
    std::vector<std::jthread> threads;
    for (auto& result : results) threads.emplace_back([&] { result = Trained().Encode(text); });
  }
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST(Tokenizer, SpecialTokensInTheTextAreOneId) {
  const auto ids = Trained().Encode("a<|endoftext|>b");
  ASSERT_EQ(ids.size(), 3U);
  EXPECT_EQ(ids[1], 0);
  EXPECT_EQ(Trained().eos_id(), 0);
  EXPECT_EQ(Trained().bos_id(), 0);
  EXPECT_EQ(Trained().Decode(ids), "a<|endoftext|>b");
}

TEST(Tokenizer, IdsOutOfRangeAreSkipped) {
  const std::vector<int32_t> ids = {-1, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max(),
                                    static_cast<int32_t>(Trained().vocab_size())};
  EXPECT_EQ(Trained().Decode(ids), "");
}

TEST(Tokenizer, GoldenTextsOfOtherTokenizersComeBackToo) {
  HEDDLE_NEEDS_TEST_DATA("tokenizers");
  // Their ids are of WordPiece and SentencePiece; their texts are odd on purpose.
  std::ifstream lines(TestDataFolder() / "tokenizers" / "golden.jsonl");
  const SlowBpe slow(TrainedJson());
  size_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const std::string text(json::parse(line).at("text").as_string());
    ASSERT_EQ(Trained().Decode(Trained().Encode(text)), text);
    ASSERT_EQ(Trained().Encode(text), slow.Encode(text));
  }
  EXPECT_GT(count, 600U);
}

TEST(Tokenizer, TheTokenizerOfTheRepositoryFitsItsModel) {
  const std::filesystem::path folder = HEDDLE_SOURCE_DIR "/model/pretrained/heddle-tiny";
  if (!std::filesystem::exists(folder / "tokenizer.json")) GTEST_SKIP() << "heddle-tiny is not there";
  const auto tokenizer = Tokenizer::Read(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto config = ReadModelConfig(folder);
  EXPECT_TRUE(CheckTokenizerFits(*config, **tokenizer).ok());
  EXPECT_EQ((*tokenizer)->eos_id(), config->eos_token_id);
  const std::string text = "And God said, Let there be light: and there was light.\n";
  EXPECT_EQ((*tokenizer)->Decode((*tokenizer)->Encode(text)), text);
  EXPECT_LT((*tokenizer)->Encode(text).size(), text.size() / 2);
}

TEST(Tokenizer, ATokenizerWithMoreIdsThanTheModelDoesNotFit) {
  ModelSpec config = TinyConfig();
  const Status status = CheckTokenizerFits(config, Trained());
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("320"), std::string::npos) << status;
}

TEST(Tokenizer, ReadTakesBosAndEosFromItsConfig) {
  const TempDir folder;
  EXPECT_EQ(Tokenizer::Read(folder.path()).status().code(), Code::kNotFound);
  BpeTrainer trainer;
  BpeTrainerOptions options;
  options.special_tokens = {"[A]", "[B]"};
  folder.Write("tokenizer.json", *trainer.Train(options));
  EXPECT_EQ((*Tokenizer::Read(folder.path()))->eos_id(), -1);
  folder.Write("tokenizer_config.json", R"({"bos_token": "[B]", "eos_token": {"content": "[A]"}})");
  const auto tokenizer = *Tokenizer::Read(folder.path());
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 0);
  folder.Write("tokenizer_config.json", R"({"bos_token": "[C]"})");
  EXPECT_EQ(Tokenizer::Read(folder.path()).status().code(), Code::kInvalidArgument);
  folder.Write("tokenizer_config.json", "{");
  EXPECT_EQ(Tokenizer::Read(folder.path()).status().code(), Code::kInvalidArgument);
}

// GPT-2's pattern, for ASCII.
std::vector<std::string> SplitByRegex(const std::string& text) {
  static const std::regex kPattern(R"('s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+)");
  return {std::sregex_token_iterator(text.begin(), text.end(), kPattern), {}};
}

TEST(SplitWords, FollowsTheGpt2PatternOnAscii) {
  EXPECT_TRUE(rc::check("as the regular expression", [] {
    const auto letters =
        *rc::gen::container<std::string>(rc::gen::elementOf(std::string("aabst'  \n\t09.!relvdmXYZ\r-")));
    std::vector<std::string> words;
    for (const std::string_view word : SplitWords(letters)) words.emplace_back(word);
    RC_ASSERT(words == SplitByRegex(letters));
  }));
}

TEST(SplitWords, KnowsLettersNumbersAndSpacesOfAllScripts) {
  const auto split = [](std::string_view text) {
    std::vector<std::string> words;
    for (const std::string_view word : SplitWords(text)) words.emplace_back(word);
    return words;
  };
  using Words = std::vector<std::string>;
  EXPECT_EQ(split("naïve café"), (Words{"naïve", " café"}));
  EXPECT_EQ(split("日本語１２"), (Words{"日本語", "１２"}));  // full-width digits are numbers
  EXPECT_EQ(split("Привет, мир"), (Words{"Привет", ",", " мир"}));
  EXPECT_EQ(split("x²½"), (Words{"x", "²½"}));
  EXPECT_EQ(split("a\u2003b"), (Words{"a", "\u2003", "b"}));  // only U+0020 joins a word
  EXPECT_EQ(split("\xff\xfe ok"), (Words{"\xff\xfe", " ok"}));
  EXPECT_EQ(split("e\u0301"), (Words{"e", "\u0301"}));  // a combining mark is no letter
}

TEST(SplitWords, IsTheWholeTextWhateverTheBytes) {
  EXPECT_TRUE(rc::check("nothing is lost", [](const std::string& bytes) {
    std::string joined;
    for (const std::string_view word : SplitWords(bytes)) {
      RC_ASSERT(!word.empty());
      joined += word;
    }
    RC_ASSERT(joined == bytes);
  }));
}

TEST(ByteLevel, Utf8IsDecodedStrictly) {
  struct Case {
    std::string_view text;
    char32_t code_point;
    size_t length;
  };
  for (const Case& c : {Case{"a", U'a', 1}, Case{"\u00e9", 0xe9, 2}, Case{"\u20ac", 0x20ac, 3},
                        Case{"\U0001F600", 0x1F600, 4}, Case{"\xC0\x80", 0xFFFD, 1}, Case{"\xED\xA0\x80", 0xFFFD, 1},
                        Case{"\xF4\x90\x80\x80", 0xFFFD, 1}, Case{"\xE0\x80\x80", 0xFFFD, 1}, Case{"\x80", 0xFFFD, 1},
                        Case{"\xE2\x82", 0xFFFD, 1}, Case{"\xFF", 0xFFFD, 1}}) {
    const DecodedChar decoded = DecodeUtf8(c.text, 0);
    EXPECT_EQ(decoded.code_point, c.code_point);
    EXPECT_EQ(decoded.length, c.length);
  }
  std::string out;
  for (const char32_t c : {U'a', U'\u00e9', U'\u20ac', U'\U0001F600'}) AppendUtf8(c, &out);
  EXPECT_EQ(out, "a\u00e9\u20ac\U0001F600");
}

TEST(ByteLevel, EveryByteHasACharacterOfItsOwn) {
  std::map<std::string, int> seen;
  for (int b = 0; b < 256; ++b) {
    EXPECT_TRUE(seen.emplace(ByteCharacters()[b], b).second);
    EXPECT_EQ(TokenBytes(ByteCharacters()[b]), std::string(1, static_cast<char>(b)));
  }
  EXPECT_EQ(ByteCharacters()[' '], "\u0120");  // GPT-2's well-known G with a dot
  EXPECT_EQ(ByteCharacters()['\n'], "\u010a");
  EXPECT_EQ(TokenBytes("\u65e5"), "\u65e5");  // outside the alphabet: itself
}

}  // namespace
}  // namespace heddle::model
