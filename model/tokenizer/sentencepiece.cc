#include "model/tokenizer/sentencepiece.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <limits>
#include <queue>
#include <unordered_map>
#include <utility>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/sentencepiece_model.h"
#include "model/tokenizer/token_trie.h"
#include "model/tokenizer/unicode.h"
#include "model/tokenizer/word_cache.h"

namespace heddle::model {
namespace {

constexpr std::string_view kSpaceSign = "\u2581";

using Kind = SentencePieceModel::Piece::Kind;

// What has become of a part of the text, and its id.
struct Segment {
  std::string_view text;
  int32_t id;
};

bool IsOfText(Kind kind) { return kind == Kind::kNormal || kind == Kind::kUserDefined || kind == Kind::kUnused; }

// Pieces by their text, and the symbols of the user, which are never cut or merged.
class Pieces {
 public:
  explicit Pieces(const SentencePieceModel& model) : model_(model) {
    std::vector<std::pair<std::string_view, int32_t>> user;
    for (size_t i = 0; i < model.pieces.size(); ++i) {
      const auto& piece = model.pieces[i];
      const auto id = static_cast<int32_t>(i);
      (IsOfText(piece.kind) ? texts_ : reserved_).emplace(piece.text, id);
      if (IsOfText(piece.kind)) longest_ = std::max(longest_, piece.text.size());
      if (piece.kind == Kind::kUserDefined) user.emplace_back(piece.text, id);
      if (piece.kind == Kind::kUnused) has_unused_ = true;
    }
    user_ = TokenTrie(std::move(user));
  }

  Kind KindOf(int32_t id) const { return model_.pieces[static_cast<size_t>(id)].kind; }
  float ScoreOf(int32_t id) const { return model_.pieces[static_cast<size_t>(id)].score; }
  // Of pieces of text; -1: none.
  int32_t Find(std::string_view text) const {
    if (text.size() > longest_) return -1;
    const auto found = texts_.find(text);
    return found == texts_.end() ? -1 : found->second;
  }
  // Of any piece; the unknown one where there is none.
  int32_t IdOf(std::string_view text) const {
    if (const auto found = reserved_.find(text); found != reserved_.end()) return found->second;
    const int32_t id = Find(text);
    return id < 0 ? model_.unknown : id;
  }
  // The length of the user's symbol that the text begins with; 0: none.
  size_t UserSymbol(std::string_view text) const { return user_.Longest(text).length; }
  bool has_unused() const { return has_unused_; }

 private:
  const SentencePieceModel& model_;
  std::unordered_map<std::string_view, int32_t> texts_, reserved_;
  TokenTrie user_;
  size_t longest_ = 0;
  bool has_unused_ = false;
};

// The best pair of neighbours is the one whose piece has the highest score, the leftmost of equals.
class ScoredBpe {
 public:
  ScoredBpe(const Pieces& pieces, std::string_view text) : pieces_(pieces) {
    for (size_t position = 0; position < text.size();) {
      const size_t user = pieces.UserSymbol(text.substr(position));
      const size_t length = user > 0 ? user : DecodeUtf8(text, position).length;
      const auto index = static_cast<int64_t>(symbols_.size());
      symbols_.push_back({text.substr(position, length), index - 1, index + 1, user > 0});
      position += length;
    }
    if (!symbols_.empty()) symbols_.back().next = -1;
  }

  void Run(std::vector<Segment>* out) {
    for (size_t i = 1; i < symbols_.size(); ++i) Consider(static_cast<int64_t>(i) - 1, static_cast<int64_t>(i));
    while (!agenda_.empty()) {
      const Pair best = agenda_.top();
      agenda_.pop();
      Symbol &left = symbols_[best.left], &right = symbols_[best.right];
      if (left.text.empty() || right.text.empty() || left.text.size() + right.text.size() != best.size) continue;
      left.text = {left.text.data(), best.size};
      left.next = right.next;
      if (right.next >= 0) symbols_[right.next].previous = best.left;
      right.text = {};
      Consider(left.previous, best.left);
      Consider(best.left, left.next);
    }
    for (int64_t i = symbols_.empty() ? -1 : 0; i >= 0; i = symbols_[i].next) Emit(symbols_[i].text, out);
  }

 private:
  struct Symbol {
    std::string_view text;
    int64_t previous, next;  // -1: none
    bool frozen;
  };
  struct Pair {
    float score;
    int64_t left, right;
    size_t size;
    bool operator<(const Pair& other) const { return score != other.score ? score < other.score : left > other.left; }
  };

  void Consider(int64_t left, int64_t right) {
    if (left < 0 || right < 0 || symbols_[left].frozen || symbols_[right].frozen) return;
    const std::string_view a = symbols_[left].text, b = symbols_[right].text;
    const std::string_view both(a.data(), a.size() + b.size());
    const int32_t id = pieces_.Find(both);
    if (id < 0) return;
    agenda_.push({pieces_.ScoreOf(id), left, right, both.size()});
    if (pieces_.KindOf(id) == Kind::kUnused) made_of_[both] = {a, b};
  }

  // A piece that is not in use is a step on the way only: it falls apart again.
  void Emit(std::string_view text, std::vector<Segment>* out) {
    std::vector<std::string_view> todo = {text};
    while (!todo.empty()) {
      const std::string_view one = todo.back();
      todo.pop_back();
      const int32_t id = pieces_.IdOf(one);
      const auto made_of =
          pieces_.has_unused() && pieces_.KindOf(id) == Kind::kUnused ? made_of_.find(one) : made_of_.end();
      if (made_of == made_of_.end()) {
        out->push_back({one, id});
        continue;
      }
      todo.push_back(made_of->second.second);
      todo.push_back(made_of->second.first);
    }
  }

  const Pieces& pieces_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Pair> agenda_;
  std::unordered_map<std::string_view, std::pair<std::string_view, std::string_view>> made_of_;
};

// The segmentation of the highest score (Kudo, 1804.10959), with the library's single precision.
class UnigramSearch {
 public:
  UnigramSearch(const SentencePieceModel& model, const Pieces& pieces) : pieces_(pieces), unknown_(model.unknown) {
    float lowest = FLT_MAX;
    std::vector<std::pair<std::string_view, int32_t>> entries;
    for (size_t i = 0; i < model.pieces.size(); ++i) {
      const auto& piece = model.pieces[i];
      if (piece.kind == Kind::kNormal) {
        lowest = std::min(lowest, piece.score);
        highest_ = std::max(highest_, piece.score);
      }
      if (IsOfText(piece.kind) && piece.kind != Kind::kUnused)
        entries.emplace_back(piece.text, static_cast<int32_t>(i));
    }
    constexpr float kUnknownPenalty = 10;
    unknown_score_ = lowest - kUnknownPenalty;
    trie_ = TokenTrie(std::move(entries));
  }

  void Run(std::string_view text, std::vector<Segment>* out) const {
    struct Way {
      float score = 0;
      int32_t id = -1;
      size_t begin = SIZE_MAX;
    };
    std::vector<Way> ways(text.size() + 1);
    for (size_t begin = 0; begin < text.size();) {
      const float so_far = ways[begin].score;
      const size_t character = DecodeUtf8(text, begin).length;
      bool covered = false;
      const auto offer = [&](size_t length, double score, int32_t id) {
        Way& way = ways[begin + length];
        if (way.begin == SIZE_MAX || score > way.score) way = {static_cast<float>(score), id, begin};
      };
      trie_.ForEachPrefix(text.substr(begin), [&](size_t length, int32_t id) {
        // A symbol of the user is always taken.
        const double score = pieces_.KindOf(id) == Kind::kUserDefined ? static_cast<float>(length) * highest_ - 0.1
                                                                      : pieces_.ScoreOf(id);
        offer(length, score + so_far, id);
        covered = covered || length == character;
      });
      if (!covered) offer(character, unknown_score_ + so_far, unknown_);
      begin += character;
    }
    const size_t first = out->size();
    for (size_t end = text.size(); end > 0; end = ways[end].begin)
      out->push_back({text.substr(ways[end].begin, end - ways[end].begin), ways[end].id});
    std::reverse(out->begin() + static_cast<std::ptrdiff_t>(first), out->end());
  }

 private:
  const Pieces& pieces_;
  TokenTrie trie_;
  float unknown_score_ = 0, highest_ = FLT_MIN;
  int32_t unknown_;
};

class SentencePieceTokenizer : public Tokenizer {
 public:
  static std::shared_ptr<const Tokenizer> Make(SentencePieceModel model, const SentencePieceSettings& settings) {
    Common common;
    for (size_t id = 0; id < model.pieces.size(); ++id) {
      common.texts.push_back(model.pieces[id].text);
      if (model.pieces[id].kind == Kind::kControl) common.special_ids.push_back(static_cast<int32_t>(id));
    }
    common.special.bos = model.bos;
    common.special.eos = model.eos;
    common.special.pad = model.pad;
    common.special.unknown = model.unknown;
    using Step = PostProcessor::Step;
    const bool bos = settings.add_bos.value_or(model.bos >= 0) && model.bos >= 0;
    const bool eos = settings.add_eos.value_or(model.bos < 0) && model.eos >= 0;
    std::vector<Step> single, pair;
    const auto add = [&](std::vector<Step>* steps, Step::Kind text, int32_t type) {
      if (bos) steps->push_back({Step::Kind::kSpecial, model.bos, type});
      steps->push_back({text, -1, type});
      if (eos) steps->push_back({Step::Kind::kSpecial, model.eos, type});
    };
    add(&single, Step::Kind::kFirst, 0);
    add(&pair, Step::Kind::kFirst, 0);
    add(&pair, Step::Kind::kSecond, 1);
    common.post_processor = PostProcessor(std::move(single), std::move(pair));
    return std::make_shared<SentencePieceTokenizer>(std::move(model), std::move(common));
  }

  SentencePieceTokenizer(SentencePieceModel model, Common common)
      : Tokenizer(std::move(common)), model_(std::move(model)), pieces_(model_), unigram_(model_, pieces_), cache_(14) {
    for (int b = 0; model_.byte_fallback && b < 256; ++b)
      byte_ids_[b] = pieces_.IdOf(ByteToken(static_cast<uint8_t>(b)));
    // Where no piece crosses the place before a space, words can be looked at one by one.
    cuts_ = model_.type == SentencePieceModel::Type::kBpe && pieces_.Find(kSpaceSign) >= 0;
    for (const auto& piece : model_.pieces) cuts_ = cuts_ && !CrossesSpace(piece.text);
  }

  std::vector<int32_t> Encode(std::string_view text) const override {
    const std::string normalized = Normalize(text);
    std::vector<int32_t> ids;
    ids.reserve(normalized.size() / 3 + 8);
    if (!cuts_) {
      AppendIds(normalized, &ids);
      return ids;
    }
    const std::string_view all = normalized;
    for (size_t begin = 0; begin < all.size();) {
      size_t end = begin;
      while (all.substr(end).starts_with(kSpaceSign)) end += kSpaceSign.size();
      end = std::min(all.find(kSpaceSign, end), all.size());
      AppendWord(all.substr(begin, end - begin), &ids);
      begin = end;
    }
    return ids;
  }

  std::string Decode(std::span<const int32_t> ids) const override {
    std::string out, bytes;
    bool at_begin = true, took_space = false;
    const auto flush = [&] {
      for (size_t position = 0; position < bytes.size();) {
        const DecodedChar c = DecodeUtf8(bytes, position);
        AppendUtf8(c.code_point, &out);
        position += c.length;
      }
      bytes.clear();
    };
    for (const int32_t id : ids) {
      if (TextOf(id).empty()) continue;  // out of range
      const Kind kind = pieces_.KindOf(id);
      if (kind == Kind::kByte) {
        bytes.push_back(static_cast<char>(ByteOfToken(TextOf(id)).value_or(0)));
        continue;
      }
      flush();
      if (took_space || !out.empty()) at_begin = false;
      took_space = false;
      if (kind == Kind::kUnknown) out += model_.unknown_surface;
      if (kind == Kind::kUnknown || kind == Kind::kControl) continue;
      std::string_view piece = TextOf(id);
      if (at_begin && (model_.add_dummy_prefix || model_.remove_extra_whitespaces) && piece.starts_with(kSpaceSign)) {
        piece.remove_prefix(kSpaceSign.size());
        took_space = !model_.remove_extra_whitespaces;
      }
      for (size_t at = piece.find(kSpaceSign); at != std::string_view::npos; at = piece.find(kSpaceSign)) {
        out.append(piece.substr(0, at)).push_back(' ');
        piece.remove_prefix(at + kSpaceSign.size());
      }
      out += piece;
    }
    flush();
    return out;
  }

 private:
  static bool CrossesSpace(std::string_view text) {
    for (size_t at = text.find(kSpaceSign); at != std::string_view::npos; at = text.find(kSpaceSign, at + 1)) {
      if (at > 0 && !text.substr(0, at).ends_with(kSpaceSign)) return true;
    }
    return false;
  }

  // What the text begins with after the rules of the model, and how long it was.
  std::pair<std::string_view, size_t> NormalizePrefix(std::string_view text) const {
    if (const size_t user = pieces_.UserSymbol(text); user > 0) return {text.substr(0, user), user};
    if (model_.charsmap) {
      if (const CharsMap::Match match = model_.charsmap->Longest(text); match.length > 0)
        return {match.with, match.length};
    }
    const DecodedChar c = DecodeUtf8(text, 0);
    if (c.length == 1 && c.code_point == 0xFFFD) return {"\uFFFD", 1};
    return {text.substr(0, c.length), c.length};
  }

  std::string Normalize(std::string_view text) const {
    std::string out;
    const std::string_view space = model_.escape_whitespaces ? kSpaceSign : std::string_view(" ");
    const bool lean = model_.remove_extra_whitespaces;
    while (lean && !text.empty()) {
      const auto [prefix, length] = NormalizePrefix(text);
      if (prefix != " ") break;
      text.remove_prefix(length);
    }
    if (text.empty()) return out;
    out.reserve(text.size() + text.size() / 2);
    if (!model_.whitespace_as_suffix && model_.add_dummy_prefix) out += space;
    const size_t most = MaxNormalizedBytes(text.size());
    for (bool after_space = lean; !text.empty() && out.size() <= most;) {
      auto [prefix, length] = NormalizePrefix(text);
      while (after_space && prefix.starts_with(' ')) prefix.remove_prefix(1);
      for (const char c : prefix) {
        if (c == ' ') {
          out += space;
        } else {
          out.push_back(c);
        }
      }
      if (!prefix.empty()) after_space = prefix.ends_with(' ');
      if (!lean) after_space = false;
      text.remove_prefix(length);
    }
    while (lean && std::string_view(out).ends_with(space)) out.resize(out.size() - space.size());
    if (model_.whitespace_as_suffix && model_.add_dummy_prefix) out += space;
    return out;
  }

  void AppendWord(std::string_view word, std::vector<int32_t>* ids) const {
    WordCache::Key key;
    if (!WordCache::MakeKey(word, &key)) return AppendIds(word, ids);
    if (cache_.Find(key, ids)) return;
    const size_t before = ids->size();
    AppendIds(word, ids);
    cache_.Put(key, *ids, ids->size() - before);
  }

  void AppendIds(std::string_view text, std::vector<int32_t>* ids) const {
    std::vector<Segment> segments;
    if (model_.type == SentencePieceModel::Type::kBpe) {
      ScoredBpe(pieces_, text).Run(&segments);
    } else {
      unigram_.Run(text, &segments);
    }
    bool after_unknown = false;
    for (const Segment& segment : segments) {
      const bool unknown = segment.id == model_.unknown;
      if (unknown && model_.byte_fallback) {
        for (const char byte : segment.text) ids->push_back(byte_ids_[static_cast<uint8_t>(byte)]);
      } else if (!unknown || !after_unknown) {
        ids->push_back(segment.id);
      }
      after_unknown = unknown;
    }
  }

  SentencePieceModel model_;
  Pieces pieces_;
  UnigramSearch unigram_;
  WordCache cache_;
  std::array<int32_t, 256> byte_ids_{};
  bool cuts_ = false;
};

}  // namespace

Result<std::shared_ptr<const Tokenizer>> ReadSentencePiece(std::string_view model_bytes,
                                                           const SentencePieceSettings& settings) {
  HEDDLE_ASSIGN_OR_RETURN(SentencePieceModel model, ParseSentencePieceModel(model_bytes));
  return SentencePieceTokenizer::Make(std::move(model), settings);
}

}  // namespace heddle::model
