// A SentencePiece model turned into the tokenizer.json that Hugging Face's converters write of it: BPE with byte
// fallback (Llama 2), and Unigram with Metaspace (T5, XLM-R). The ids are those of the model itself.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <boost/json.hpp>
#include <fstream>
#include <map>

#include "common/file.h"
#include "model/tokenizer/sentencepiece_model.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/unit/model/test_data.h"

namespace heddle::model {
namespace {

namespace json = boost::json;

using Kind = SentencePieceModel::Piece::Kind;

constexpr std::string_view kLlamaDecoder = R"({"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})";

// Merges in the order of their pieces' scores.
json::object ToLlamaJson(const SentencePieceModel& model) {
  json::object vocab;
  std::map<std::string_view, int> ids;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    vocab[model.pieces[id].text] = id;
    ids[model.pieces[id].text] = static_cast<int>(id);
  }
  struct Merge {
    float score;
    std::string_view left, right;
  };
  std::vector<Merge> merges;
  for (const auto& piece : model.pieces) {
    if (piece.kind != Kind::kNormal) continue;
    const std::string_view text = piece.text;
    for (size_t cut = 1; cut < text.size(); ++cut) {
      if (ids.contains(text.substr(0, cut)) && ids.contains(text.substr(cut)))
        merges.push_back({piece.score, text.substr(0, cut), text.substr(cut)});
    }
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) { return a.score > b.score; });
  json::array list;
  for (const Merge& merge : merges) list.push_back(json::array{json::string(merge.left), json::string(merge.right)});
  json::object root;
  root["normalizer"] = json::parse(R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})");
  root["decoder"] = json::parse(kLlamaDecoder);
  root["model"] = json::object{{"type", "BPE"},
                               {"unk_token", model.pieces[static_cast<size_t>(model.unknown)].text},
                               {"fuse_unk", true},
                               {"byte_fallback", true},
                               {"vocab", std::move(vocab)},
                               {"merges", std::move(list)}};
  return root;
}

TEST(ConvertedTokenizers, Llama2sJsonHasTheIdsOfItsModel) {
  HEDDLE_NEEDS_TEST_DATA("stories15m");
  const auto folder = TestDataFolder() / "stories15m";
  const auto original = Tokenizer::Read(folder);
  ASSERT_TRUE(original.ok()) << original.status();
  const auto model = ParseSentencePieceModel(*ReadFile(folder / "tokenizer.model", 1 << 24));
  const auto converted = Tokenizer::FromJson(json::serialize(ToLlamaJson(*model)));
  ASSERT_TRUE(converted.ok()) << converted.status();
  std::ifstream lines(TestDataFolder() / "tokenizers" / "golden.jsonl");
  std::string all;
  for (std::string line; std::getline(lines, line);) {
    const std::string text(json::parse(line).at("text").as_string());
    const std::vector<int32_t> ids = (*original)->Encode(text);
    EXPECT_EQ((*converted)->Encode(text), ids) << text;
    EXPECT_EQ((*converted)->Decode(ids), (*original)->Decode(ids)) << text;
    all += text + "  ";
  }
  // One long text: ours is cut before spaces, which must change nothing.
  EXPECT_EQ((*converted)->Encode(all), (*original)->Encode(all));
  EXPECT_GT(all.size(), 10'000U);
}

}  // namespace
}  // namespace heddle::model
