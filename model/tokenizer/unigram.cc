#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <limits>

#include "model/tokenizer/json_members.h"
#include "model/tokenizer/token_model.h"
#include "model/tokenizer/unicode.h"
#include "model/tokenizer/viterbi.h"

namespace heddle::model {
namespace json = boost::json;

UnigramLattice::UnigramLattice(TokenTrie trie, std::vector<double> scores)
    : trie_(std::move(trie)), scores_(std::move(scores)) {
  constexpr double kUnknownPenalty = 10;
  double lowest = 0;
  if (!scores_.empty()) lowest = *std::min_element(scores_.begin(), scores_.end());
  unknown_score_ = lowest - kUnknownPenalty;
}

std::vector<UnigramLattice::Piece> UnigramLattice::Best(std::string_view text) const {
  // The best way to each place: where its last token begins, which it is, and the sum so far.
  struct Way {
    double score = -std::numeric_limits<double>::infinity();
    size_t begin = SIZE_MAX;
    int32_t value = -1;
  };
  std::vector<Way> ways(text.size() + 1);
  ways[0].score = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t character = DecodeUtf8(text, begin).length;
    const double so_far = ways[begin].score;
    bool covered = false;
    const auto offer = [&](size_t length, double score, int32_t value) {
      Way& way = ways[begin + length];
      if (way.begin == SIZE_MAX || so_far + score > way.score) way = {so_far + score, begin, value};
    };
    trie_.ForEachPrefix(text.substr(begin), [&](size_t length, int32_t value) {
      offer(length, scores_[static_cast<size_t>(value)], value);
      covered = covered || length == character;
    });
    if (!covered) offer(character, unknown_score_, -1);
    begin += character;
  }
  std::vector<Piece> pieces;
  for (size_t end = text.size(); end > 0; end = ways[end].begin)
    pieces.push_back({text.substr(ways[end].begin, end - ways[end].begin), ways[end].value});
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

namespace {

constexpr size_t kMaxTokenBytes = 512;

class Unigram : public TokenModel {
 public:
  Unigram(UnigramLattice lattice, int32_t unknown, std::vector<int32_t> byte_ids)
      : lattice_(std::move(lattice)), unknown_(unknown), byte_ids_(std::move(byte_ids)) {}

  void Encode(std::string_view word, std::vector<int32_t>* ids) const override {
    bool after_unknown = false;
    for (const UnigramLattice::Piece& piece : lattice_.Best(word)) {
      // The text of the unknown token is a token as others are, and its id fuses with its neighbours.
      const bool unknown = piece.value < 0 || piece.value == unknown_;
      if (piece.value < 0 && !byte_ids_.empty()) {
        const std::string_view text = IsValidUtf8(piece.text) ? piece.text : "\uFFFD";
        for (const char byte : text) ids->push_back(byte_ids_[static_cast<uint8_t>(byte)]);
      } else if (!unknown || !after_unknown) {
        ids->push_back(unknown ? unknown_ : piece.value);
      }
      after_unknown = unknown;
    }
  }

 private:
  UnigramLattice lattice_;
  int32_t unknown_;
  std::vector<int32_t> byte_ids_;
};

}  // namespace

Result<std::unique_ptr<const TokenModel>> ParseUnigram(const json::object& model, Vocabulary* vocabulary) {
  const json::value* vocab = Member(model, "vocab");
  if (vocab == nullptr || !vocab->is_array() || static_cast<int64_t>(vocab->get_array().size()) > kMaxTokenId)
    return InvalidArgument("model.vocab of a Unigram model must be a list of tokens with scores");
  std::vector<std::pair<std::string_view, int32_t>> entries;
  std::vector<double> scores;
  for (const json::value& value : vocab->get_array()) {
    const auto id = static_cast<int32_t>(scores.size());
    const json::array* pair = value.if_array();
    json::error_code error;
    const double score = pair != nullptr && pair->size() == 2 ? (*pair)[1].to_number<double>(error) : 0;
    if (pair == nullptr || pair->size() != 2 || !(*pair)[0].is_string() || error || !std::isfinite(score) ||
        std::abs(score) > 1e30) {
      return InvalidArgument("model.vocab[" + std::to_string(id) + "] must be [\"token\", score]");
    }
    const json::string& name = (*pair)[0].get_string();
    if (name.size() > kMaxTokenBytes || !IsValidUtf8({name.data(), name.size()})) {
      return InvalidArgument("model.vocab[" + std::to_string(id) + "] is longer than 512 bytes, or not UTF-8");
    }
    entries.emplace_back(std::string_view(name.data(), name.size()), id);
    scores.push_back(score);
    HEDDLE_RETURN_IF_ERROR(SetTokenText(id, std::string(name), vocabulary));
    vocabulary->ids.emplace(std::string(name), id);
  }
  HEDDLE_ASSIGN_OR_RETURN(const int64_t unknown, IntMember(model, "unk_id", -1));
  HEDDLE_ASSIGN_OR_RETURN(const bool byte_fallback, BoolMember(model, "byte_fallback", false));
  if (unknown < 0 || unknown >= static_cast<int64_t>(scores.size())) {
    return InvalidArgument(
        "model.unk_id must be the number of a token of model.vocab, so that every text "
        "can be encoded");
  }
  std::vector<int32_t> byte_ids;
  if (byte_fallback) {
    HEDDLE_ASSIGN_OR_RETURN(byte_ids, ByteTokens(*vocabulary));
  }
  return std::unique_ptr<const TokenModel>(
      std::make_unique<Unigram>(UnigramLattice(TokenTrie(entries), scores), static_cast<int32_t>(unknown), byte_ids));
}

}  // namespace heddle::model
