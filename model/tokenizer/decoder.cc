#include "model/tokenizer/decoder.h"

#include <boost/json.hpp>
#include <utility>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/json_members.h"
#include "model/tokenizer/unicode.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

// Replacements can make a text longer: not more than 8 times each, and few of them.
constexpr size_t kMaxContentBytes = 8, kMaxReplacements = 3;
constexpr int kMaxDepth = 4;
constexpr std::string_view kKnown = "ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, Strip, WordPiece";

using DecoderPtr = std::unique_ptr<const Decoder>;

void ReplaceAll(std::string_view what, std::string_view with, std::string* text) {
  size_t at = text->find(what);
  if (at == std::string::npos) return;
  std::string out;
  size_t done = 0;
  for (; at != std::string::npos; at = text->find(what, done)) {
    out.append(*text, done, at - done).append(with);
    done = at + what.size();
  }
  *text = out.append(*text, done);
}

class SequenceDecoder : public Decoder {
 public:
  explicit SequenceDecoder(std::vector<DecoderPtr> parts) : parts_(std::move(parts)) {}
  void Apply(std::vector<std::string>* tokens) const override {
    for (const DecoderPtr& part : parts_) part->Apply(tokens);
  }

 private:
  std::vector<DecoderPtr> parts_;
};

class JoinWithSpaces : public Decoder {
 public:
  void Apply(std::vector<std::string>* tokens) const override {
    for (size_t i = 1; i < tokens->size(); ++i) (*tokens)[i].insert(0, " ");
  }
};

// "<0x41>" is the byte 41. Bytes in a row that are no valid UTF-8 are one U+FFFD each.
class ByteFallbackDecoder : public Decoder {
 public:
  void Apply(std::vector<std::string>* tokens) const override {
    std::vector<std::string> out;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (!IsValidUtf8(bytes)) {
        std::string replaced;
        for (size_t i = 0; i < bytes.size(); ++i) replaced += "\uFFFD";
        bytes = std::move(replaced);
      }
      out.push_back(std::move(bytes));
      bytes.clear();
    };
    for (std::string& token : *tokens) {
      if (const auto byte = ByteOfToken(token)) {
        bytes.push_back(static_cast<char>(*byte));
        continue;
      }
      flush();
      out.push_back(std::move(token));
    }
    flush();
    *tokens = std::move(out);
  }
};

class FuseDecoder : public Decoder {
 public:
  void Apply(std::vector<std::string>* tokens) const override {
    std::string all;
    for (const std::string& token : *tokens) all += token;
    tokens->assign(1, all);
  }
};

class MetaspaceDecoder : public Decoder {
 public:
  MetaspaceDecoder(std::string sign, bool prepended) : sign_(std::move(sign)), prepended_(prepended) {}
  void Apply(std::vector<std::string>* tokens) const override {
    for (size_t i = 0; i < tokens->size(); ++i) ReplaceAll(sign_, i == 0 && prepended_ ? "" : " ", &(*tokens)[i]);
  }

 private:
  std::string sign_;
  bool prepended_;
};

class ReplaceDecoder : public Decoder {
 public:
  ReplaceDecoder(std::string what, std::string with) : what_(std::move(what)), with_(std::move(with)) {}
  void Apply(std::vector<std::string>* tokens) const override {
    for (std::string& token : *tokens) ReplaceAll(what_, with_, &token);
  }

 private:
  std::string what_, with_;
};

// Takes a character away at the start and end of each token, so many times at most.
class StripDecoder : public Decoder {
 public:
  StripDecoder(std::string content, int64_t start, int64_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}
  void Apply(std::vector<std::string>* tokens) const override {
    for (std::string& token : *tokens) {
      size_t begin = 0, end = token.size();
      for (int64_t i = 0; i < start_ && std::string_view(token).substr(begin).starts_with(content_); ++i)
        begin += content_.size();
      for (int64_t i = 0; i < stop_ && end - begin >= content_.size() &&
                          std::string_view(token).substr(begin, end - begin).ends_with(content_);
           ++i) {
        end -= content_.size();
      }
      token = token.substr(begin, end - begin);
    }
  }

 private:
  std::string content_;
  int64_t start_, stop_;
};

class WordPieceDecoder : public Decoder {
 public:
  WordPieceDecoder(std::string prefix, bool cleanup) : prefix_(std::move(prefix)), cleanup_(cleanup) {}
  void Apply(std::vector<std::string>* tokens) const override {
    for (size_t i = 0; i < tokens->size(); ++i) {
      std::string& token = (*tokens)[i];
      if (i > 0 && token.starts_with(prefix_)) {
        token.erase(0, prefix_.size());
      } else if (i > 0) {
        token.insert(0, " ");
      }
      if (cleanup_) CleanUp(&token);
    }
  }

 private:
  // The spaces that a tokenizer of English puts where a writer has none.
  static void CleanUp(std::string* text) {
    constexpr std::pair<const char*, const char*> kRules[] = {
        {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
        {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (const auto& [what, with] : kRules) ReplaceAll(what, with, text);
  }
  std::string prefix_;
  bool cleanup_;
};

template <typename T, typename... Arguments>
Result<DecoderPtr> Make(Arguments&&... arguments) {
  return DecoderPtr(std::make_unique<T>(std::forward<Arguments>(arguments)...));
}

Result<DecoderPtr> ParseMetaspace(const json::object& object) {
  HEDDLE_ASSIGN_OR_RETURN(const char32_t replacement, CharacterMember(object, "replacement", U'\u2581'));
  HEDDLE_ASSIGN_OR_RETURN(const bool legacy, BoolMember(object, "add_prefix_space", true));
  HEDDLE_ASSIGN_OR_RETURN(const std::string scheme,
                          StringMember(object, "prepend_scheme", legacy ? "always" : "never"));
  std::string sign;
  AppendUtf8(replacement, &sign);
  return Make<MetaspaceDecoder>(std::move(sign), scheme != "never");
}

Result<DecoderPtr> ParseReplace(const json::object& object) {
  const json::value* pattern = Member(object, "pattern");
  if (pattern != nullptr && pattern->is_object()) pattern = Member(pattern->get_object(), "String");
  if (pattern == nullptr || !pattern->is_string() || pattern->get_string().empty())
    return InvalidArgument("the pattern of the decoder Replace must be {\"String\": ...}");
  HEDDLE_ASSIGN_OR_RETURN(std::string content, StringMember(object, "content"));
  if (content.size() > kMaxContentBytes)
    return InvalidArgument("the content of the decoder Replace has more than 8 bytes");
  return Make<ReplaceDecoder>(std::string(pattern->get_string()), std::move(content));
}

Result<DecoderPtr> Parse(const json::value* value, int depth, size_t* replacements);

Result<DecoderPtr> ParseSequence(const Component& component, int depth, size_t* replacements) {
  if (depth >= kMaxDepth) return InvalidArgument("decoders are nested too deeply");
  HEDDLE_ASSIGN_OR_RETURN(const json::array* list, SequenceMembers(component, "decoders"));
  std::vector<DecoderPtr> parts;
  for (const json::value& one : *list) {
    HEDDLE_ASSIGN_OR_RETURN(DecoderPtr part, Parse(&one, depth + 1, replacements));
    if (part != nullptr) parts.push_back(std::move(part));
  }
  return Make<SequenceDecoder>(std::move(parts));
}

Result<DecoderPtr> Parse(const json::value* value, int depth, size_t* replacements) {
  HEDDLE_ASSIGN_OR_RETURN(const Component component, ReadComponent(value, "decoder"));
  if (component.object == nullptr) return Make<JoinWithSpaces>();
  const std::string_view type = component.type;
  const json::object& object = *component.object;
  if (type == "Sequence") return ParseSequence(component, depth, replacements);
  if (type == "ByteFallback") return Make<ByteFallbackDecoder>();
  if (type == "Fuse") return Make<FuseDecoder>();
  if (type == "Metaspace") return ParseMetaspace(object);
  if (type == "Replace") {
    if (++*replacements > kMaxReplacements) return InvalidArgument("more than 3 decoders Replace");
    return ParseReplace(object);
  }
  if (type == "Strip") {
    HEDDLE_ASSIGN_OR_RETURN(const char32_t content, CharacterMember(object, "content", U' '));
    HEDDLE_ASSIGN_OR_RETURN(const int64_t start, IntMember(object, "start", 0));
    HEDDLE_ASSIGN_OR_RETURN(const int64_t stop, IntMember(object, "stop", 0));
    std::string text;
    AppendUtf8(content, &text);
    return Make<StripDecoder>(std::move(text), start, stop);
  }
  if (type == "WordPiece") {
    HEDDLE_ASSIGN_OR_RETURN(std::string prefix, StringMember(object, "prefix", "##"));
    HEDDLE_ASSIGN_OR_RETURN(const bool cleanup, BoolMember(object, "cleanup", true));
    return Make<WordPieceDecoder>(std::move(prefix), cleanup);
  }
  return UnsupportedComponent("decoder", type, kKnown);
}

}  // namespace

Result<DecoderPtr> ParseDecoder(const json::value* value, bool byte_level) {
  size_t replacements = 0;
  if (!byte_level) return Parse(value, 0, &replacements);
  HEDDLE_ASSIGN_OR_RETURN(const Component component, ReadComponent(value, "decoder"));
  if (component.object == nullptr || component.type == "ByteLevel") return DecoderPtr();
  return UnsupportedComponent("decoder after the pre_tokenizer ByteLevel", component.type, "ByteLevel");
}

}  // namespace heddle::model
