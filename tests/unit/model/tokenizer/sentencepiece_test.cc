// Our reader of SentencePiece models against the SentencePiece library: models of every kind, trained by the library.
// (The library cannot be linked where Protobuf is: docs/decisions/0009-sentencepiece.md.)
#include "model/tokenizer/sentencepiece.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <map>

#include "model/tokenizer/sentencepiece_model.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::model {
namespace {

const std::vector<std::string>& Sentences() {
  static const std::vector<std::string> kSentences = [] {
    const std::vector<std::string> words = {
        "the",    "weaver", "pulls",    "threads",        "over",  "and",    "under", "loom",    "wool",
        "naïve",  "café",   "日本語",   "テキスト",       "мир",   "Привет", "rain",  "falls",   "on",
        "roofs",  "ﬁne",    "２０２６", "it's",           "don't", "(so)",   "α",     "weaving", "pulled",
        "fallen", "roof",   "unroof",   "e\u0301t\u0301", "1,000", "50%",    "a-b",   "x=1;",    "한국어"};
    std::vector<std::string> sentences;
    uint64_t state = 1;
    for (int i = 0; i < 400; ++i) {
      std::string sentence;
      for (int w = 0; w < 12; ++w) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        sentence += (w > 0 ? " " : "") + words[(state >> 33) % words.size()];
      }
      sentences.push_back(sentence + ".");
    }
    return sentences;
  }();
  return kSentences;
}

class TrainingText : public sentencepiece::SentenceIterator {
 public:
  bool done() const override { return next_ >= Sentences().size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return Sentences()[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  size_t next_ = 0;
};

std::string TrainModel(const std::string& options) {
  TrainingText text;
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      "--vocab_size=600 --hard_vocab_limit=false --minloglevel=3 --num_threads=1 " + options, &text, &model);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return model;
}

// Words of the training text and everything else that can happen, glued together.
std::string OddText() {
  static const std::vector<std::string> kOdd = {" ",
                                                "  ",
                                                "\t",
                                                "\n",
                                                "\u00a0",
                                                "\u3000",
                                                "\u2581",
                                                "a",
                                                "the",
                                                " the",
                                                " weav",
                                                "er",
                                                "ﬁ",
                                                "Ⅳ",
                                                "e\u0301",
                                                "\u0301",
                                                "日本",
                                                "ヒ\u3099",
                                                "한",
                                                "\u1112\u1161\u11ab",
                                                "\U0001F600",
                                                "\U0001F469\u200d\U0001F469",
                                                "<s>",
                                                "</s>",
                                                "<unk>",
                                                "<0x41>",
                                                "[X]",
                                                "[Y]",
                                                "[XY]",
                                                "\u200b",
                                                "\xff",
                                                "\xc3",
                                                std::string(1, '\0'),
                                                "\x01",
                                                "２",
                                                "½",
                                                "ß",
                                                "İ",
                                                "zzz",
                                                "Ω",
                                                "\u0e01"};
  std::string text;
  for (auto pieces = *rc::gen::inRange(0, 14); pieces > 0; --pieces) {
    if (*rc::gen::inRange(0, 2) == 0) {
      const std::string& sentence = Sentences()[*rc::gen::inRange<size_t>(0, Sentences().size())];
      const auto begin = *rc::gen::inRange<size_t>(0, sentence.size());
      text += sentence.substr(begin, *rc::gen::inRange<size_t>(0, 30));
    } else {
      text += *rc::gen::elementOf(kOdd);
    }
  }
  return text;
}

class AgainstTheLibrary : public testing::TestWithParam<const char*> {};

TEST_P(AgainstTheLibrary, TheSameIdsAndTheSameText) {
  const std::string model = TrainModel(GetParam());
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(model).ok());
  const auto read = ReadSentencePiece(model, {});
  ASSERT_TRUE(read.ok()) << read.status();
  const Tokenizer& ours = **read;
  EXPECT_EQ(ours.vocab_size(), library.GetPieceSize());
  EXPECT_EQ(ours.bos_id(), library.bos_id());
  EXPECT_EQ(ours.eos_id(), library.eos_id());
  EXPECT_EQ(ours.special().unknown, library.unk_id());
  const auto same_ids = [&](const std::string& text) {
    std::vector<int> expected;
    EXPECT_TRUE(library.Encode(text, &expected).ok());
    return ours.Encode(text) == std::vector<int32_t>(expected.begin(), expected.end());
  };
  const auto same_text = [&](const std::vector<int>& ids) {
    std::string expected;
    EXPECT_TRUE(library.Decode(ids, &expected).ok());
    return ours.Decode(std::vector<int32_t>(ids.begin(), ids.end())) == expected;
  };
  std::string all;
  for (const std::string& sentence : Sentences()) {
    EXPECT_TRUE(same_ids(sentence)) << sentence;
    all += sentence + "\n ";
  }
  EXPECT_TRUE(same_ids(all));  // a long text, in which sums lose digits
  EXPECT_TRUE(same_ids("the\xff weaver\xc3"));
  EXPECT_TRUE(rc::check("ids", [&] {
    const std::string text = OddText();
    RC_ASSERT(same_ids(text));
    RC_ASSERT(same_ids(text));  // and when its words were seen before
  }));
  EXPECT_TRUE(rc::check("text", [&] {
    const auto ids = *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, library.GetPieceSize()));
    RC_ASSERT(same_text(ids));
  }));
}

INSTANTIATE_TEST_SUITE_P(
    Models, AgainstTheLibrary,
    testing::Values("--model_type=bpe", "--model_type=unigram", "--model_type=bpe --byte_fallback=true",
                    "--model_type=unigram --byte_fallback=true",
                    "--model_type=bpe --normalization_rule_name=identity --remove_extra_whitespaces=false "
                    "--byte_fallback=true",  // as Llama 2
                    "--model_type=unigram --normalization_rule_name=nmt_nfkc_cf --add_dummy_prefix=false",
                    "--model_type=bpe --user_defined_symbols=[X],[XY],weav --split_by_whitespace=false",
                    "--model_type=unigram --user_defined_symbols=[X],[XY],weav",
                    "--model_type=bpe --treat_whitespace_as_suffix=true",
                    "--model_type=unigram --treat_whitespace_as_suffix=true --remove_extra_whitespaces=false",
                    "--model_type=unigram --pad_id=0 --unk_id=1 --bos_id=-1 --eos_id=2",  // as T5
                    "--model_type=bpe --split_by_unicode_script=false --split_by_whitespace=false "
                    "--max_sentencepiece_length=40"));

// Pieces marked as unused fall apart into those that they were made of.
TEST(SentencePiece, UnusedPiecesAreStepsOnTheWayOnly) {
  for (const char* type : {"--model_type=bpe", "--model_type=unigram"}) {
    const std::string model = TrainModel(type);
    const auto parsed = ParseSentencePieceModel(model);
    ASSERT_TRUE(parsed.ok());
    // Every seventh piece of more than one character, by its kind's field: 3 (kind), 5 (unused), put at the end of a
    // piece.
    std::string changed;
    size_t count = 0;
    for (size_t position = 0; position < model.size();) {
      const auto byte = [&](size_t at) { return static_cast<uint8_t>(model[at]); };
      if (byte(position) != 0x0A) {
        changed += model.substr(position);
        break;
      }
      const size_t size = byte(position + 1);
      ASSERT_LT(size, 126U);
      std::string piece = model.substr(position + 2, size);
      if (piece.size() > 12 && piece.find("\x18") == std::string::npos && ++count % 7 == 0) piece += "\x18\x05";
      changed += std::string("\x0A") + static_cast<char>(piece.size()) + piece;
      position += 2 + size;
    }
    sentencepiece::SentencePieceProcessor library;
    ASSERT_TRUE(library.LoadFromSerializedProto(changed).ok());
    const auto ours = ReadSentencePiece(changed, {});
    ASSERT_TRUE(ours.ok()) << ours.status();
    size_t different = 0;
    for (const std::string& sentence : Sentences()) {
      std::vector<int> expected, before;
      ASSERT_TRUE(library.Encode(sentence, &expected).ok());
      EXPECT_EQ((*ours)->Encode(sentence), std::vector<int32_t>(expected.begin(), expected.end())) << sentence;
      different += (*ReadSentencePiece(model, {}))->Encode(sentence) != (*ours)->Encode(sentence) ? 1 : 0;
      if (different > 0 && &sentence - Sentences().data() > 40) break;
    }
    EXPECT_GT(different, 0U) << type;
  }
}

TEST(SentencePiece, TheFolderSaysWhatIsPutAroundAText) {
  const TempDir folder;
  folder.Write("tokenizer.model", TrainModel("--model_type=bpe"));
  auto tokenizer = *Tokenizer::Read(folder.path());
  const std::vector<int32_t> plain = tokenizer->Encode("the weaver");
  std::vector<int32_t> ids = tokenizer->EncodeText("the weaver")->ids;
  ASSERT_EQ(ids.size(), plain.size() + 1);
  EXPECT_EQ(ids.front(), tokenizer->bos_id());
  EXPECT_EQ(tokenizer->DecodeText(ids), "the weaver");
  EXPECT_EQ(tokenizer->EncodePair("the", "weaver")->type_ids.back(), 1);
  folder.Write("tokenizer_config.json", R"({"add_bos_token": false, "add_eos_token": true})");
  tokenizer = *Tokenizer::Read(folder.path());
  ids = tokenizer->EncodeText("the weaver")->ids;
  EXPECT_EQ(ids.front(), plain.front());
  EXPECT_EQ(ids.back(), tokenizer->eos_id());
}

// The model's file has no place for them, and their ids would be lost.
TEST(SentencePiece, TokensThatWereAddedLaterAreRefusedByName) {
  const TempDir folder;
  folder.Write("tokenizer.model", TrainModel("--model_type=bpe"));
  const int64_t size = (*Tokenizer::Read(folder.path()))->vocab_size();
  folder.Write("added_tokens.json", R"({"<s>": 1, "[PAD]": )" + std::to_string(size) + "}");
  const Status status = Tokenizer::Read(folder.path()).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("\"[PAD]\" was added to the pieces of tokenizer.model"), std::string::npos) << status;
  folder.Write("added_tokens.json", R"({"<|start|>": 5})");
  EXPECT_EQ(Tokenizer::Read(folder.path()).status().code(), Code::kInvalidArgument) << "a piece with another text";
  folder.Write("added_tokens.json", R"({"<s>": 1})");
  EXPECT_TRUE(Tokenizer::Read(folder.path()).ok());
}

TEST(SentencePiece, FilesThatAreCutShortAreRefused) {
  const std::string model = TrainModel("--model_type=bpe --byte_fallback=true");
  size_t refused = 0;
  for (size_t length = 0; length < model.size(); length += 13) {
    const auto tokenizer = ReadSentencePiece(std::string_view(model).substr(0, length), {});
    if (tokenizer.ok()) continue;  // between two fields
    EXPECT_EQ(tokenizer.status().code(), Code::kInvalidArgument);
    EXPECT_NE(tokenizer.status().message().find("SentencePiece"), std::string::npos);
    ++refused;
  }
  EXPECT_GT(refused, 100U);
}

TEST(SentencePiece, OtherKindsOfModelsAreRefusedByName) {
  for (const auto& [type, name] : std::map<std::string, std::string>{{"word", "WORD"}, {"char", "CHAR"}}) {
    const Status status = ReadSentencePiece(TrainModel("--model_type=" + type), {}).status();
    EXPECT_EQ(status.code(), Code::kUnimplemented);
    EXPECT_NE(status.message().find(name), std::string::npos) << status;
  }
}

}  // namespace
}  // namespace heddle::model
