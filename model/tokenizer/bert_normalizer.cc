#include <array>
#include <cstring>

#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/unicode.h"

namespace heddle::model {
namespace {

class BertNormalizer : public Normalizer {
 public:
  explicit BertNormalizer(const BertNormalizerOptions& options)
      : options_(options), strip_accents_(options.strip_accents.value_or(options.lowercase)) {
    for (int c = 0; c < 0x80; ++c) {
      char to = static_cast<char>(c);
      if (options.lowercase && c >= 'A' && c <= 'Z') to = static_cast<char>(c + 32);
      if (options.clean_text && IsWhiteSpace(static_cast<char32_t>(c))) to = ' ';
      removed_[c] = options.clean_text && IsRemoved(static_cast<char32_t>(c));
      to_[c] = to;
    }
  }

  void Apply(std::string* text) const override {
    // Texts are mostly ASCII, in which no step sees more than one character: that is done in one pass, in place.
    size_t out = 0;
    for (size_t in = 0; in < text->size(); ++in) {
      const auto c = static_cast<uint8_t>((*text)[in]);
      if (c >= 0x80) {
        // From the character before, which a combining mark may belong to.
        const size_t keep = out > 0 ? out - 1 : 0;
        std::string rest = text->substr(keep, out - keep);
        ApplySlowly(std::string_view(*text).substr(in), &rest);
        text->resize(keep);
        text->append(rest);
        return;
      }
      if (!removed_[c]) (*text)[out++] = to_[c];
    }
    text->resize(out);
  }

 private:
  // Appends what the steps, one after the other, make of `rest`.
  void ApplySlowly(std::string_view rest, std::string* done) const {
    std::string text = std::move(*done);
    text.reserve(text.size() + rest.size() + rest.size() / 8);
    for (size_t position = 0; position < rest.size();) {
      const DecodedChar c = DecodeUtf8(rest, position);
      Clean(c.code_point, &text);
      position += c.length;
    }
    if (strip_accents_) text = Normalize(NormalForm::kNfd, text);
    if (strip_accents_ || options_.lowercase) {
      std::string changed;
      changed.reserve(text.size());
      for (size_t position = 0; position < text.size();) {
        const DecodedChar c = DecodeUtf8(text, position);
        position += c.length;
        if (strip_accents_ && c.code_point >= 0x80 && IsNonspacingMark(c.code_point)) continue;
        if (options_.lowercase) {
          AppendLowercase(c.code_point, &changed);
        } else {
          AppendUtf8(c.code_point, &changed);
        }
      }
      text = std::move(changed);
    }
    *done = std::move(text);
  }

  // Before white space is looked for: form feed, vertical tab and U+0085 are control characters, and go as those.
  static bool IsRemoved(char32_t c) { return c == 0 || c == 0xFFFD || IsControl(c); }

  void Clean(char32_t c, std::string* out) const {
    if (options_.clean_text) {
      if (IsRemoved(c)) return;
      if (IsWhiteSpace(c)) {
        out->push_back(' ');
        return;
      }
    }
    const bool spaced = options_.handle_chinese_chars && IsIdeograph(c);
    if (spaced) out->push_back(' ');
    AppendUtf8(c, out);
    if (spaced) out->push_back(' ');
  }

  BertNormalizerOptions options_;
  bool strip_accents_;
  std::array<char, 0x80> to_{};
  std::array<bool, 0x80> removed_{};
};

}  // namespace

std::unique_ptr<const Normalizer> MakeBertNormalizer(const BertNormalizerOptions& options) {
  return std::make_unique<BertNormalizer>(options);
}

}  // namespace heddle::model
