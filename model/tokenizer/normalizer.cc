#include "model/tokenizer/normalizer.h"

#include <algorithm>
#include <boost/json.hpp>
#include <functional>
#include <utility>
#include <vector>

#include "model/tokenizer/json_members.h"
#include "model/tokenizer/pattern.h"
#include "model/tokenizer/precompiled.h"
#include "model/tokenizer/unicode.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr int kMaxDepth = 4;
constexpr size_t kMaxParts = 32;
constexpr std::string_view kKnown =
    "BertNormalizer, Lowercase, NFC, NFD, NFKC, NFKD, Nmt, Precompiled, Prepend, Replace, Sequence, Strip, "
    "StripAccents";

using NormalizerPtr = std::unique_ptr<const Normalizer>;

// Of real texts compatibility forms are the longest, three times in whole scripts and eleven for a single character.
constexpr size_t kMaxGrowth = 16, kGrowthForAll = 4096, kMaxLongGrowth = 4, kLongGrowthForAll = size_t{16} << 20;
constexpr size_t kMaxContentBytes = 256;

class SequenceNormalizer : public Normalizer {
 public:
  explicit SequenceNormalizer(std::vector<NormalizerPtr> parts) : parts_(std::move(parts)) {}
  void Apply(std::string* text) const override {
    const size_t most = MaxNormalizedBytes(text->size());
    for (const NormalizerPtr& part : parts_) {
      part->ApplyWithin(most, text);
      if (text->size() > most) text->resize(most);
    }
  }

 private:
  std::vector<NormalizerPtr> parts_;
};

class FormNormalizer : public Normalizer {
 public:
  explicit FormNormalizer(NormalForm form) : form_(form) {}
  void Apply(std::string* text) const override {
    if (!IsAscii(*text)) *text = Normalize(form_, *text);
  }

 private:
  NormalForm form_;
};

// Each character by itself: `map` appends what becomes of it.
class CharacterNormalizer : public Normalizer {
 public:
  using Map = void (*)(char32_t, std::string*);
  explicit CharacterNormalizer(Map map) : map_(map) {}
  void Apply(std::string* text) const override {
    std::string out;
    out.reserve(text->size());
    for (size_t position = 0; position < text->size();) {
      const DecodedChar c = DecodeUtf8(*text, position);
      map_(c.code_point, &out);
      position += c.length;
    }
    *text = std::move(out);
  }

 private:
  Map map_;
};

void AppendUnlessMark(char32_t c, std::string* out) {
  if (c < 0x80 || !IsMark(c)) AppendUtf8(c, out);
}

// The cleaning of the NMT models that SentencePiece grew up with: control characters go, odd white space is a space.
void AppendNmt(char32_t c, std::string* out) {
  if ((c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F) return;
  const bool space = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
                     c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
  AppendUtf8(space ? U' ' : c, out);
}

class StripNormalizer : public Normalizer {
 public:
  StripNormalizer(bool left, bool right) : left_(left), right_(right) {}
  void Apply(std::string* text) const override {
    size_t begin = 0, end = text->size();
    while (left_ && begin < end) {
      const DecodedChar c = DecodeUtf8(*text, begin);
      if (!IsWhiteSpace(c.code_point)) break;
      begin += c.length;
    }
    while (right_ && end > begin) {
      const size_t last = LastCharacter(std::string_view(*text).substr(0, end));
      if (!IsWhiteSpace(DecodeUtf8(*text, last).code_point)) break;
      end = last;
    }
    *text = text->substr(begin, end - begin);
  }

 private:
  bool left_, right_;
};

class PrependNormalizer : public Normalizer {
 public:
  explicit PrependNormalizer(std::string prefix) : prefix_(std::move(prefix)) {}
  void Apply(std::string* text) const override {
    if (!text->empty()) text->insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class ReplaceNormalizer : public Normalizer {
 public:
  ReplaceNormalizer(std::unique_ptr<const Pattern> pattern, std::string with)
      : pattern_(std::move(pattern)), with_(std::move(with)) {}
  void Apply(std::string* text) const override { ApplyWithin(SIZE_MAX, text); }
  void ApplyWithin(size_t most, std::string* text) const override {
    std::string out;
    size_t done = 0;
    pattern_->ForEachMatch(*text, [&](size_t begin, size_t end) {
      if (out.size() > most) return;
      out.append(*text, done, begin - done).append(with_);
      done = end;
    });
    if (done == 0 && out.empty()) return;
    if (out.size() <= most) out.append(*text, done);
    *text = std::move(out);
  }

 private:
  std::unique_ptr<const Pattern> pattern_;
  std::string with_;
};

template <typename T, typename... Arguments>
Result<NormalizerPtr> Make(Arguments&&... arguments) {
  return NormalizerPtr(std::make_unique<T>(std::forward<Arguments>(arguments)...));
}

Result<NormalizerPtr> ParseBert(const json::object& object) {
  BertNormalizerOptions options;
  HEDDLE_ASSIGN_OR_RETURN(options.clean_text, BoolMember(object, "clean_text", true));
  HEDDLE_ASSIGN_OR_RETURN(options.handle_chinese_chars, BoolMember(object, "handle_chinese_chars", true));
  HEDDLE_ASSIGN_OR_RETURN(options.lowercase, BoolMember(object, "lowercase", true));
  HEDDLE_ASSIGN_OR_RETURN(options.strip_accents, BoolMember(object, "strip_accents", options.lowercase));
  return MakeBertNormalizer(options);
}

Status CheckContent(const std::string& content) {
  if (content.size() <= kMaxContentBytes) return OkStatus();
  return InvalidArgument("what a normalizer puts into the text has " + std::to_string(content.size()) +
                         " bytes; at most " + std::to_string(kMaxContentBytes) + " are allowed");
}

Result<NormalizerPtr> ParseReplace(const json::object& object) {
  HEDDLE_ASSIGN_OR_RETURN(auto pattern, Pattern::FromJson(Member(object, "pattern"), "the normalizer Replace"));
  HEDDLE_ASSIGN_OR_RETURN(std::string content, StringMember(object, "content"));
  HEDDLE_RETURN_IF_ERROR(CheckContent(content));
  return Make<ReplaceNormalizer>(std::move(pattern), std::move(content));
}

Result<NormalizerPtr> ParseOne(const Component& component) {
  const std::string_view type = component.type;
  const json::object& object = *component.object;
  if (type == "BertNormalizer") return ParseBert(object);
  if (type == "Replace") return ParseReplace(object);
  if (type == "NFC") return Make<FormNormalizer>(NormalForm::kNfc);
  if (type == "NFD") return Make<FormNormalizer>(NormalForm::kNfd);
  if (type == "NFKC") return Make<FormNormalizer>(NormalForm::kNfkc);
  if (type == "NFKD") return Make<FormNormalizer>(NormalForm::kNfkd);
  if (type == "Lowercase") return Make<CharacterNormalizer>(&AppendLowercase);
  if (type == "StripAccents") return Make<CharacterNormalizer>(&AppendUnlessMark);
  if (type == "Nmt") return Make<CharacterNormalizer>(&AppendNmt);
  if (type == "Strip") {
    HEDDLE_ASSIGN_OR_RETURN(const bool left, BoolMember(object, "strip_left", true));
    HEDDLE_ASSIGN_OR_RETURN(const bool right, BoolMember(object, "strip_right", true));
    return Make<StripNormalizer>(left, right);
  }
  if (type == "Prepend") {
    HEDDLE_ASSIGN_OR_RETURN(std::string prefix, StringMember(object, "prepend"));
    HEDDLE_RETURN_IF_ERROR(CheckContent(prefix));
    return Make<PrependNormalizer>(std::move(prefix));
  }
  if (type == "Precompiled") {
    HEDDLE_ASSIGN_OR_RETURN(const std::string map, StringMember(object, "precompiled_charsmap"));
    HEDDLE_ASSIGN_OR_RETURN(CharsMap charsmap, CharsMap::FromBase64(map));
    return Make<PrecompiledNormalizer>(std::move(charsmap));
  }
  return UnsupportedComponent("normalizer", type, kKnown);
}

// Sequences inside Sequences become one.
Status Collect(const json::value* value, int depth, std::vector<NormalizerPtr>* parts) {
  HEDDLE_ASSIGN_OR_RETURN(const Component component, ReadComponent(value, "normalizer"));
  if (component.object == nullptr) return OkStatus();
  if (component.type != "Sequence") {
    if (parts->size() >= kMaxParts) return InvalidArgument("there are too many normalizers");
    HEDDLE_ASSIGN_OR_RETURN(NormalizerPtr part, ParseOne(component));
    parts->push_back(std::move(part));
    return OkStatus();
  }
  if (depth >= kMaxDepth) return InvalidArgument("normalizers are nested too deeply");
  HEDDLE_ASSIGN_OR_RETURN(const json::array* list, SequenceMembers(component, "normalizers"));
  for (const json::value& one : *list) HEDDLE_RETURN_IF_ERROR(Collect(&one, depth + 1, parts));
  return OkStatus();
}

}  // namespace

size_t MaxNormalizedBytes(size_t bytes) {
  return std::min(bytes * kMaxGrowth + kGrowthForAll, bytes * kMaxLongGrowth + kLongGrowthForAll);
}

Result<NormalizerPtr> ParseNormalizer(const json::value* value) {
  std::vector<NormalizerPtr> parts;
  HEDDLE_RETURN_IF_ERROR(Collect(value, 0, &parts));
  if (parts.empty()) return NormalizerPtr();
  return Make<SequenceNormalizer>(std::move(parts));
}

}  // namespace heddle::model
