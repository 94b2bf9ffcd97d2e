#include "model/tokenizer/unicode.h"

#include <unicode/normalizer2.h>
#include <unicode/ubrk.h>
#include <unicode/uchar.h>
#include <unicode/utext.h>

#include <algorithm>
#include <iterator>

#include "common/assert.h"

namespace heddle::model {
namespace {

struct CodePointRange {
  char32_t first, last;
};
#include "model/tokenizer/unicode_ranges.inc"

template <size_t N>
bool Contains(const CodePointRange (&ranges)[N], char32_t code_point) {
  const auto* range = std::upper_bound(std::begin(ranges), std::end(ranges), code_point,
                                       [](char32_t c, const CodePointRange& r) { return c < r.first; });
  return range != std::begin(ranges) && code_point <= std::prev(range)->last;
}

// ICU's data is part of its library: where it fails, the installation is broken.
void CheckIcu(UErrorCode error) { HEDDLE_ASSERT(U_SUCCESS(error), u_errorName(error)); }

// ICU sorts the marks of a character in quadratic time. A writer's have a handful; a hostile text's are sorted so many
// at a time.
constexpr size_t kMostMarks = 256;

uint32_t Mask(char32_t c) { return U_MASK(u_charType(static_cast<UChar32>(c))); }

const icu::Normalizer2& NormalizerOf(NormalForm form) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = nullptr;
  switch (form) {
    case NormalForm::kNfc:
      normalizer = icu::Normalizer2::getNFCInstance(error);
      break;
    case NormalForm::kNfd:
      normalizer = icu::Normalizer2::getNFDInstance(error);
      break;
    case NormalForm::kNfkc:
      normalizer = icu::Normalizer2::getNFKCInstance(error);
      break;
    case NormalForm::kNfkd:
      normalizer = icu::Normalizer2::getNFKDInstance(error);
      break;
  }
  CheckIcu(error);
  return *normalizer;
}

// ICU counts bytes in 32 bits. Chunks end before a space, where nothing composes across.
template <typename Function>
void ForEachChunk(std::string_view text, const Function& function) {
  constexpr size_t kMostBytes = size_t{1} << 30;
  while (text.size() > kMostBytes) {
    size_t cut = text.rfind(' ', kMostBytes);
    if (cut == 0 || cut == std::string_view::npos) cut = kMostBytes;
    function(text.substr(0, cut));
    text.remove_prefix(cut);
  }
  function(text);
}

}  // namespace

CharClass ClassOf(char32_t c) {
  if (c < 0x80) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return CharClass::kLetter;
    if (c >= '0' && c <= '9') return CharClass::kNumber;
    return c == ' ' || (c >= 0x09 && c <= 0x0D) ? CharClass::kSpace : CharClass::kOther;
  }
  if (IsWhiteSpace(c)) return CharClass::kSpace;
  if (Contains(kLetterRanges, c)) return CharClass::kLetter;
  return Contains(kNumberRanges, c) ? CharClass::kNumber : CharClass::kOther;
}

DecodedChar DecodeUtf8(std::string_view text, size_t position) {
  constexpr DecodedChar kInvalid{0xFFFD, 1};
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[position + i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() - position < length) return kInvalid;
  char32_t code_point = lead & (0xFF >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return kInvalid;
    code_point = code_point << 6 | (byte(i) & 0x3F);
  }
  // Overlong forms, surrogates, beyond Unicode.
  const bool legal = (length != 3 || code_point >= 0x800) && (length != 4 || code_point >= 0x10000) &&
                     code_point <= 0x10FFFF && (code_point < 0xD800 || code_point > 0xDFFF);
  return legal ? DecodedChar{code_point, length} : kInvalid;
}

void AppendUtf8(char32_t c, std::string* out) {
  const auto tail = [&](int shift) { out->push_back(static_cast<char>(0x80 | (c >> shift & 0x3F))); };
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | c >> 6));
    tail(0);
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | c >> 12));
    tail(6), tail(0);
  } else {
    out->push_back(static_cast<char>(0xF0 | c >> 18));
    tail(12), tail(6), tail(0);
  }
}

bool IsValidUtf8(std::string_view text) {
  for (size_t position = 0; position < text.size();) {
    const DecodedChar c = DecodeUtf8(text, position);
    if (c.length == 1 && c.code_point == 0xFFFD) return false;
    position += c.length;
  }
  return true;
}

size_t LastCharacter(std::string_view text) {
  const size_t last = text.size() - 1;
  for (size_t back = 1; back < 4 && back <= last; ++back) {
    if (DecodeUtf8(text, last - back).length == back + 1) return last - back;
  }
  return last;
}

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}

// Property White_Space (PropList.txt); stable since Unicode 6.3.
bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsNumeric(char32_t c) { return ClassOf(c) == CharClass::kNumber; }
bool IsMark(char32_t c) { return (Mask(c) & U_GC_M_MASK) != 0; }
bool IsNonspacingMark(char32_t c) { return (Mask(c) & U_GC_MN_MASK) != 0; }
bool IsControl(char32_t c) {
  return c != '\t' && c != '\n' && c != '\r' && (Mask(c) & (U_GC_CC_MASK | U_GC_CF_MASK | U_GC_CO_MASK)) != 0;
}

bool IsPunctuation(char32_t c) {
  if (c < 0x80) return c > ' ' && c < 0x7F && ClassOf(c) == CharClass::kOther;
  return (Mask(c) & U_GC_P_MASK) != 0;
}

// The reference tokenizers begin extension E at 2B920, where Unicode has 2B820: theirs counts here.
bool IsIdeograph(char32_t c) {
  constexpr CodePointRange kRanges[] = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},   {0x20000, 0x2A6DF},
                                        {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0x2F800, 0x2FA1F}};
  return Contains(kRanges, c);
}

bool IsWordCharacter(char32_t c) {
  if (c < 0x80) return ClassOf(c) == CharClass::kLetter || ClassOf(c) == CharClass::kNumber || c == '_';
  return (Mask(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 || c == 0x200C || c == 0x200D ||
         u_isUAlphabetic(static_cast<UChar32>(c));
}

void AppendLowercase(char32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c));
  } else if (c == 0x130) {  // the one character whose lower case is longer in every language
    out->append("i\u0307");
  } else {
    AppendUtf8(static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))), out);
  }
}

std::string Normalize(NormalForm form, std::string_view text) {
  if (IsAscii(text)) return std::string(text);
  std::string out;
  const icu::Normalizer2& normalizer = NormalizerOf(form);
  const auto append = [&](std::string_view chunk) {
    const auto size = static_cast<int32_t>(chunk.size());
    icu::StringByteSink<std::string> sink(&out, size);
    UErrorCode error = U_ZERO_ERROR;
    normalizer.normalizeUTF8(0, icu::StringPiece(chunk.data(), size), sink, nullptr, error);
    CheckIcu(error);
  };
  ForEachChunk(text, [&](std::string_view chunk) {
    size_t begin = 0, marks = 0;
    for (size_t position = 0; position < chunk.size();) {
      const DecodedChar c = DecodeUtf8(chunk, position);
      marks = c.code_point >= 0x300 && IsMark(c.code_point) ? marks + 1 : 0;
      if (marks > kMostMarks) {
        append(chunk.substr(begin, position - begin));
        begin = position;
        marks = 0;
      }
      position += c.length;
    }
    append(chunk.substr(begin));
  });
  return out;
}

void ForEachGrapheme(std::string_view text, const std::function<void(std::string_view)>& sink) {
  UErrorCode error = U_ZERO_ERROR;
  UBreakIterator* breaks = ubrk_open(UBRK_CHARACTER, "en", nullptr, 0, &error);
  CheckIcu(error);
  ForEachChunk(text, [&](std::string_view chunk) {
    UText* utext = utext_openUTF8(nullptr, chunk.data(), static_cast<int64_t>(chunk.size()), &error);
    ubrk_setUText(breaks, utext, &error);
    CheckIcu(error);
    for (int32_t begin = ubrk_first(breaks), end; (end = ubrk_next(breaks)) != UBRK_DONE; begin = end) {
      sink(chunk.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
    }
    utext_close(utext);
  });
  ubrk_close(breaks);
}

}  // namespace heddle::model
