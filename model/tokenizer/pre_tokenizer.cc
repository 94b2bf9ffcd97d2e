#include "model/tokenizer/pre_tokenizer.h"

#include <array>
#include <boost/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/json_members.h"
#include "model/tokenizer/pattern.h"
#include "model/tokenizer/unicode.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr int kMaxDepth = 4;
constexpr std::string_view kKnown =
    "BertPreTokenizer, ByteLevel, CharDelimiterSplit, Digits, Metaspace, Punctuation, Sequence, Split, Whitespace, "
    "WhitespaceSplit";
constexpr std::string_view kSpaceSign = "\u2581";

using PreTokenizerPtr = std::unique_ptr<const PreTokenizer>;

// What becomes of the characters, or matches, at which a text is cut.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Result<Behavior> ParseBehavior(const json::object& object, std::string_view otherwise) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string name, StringMember(object, "behavior", otherwise));
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return UnsupportedComponent("behavior", name, "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
}

// Turns matches and what is between them into words. Both come in order, and together they are the text.
class Cutter {
 public:
  Cutter(std::string_view text, bool first, Behavior behavior, WordSink& sink)
      : text_(text), first_(first), behavior_(behavior), sink_(sink) {}

  void Add(size_t begin, size_t end, bool match) {
    if (begin == end) return;
    switch (behavior_) {
      case Behavior::kRemoved:
        if (!match) Emit(begin, end);
        break;
      case Behavior::kIsolated:
        Emit(begin, end);
        break;
      case Behavior::kContiguous:
        if (open_ && match == open_match_) {
          end_ = end;
        } else {
          Open(begin, end, match);
        }
        break;
      case Behavior::kMergedWithPrevious:
        if (match && open_ && !open_match_) {
          end_ = end;
          open_match_ = true;
        } else {
          Open(begin, end, match);
        }
        break;
      case Behavior::kMergedWithNext:
        if (!match && open_ && open_match_) {
          end_ = end;
          open_match_ = false;
        } else {
          Open(begin, end, match);
        }
        break;
    }
  }
  void Finish() {
    if (open_) Emit(begin_, end_);
    open_ = false;
  }

 private:
  void Open(size_t begin, size_t end, bool match) {
    Finish();
    begin_ = begin, end_ = end, open_match_ = match, open_ = true;
  }
  void Emit(size_t begin, size_t end) { sink_.Word(text_.substr(begin, end - begin), first_ && begin == 0); }

  std::string_view text_;
  bool first_;
  Behavior behavior_;
  WordSink& sink_;
  size_t begin_ = 0, end_ = 0;
  bool open_ = false, open_match_ = false;
};

// Cut at the matches of a pattern, or at what is between them.
class SplitPreTokenizer : public PreTokenizer {
 public:
  SplitPreTokenizer(std::unique_ptr<const Pattern> pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void Split(std::string_view text, bool first, WordSink& sink) const override {
    Cutter cutter(text, first, behavior_, sink);
    size_t done = 0;
    pattern_->ForEachMatch(text, [&](size_t begin, size_t end) {
      cutter.Add(done, begin, invert_);
      cutter.Add(begin, end, !invert_);
      done = end;
    });
    cutter.Add(done, text.size(), invert_);
    cutter.Finish();
  }

 private:
  std::unique_ptr<const Pattern> pattern_;
  Behavior behavior_;
  bool invert_;
};

// Cut at each character of a class.
class CharacterPreTokenizer : public PreTokenizer {
 public:
  using Is = bool (*)(char32_t);
  CharacterPreTokenizer(Is is, Behavior behavior) : is_(is), behavior_(behavior) {}
  void Split(std::string_view text, bool first, WordSink& sink) const override {
    Cutter cutter(text, first, behavior_, sink);
    size_t done = 0;
    for (size_t position = 0; position < text.size();) {
      const DecodedChar c = DecodeUtf8(text, position);
      if (is_(c.code_point)) {
        cutter.Add(done, position, false);
        cutter.Add(position, position + c.length, true);
        done = position + c.length;
      }
      position += c.length;
    }
    cutter.Add(done, text.size(), false);
    cutter.Finish();
  }

 private:
  Is is_;
  Behavior behavior_;
};

class DelimiterPreTokenizer : public PreTokenizer {
 public:
  explicit DelimiterPreTokenizer(char32_t delimiter) { AppendUtf8(delimiter, &delimiter_); }
  void Split(std::string_view text, bool first, WordSink& sink) const override {
    for (size_t begin = 0; begin <= text.size();) {
      const size_t end = std::min(text.find(delimiter_, begin), text.size());
      if (end > begin) sink.Word(text.substr(begin, end - begin), first && begin == 0);
      begin = end + delimiter_.size();
    }
  }

 private:
  std::string delimiter_;
};

// Runs of classes: white space goes, words stay together, and so do runs of marks ("Whitespace", the expression
// \w+|[^\w\s]+), or each mark is a word ("BertPreTokenizer").
class WordsPreTokenizer : public PreTokenizer {
 public:
  enum class Kind : uint8_t { kSpace, kWord, kMark };
  WordsPreTokenizer(Kind (*kind)(char32_t), bool marks_alone) : kind_(kind), marks_alone_(marks_alone) {
    for (char32_t c = 0; c < 0x80; ++c) ascii_[c] = kind(c);
  }
  void Split(std::string_view text, bool first, WordSink& sink) const override {
    size_t begin = 0;
    Kind run = Kind::kSpace;
    const auto flush = [&](size_t end) {
      if (run != Kind::kSpace) sink.Word(text.substr(begin, end - begin), first && begin == 0);
    };
    for (size_t position = 0; position < text.size();) {
      DecodedChar c{static_cast<uint8_t>(text[position]), 1};
      if (c.code_point >= 0x80) c = DecodeUtf8(text, position);
      const Kind kind = c.code_point < 0x80 ? ascii_[c.code_point] : kind_(c.code_point);
      if (kind != run || (marks_alone_ && kind == Kind::kMark)) {
        flush(position);
        begin = position;
        run = kind;
      }
      position += c.length;
    }
    flush(text.size());
  }

  static Kind Bert(char32_t c) { return IsWhiteSpace(c) ? Kind::kSpace : IsPunctuation(c) ? Kind::kMark : Kind::kWord; }
  static Kind Regex(char32_t c) {
    return IsWhiteSpace(c) ? Kind::kSpace : IsWordCharacter(c) ? Kind::kWord : Kind::kMark;
  }

 private:
  Kind (*kind_)(char32_t);
  bool marks_alone_;
  std::array<Kind, 0x80> ascii_{};
};

class ByteLevelPreTokenizer : public PreTokenizer {
 public:
  ByteLevelPreTokenizer(bool add_prefix_space, bool use_regex)
      : add_prefix_space_(add_prefix_space), use_regex_(use_regex) {}
  void Split(std::string_view text, bool first, WordSink& sink) const override {
    if (text.empty()) return;
    std::string prefixed;
    if (add_prefix_space_ && text[0] != ' ') {
      prefixed.reserve(text.size() + 1);
      prefixed.append(" ").append(text);
      text = prefixed;
    }
    if (!use_regex_) return sink.Word(text, first);
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = EndOfWord(text, begin);
      sink.Word(text.substr(begin, end - begin), first && begin == 0);
      begin = end;
    }
  }

 private:
  bool add_prefix_space_, use_regex_;
};

class CutBeforeSpaces : public PreTokenizer {
 public:
  explicit CutBeforeSpaces(std::string sign) : sign_(std::move(sign)) {}
  void Split(std::string_view text, bool first, WordSink& sink) const override {
    size_t begin = 0;
    for (size_t at = text.find(sign_, 1); at < text.size(); at = text.find(sign_, at + sign_.size())) {
      if (at >= begin + sign_.size() && text.substr(at - sign_.size(), sign_.size()) == sign_) continue;  // in a run
      sink.Word(text.substr(begin, at - begin), first && begin == 0);
      begin = at;
    }
    if (begin < text.size()) sink.Word(text.substr(begin), first && begin == 0);
  }

 private:
  std::string sign_;
};

class MetaspacePreTokenizer : public PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  MetaspacePreTokenizer(char32_t replacement, Prepend prepend, bool split) : prepend_(prepend), split_(split) {
    AppendUtf8(replacement, &sign_);
  }
  void Split(std::string_view text, bool first, WordSink& sink) const override {
    if (text.empty()) return;
    std::string signs;
    signs.reserve(text.size() + text.size() / 2 + sign_.size());
    const bool starts = text[0] == ' ' || text.starts_with(sign_);
    if (!starts && (prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && first))) signs = sign_;
    for (const char c : text) {
      if (c == ' ') {
        signs += sign_;
      } else {
        signs.push_back(c);
      }
    }
    if (!split_) return sink.Word(signs, first);
    // Each sign begins a word.
    const std::string_view all = signs;
    size_t begin = 0;
    for (size_t at = all.find(sign_, 1); at < all.size(); at = all.find(sign_, at + sign_.size())) {
      if (at > begin) sink.Word(all.substr(begin, at - begin), first && begin == 0);
      begin = at;
    }
    sink.Word(all.substr(begin), first && begin == 0);
  }

 private:
  std::string sign_;
  Prepend prepend_;
  bool split_;
};

// The words of one are the texts of the next.
class SequencePreTokenizer : public PreTokenizer {
 public:
  explicit SequencePreTokenizer(std::vector<PreTokenizerPtr> parts) : parts_(std::move(parts)) {}
  void Split(std::string_view text, bool first, WordSink& sink) const override { From(0, text, first, sink); }

 private:
  class Next : public WordSink {
   public:
    Next(const SequencePreTokenizer& sequence, size_t part, WordSink& last)
        : sequence_(sequence), part_(part), last_(last) {}
    void Word(std::string_view word, bool first) override { sequence_.From(part_, word, first, last_); }

   private:
    const SequencePreTokenizer& sequence_;
    size_t part_;
    WordSink& last_;
  };
  void From(size_t part, std::string_view text, bool first, WordSink& sink) const {
    if (part + 1 == parts_.size()) return parts_[part]->Split(text, first, sink);
    Next next(*this, part + 1, sink);
    parts_[part]->Split(text, first, next);
  }
  std::vector<PreTokenizerPtr> parts_;
};

Result<PreTokenizerPtr> ParseMetaspace(const json::object& object) {
  using Prepend = MetaspacePreTokenizer::Prepend;
  HEDDLE_ASSIGN_OR_RETURN(const char32_t replacement, CharacterMember(object, "replacement", U'\u2581'));
  HEDDLE_ASSIGN_OR_RETURN(const bool legacy, BoolMember(object, "add_prefix_space", true));
  HEDDLE_ASSIGN_OR_RETURN(const std::string scheme,
                          StringMember(object, "prepend_scheme", legacy ? "always" : "never"));
  HEDDLE_ASSIGN_OR_RETURN(const bool split, BoolMember(object, "split", true));
  if (scheme != "always" && scheme != "first" && scheme != "never")
    return UnsupportedComponent("prepend_scheme", scheme, "always, first, never");
  const Prepend prepend = scheme == "always" ? Prepend::kAlways : scheme == "first" ? Prepend::kFirst : Prepend::kNever;
  return PreTokenizerPtr(std::make_unique<MetaspacePreTokenizer>(replacement, prepend, split));
}

Result<PreTokenizerPtr> ParseSplit(const json::object& object) {
  HEDDLE_ASSIGN_OR_RETURN(auto pattern, Pattern::FromJson(Member(object, "pattern"), "the pre_tokenizer Split"));
  HEDDLE_ASSIGN_OR_RETURN(const Behavior behavior, ParseBehavior(object, "Isolated"));
  HEDDLE_ASSIGN_OR_RETURN(const bool invert, BoolMember(object, "invert", false));
  return PreTokenizerPtr(std::make_unique<SplitPreTokenizer>(std::move(pattern), behavior, invert));
}

Result<PreTokenizerPtr> ParseOne(const Component& component, ParsedPreTokenizer* all) {
  const std::string_view type = component.type;
  const json::object& object = *component.object;
  using Words = WordsPreTokenizer;
  if (type == "ByteLevel") {
    all->byte_level = true;
    HEDDLE_ASSIGN_OR_RETURN(const bool prefix, BoolMember(object, "add_prefix_space", true));
    HEDDLE_ASSIGN_OR_RETURN(const bool use_regex, BoolMember(object, "use_regex", true));
    if (prefix) all->keeps_bytes = false;
    return PreTokenizerPtr(std::make_unique<ByteLevelPreTokenizer>(prefix, use_regex));
  }
  if (type == "Digits") {
    HEDDLE_ASSIGN_OR_RETURN(const bool alone, BoolMember(object, "individual_digits", false));
    return PreTokenizerPtr(
        std::make_unique<CharacterPreTokenizer>(&IsNumeric, alone ? Behavior::kIsolated : Behavior::kContiguous));
  }
  if (type == "Split") {
    HEDDLE_ASSIGN_OR_RETURN(const Behavior behavior, ParseBehavior(object, "Isolated"));
    if (behavior == Behavior::kRemoved) all->keeps_bytes = false;
    return ParseSplit(object);
  }
  if (type == "Punctuation") {
    HEDDLE_ASSIGN_OR_RETURN(const Behavior behavior, ParseBehavior(object, "Isolated"));
    if (behavior == Behavior::kRemoved) all->keeps_bytes = false;
    return PreTokenizerPtr(std::make_unique<CharacterPreTokenizer>(&IsPunctuation, behavior));
  }
  all->keeps_bytes = false;
  if (type == "BertPreTokenizer") return PreTokenizerPtr(std::make_unique<Words>(&Words::Bert, true));
  if (type == "Whitespace") return PreTokenizerPtr(std::make_unique<Words>(&Words::Regex, false));
  if (type == "WhitespaceSplit")
    return PreTokenizerPtr(std::make_unique<CharacterPreTokenizer>(&IsWhiteSpace, Behavior::kRemoved));
  if (type == "CharDelimiterSplit") {
    HEDDLE_ASSIGN_OR_RETURN(const char32_t delimiter, CharacterMember(object, "delimiter", U' '));
    return PreTokenizerPtr(std::make_unique<DelimiterPreTokenizer>(delimiter));
  }
  if (type == "Metaspace") return ParseMetaspace(object);
  return UnsupportedComponent("pre_tokenizer", type, kKnown);
}

Status Collect(const json::value* value, int depth, ParsedPreTokenizer* all, std::vector<PreTokenizerPtr>* parts) {
  HEDDLE_ASSIGN_OR_RETURN(const Component component, ReadComponent(value, "pre_tokenizer"));
  if (component.object == nullptr) return OkStatus();
  if (component.type == "Sequence") {
    if (depth >= kMaxDepth) return InvalidArgument("pre_tokenizers are nested too deeply");
    HEDDLE_ASSIGN_OR_RETURN(const json::array* list, SequenceMembers(component, "pretokenizers"));
    for (const json::value& one : *list) HEDDLE_RETURN_IF_ERROR(Collect(&one, depth + 1, all, parts));
    return OkStatus();
  }
  if (parts->size() >= 32) return InvalidArgument("there are too many pre_tokenizers");
  if (all->byte_level) {
    return Unimplemented("the pre_tokenizer \"" + Shorten(component.type) +
                         "\" after ByteLevel is not supported: ByteLevel must be the last");
  }
  HEDDLE_ASSIGN_OR_RETURN(PreTokenizerPtr part, ParseOne(component, all));
  parts->push_back(std::move(part));
  return OkStatus();
}

}  // namespace

Result<ParsedPreTokenizer> ParsePreTokenizer(const json::value* value) {
  ParsedPreTokenizer all;
  std::vector<PreTokenizerPtr> parts;
  HEDDLE_RETURN_IF_ERROR(Collect(value, 0, &all, &parts));
  if (parts.size() == 1) all.pre_tokenizer = std::move(parts[0]);
  if (parts.size() > 1) all.pre_tokenizer = std::make_unique<SequencePreTokenizer>(std::move(parts));
  return all;
}

std::unique_ptr<const PreTokenizer> CutBeforeSpaceSigns() {
  return std::make_unique<CutBeforeSpaces>(std::string(kSpaceSign));
}

}  // namespace heddle::model
