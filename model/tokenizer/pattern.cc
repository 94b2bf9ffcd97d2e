#include "model/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <boost/json.hpp>
#include <utility>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/expression.h"
#include "model/tokenizer/json_members.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

// What PCRE2 may spend on the search from one place of a text. A real pattern takes a few thousand steps for the
// longest word.
constexpr uint32_t kMaxSteps = 2'000'000, kMaxHeapKib = 16 << 10;
constexpr size_t kMaxExpressionBytes = 4096;

class TextPattern : public Pattern {
 public:
  explicit TextPattern(std::string text) : text_(std::move(text)) {}
  void ForEachMatch(std::string_view text, const Found& found) const override {
    for (size_t at = text.find(text_); at != std::string_view::npos; at = text.find(text_, at + text_.size()))
      found(at, at + text_.size());
  }

 private:
  std::string text_;
};

struct Release {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

class RegexPattern : public Pattern {
 public:
  explicit RegexPattern(std::unique_ptr<pcre2_code, Release> code)
      : code_(std::move(code)), context_(pcre2_match_context_create(nullptr)) {
    // Without the JIT, where the machine has none, matching is slower and the same.
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
    pcre2_set_match_limit(context_.get(), kMaxSteps);
    pcre2_set_heap_limit(context_.get(), kMaxHeapKib);
  }

  void ForEachMatch(std::string_view text, const Found& found) const override {
    const std::unique_ptr<pcre2_match_data, Release> data(pcre2_match_data_create(1, nullptr));
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    const PCRE2_SIZE* where = pcre2_get_ovector_pointer(data.get());
    size_t position = 0;
    uint32_t options = 0;
    while (position <= text.size()) {
      const auto match = [&](uint32_t more) {
        return pcre2_match(code_.get(), subject, text.size(), position, options | more, data.get(), context_.get());
      };
      int count = match(0);
      // The JIT's stack ends at some thousands of characters of one word; the interpreter's heap holds far more.
      if (count == PCRE2_ERROR_JIT_STACKLIMIT) count = match(PCRE2_NO_JIT);
      if (count < 0 && options != 0 && position < text.size()) {  // nothing but the empty match: go on behind it
        position += DecodeUtf8(text, position).length;
        options = 0;
        continue;
      }
      if (count < 0) return;                                   // no further match, or a limit
      if (where[1] < where[0] || where[1] < position) return;  // \K in a lookahead may say so
      found(where[0], where[1]);
      position = where[1];
      options = where[0] == where[1] ? PCRE2_NOTEMPTY_ATSTART | PCRE2_ANCHORED : 0;
    }
  }

 private:
  std::unique_ptr<pcre2_code, Release> code_;
  std::unique_ptr<pcre2_match_context, Release> context_;
};

// GPT-2's expression, which is matched by hand: many times faster.
constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt2Grouped = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class Gpt2Pattern : public Pattern {
 public:
  void ForEachMatch(std::string_view text, const Found& found) const override {
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = EndOfWord(text, begin);
      found(begin, end);
      begin = end;
    }
  }
};

std::string PcreMessage(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

Result<std::unique_ptr<const Pattern>> Pattern::OfText(std::string text) {
  if (text.empty()) return InvalidArgument("a pattern is empty");
  return std::unique_ptr<const Pattern>(std::make_unique<TextPattern>(std::move(text)));
}

Result<std::unique_ptr<const Pattern>> Pattern::OfRegex(std::string_view expression) {
  if (expression == kGpt2 || expression == kGpt2Grouped)
    return std::unique_ptr<const Pattern>(std::make_unique<Gpt2Pattern>());
  if (expression.empty() || expression.size() > kMaxExpressionBytes) {
    return InvalidArgument("a regular expression must have from 1 to " + std::to_string(kMaxExpressionBytes) +
                           " bytes");
  }
  HEDDLE_ASSIGN_OR_RETURN(const std::string words, ToPcre2(expression));
  int code = 0;
  PCRE2_SIZE offset = 0;
  constexpr uint32_t kOptions =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C;
  std::unique_ptr<pcre2_code, Release> compiled(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(words.data()), words.size(), kOptions, &code, &offset, nullptr));
  if (compiled == nullptr) {
    return InvalidArgument("the regular expression \"" + Shorten(expression) + "\" is wrong: " + PcreMessage(code));
  }
  return std::unique_ptr<const Pattern>(std::make_unique<RegexPattern>(std::move(compiled)));
}

Result<std::unique_ptr<const Pattern>> Pattern::FromJson(const json::value* value, std::string_view where) {
  const json::object* object = value == nullptr ? nullptr : value->if_object();
  if (value != nullptr && value->is_string()) return OfText(std::string(value->get_string()));
  if (object != nullptr && Member(*object, "String") != nullptr) {
    HEDDLE_ASSIGN_OR_RETURN(std::string text, StringMember(*object, "String"));
    return OfText(std::move(text));
  }
  if (object != nullptr && Member(*object, "Regex") != nullptr) {
    HEDDLE_ASSIGN_OR_RETURN(const std::string expression, StringMember(*object, "Regex"));
    return OfRegex(expression);
  }
  return InvalidArgument("the pattern of " + std::string(where) + " must be {\"String\": ...} or {\"Regex\": ...}");
}

}  // namespace heddle::model
