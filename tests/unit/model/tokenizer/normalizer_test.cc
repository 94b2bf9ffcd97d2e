// What normalizers do to texts, each case from the definition.
#include "model/tokenizer/normalizer.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "model/tokenizer/precompiled.h"
#include "model/tokenizer/unicode.h"
#include "tests/unit/model/tokenizer/parse.h"

namespace heddle::model {
namespace {

constexpr std::string_view kBertNormalizer = R"({"type": "BertNormalizer"})";

TEST(BertNormalizer, LowersStripsAndCleans) {
  EXPECT_EQ(Normalized(kBertNormalizer, "ALL Caps"), "all caps");
  EXPECT_EQ(Normalized(kBertNormalizer, "naïve Café"), "naive cafe");
  EXPECT_EQ(Normalized(kBertNormalizer, "e\u0301a\u0323\u0302"), "ea");  // combining marks, more than one
  EXPECT_EQ(Normalized(kBertNormalizer, "tab\tline\r\nend"), "tab line  end");
  EXPECT_EQ(Normalized(kBertNormalizer, std::string("a\0b\x01\x7f"
                                                    "c",
                                                    6)),
            "abc");
  EXPECT_EQ(Normalized(kBertNormalizer, "zero\u200bwidth\ufeff"), "zerowidth");  // Cf
  EXPECT_EQ(Normalized(kBertNormalizer, "a\u00a0b\u2003c\u3000d"), "a b c d");   // odd white space
  EXPECT_EQ(Normalized(kBertNormalizer, "\u0130stanbul"), "istanbul");  // the dot is a mark of its own after NFD
  EXPECT_EQ(Normalized(kBertNormalizer, "stra\u00dfe \u1e9e"), "stra\u00dfe \u00df");
  EXPECT_EQ(Normalized(kBertNormalizer, "\u03a3\u03a3"), "\u03c3\u03c3");  // no final sigma
  EXPECT_EQ(Normalized(kBertNormalizer, "\U0001F600 x"), "\U0001F600 x");
  EXPECT_EQ(Normalized(kBertNormalizer, "한"), "\u1112\u1161\u11ab");  // NFD takes syllables apart
}

TEST(BertNormalizer, SurroundsIdeographsOnly) {
  EXPECT_EQ(Normalized(kBertNormalizer, "ab中文c"), "ab 中  文 c");
  EXPECT_EQ(Normalized(kBertNormalizer, "テキスト"), "テキスト");  // katakana: the marks of voicing would go
  EXPECT_EQ(Normalized(R"({"type": "BertNormalizer", "handle_chinese_chars": false})", "中"), "中");
}

TEST(BertNormalizer, EachStepCanBeLeftOut) {
  EXPECT_EQ(Normalized(R"({"type": "BertNormalizer", "lowercase": false})", "Café"), "Café");  // and accents stay
  EXPECT_EQ(Normalized(R"({"type": "BertNormalizer", "lowercase": false, "strip_accents": true})", "Café"), "Cafe");
  EXPECT_EQ(Normalized(R"({"type": "BertNormalizer", "strip_accents": false})", "CAFÉ"), "café");
  EXPECT_EQ(Normalized(R"({"type": "BertNormalizer", "clean_text": false})", "A\tB"), "a\tb");
}

TEST(BertNormalizer, BytesThatAreNoTextGo) {
  EXPECT_EQ(Normalized(kBertNormalizer,
                       "a\xff\xfe"
                       "b\xc3"),
            "ab");
  EXPECT_TRUE(rc::check("valid UTF-8 comes out, with no character of ASCII in upper case", [](const std::string& text) {
    const std::string out = Normalized(kBertNormalizer, text);
    RC_ASSERT(IsValidUtf8(out));
    for (const char c : out) RC_ASSERT(c < 'A' || c > 'Z');
  }));
}

// Control characters go before white space is looked for: a form feed between two words joins them.
TEST(BertNormalizer, WhiteSpaceThatIsAControlCharacterGoes) {
  EXPECT_EQ(Normalized(kBertNormalizer, "a\fb\vc"), "abc");
  EXPECT_EQ(Normalized(kBertNormalizer, "a\u0085b"), "ab");
  EXPECT_EQ(Normalized(kBertNormalizer, "\u0416\fb\vc"), "\u0436bc");  // not in ASCII's fast pass
  EXPECT_EQ(Normalized(R"({"type": "BertNormalizer", "clean_text": false})", "a\fb"), "a\fb");
}

// The fast pass over ASCII and the careful one must agree, wherever the first other character stands.
TEST(BertNormalizer, AnAsciiTextIsTheSameBesideOtherCharacters) {
  EXPECT_TRUE(rc::check("prefix and suffix do not matter", [] {
    const auto ascii = *rc::gen::container<std::string>(rc::gen::inRange('\x01', '\x7f'));
    const std::string plain = Normalized(kBertNormalizer, ascii);
    RC_ASSERT(Normalized(kBertNormalizer, ascii + "\u0416") == plain + "\u0436");
    RC_ASSERT(Normalized(kBertNormalizer, "\u0416" + ascii) == "\u0436" + plain);
  }));
}

TEST(Normalizers, FormsOfUnicode) {
  EXPECT_EQ(Normalized(R"({"type": "NFC"})", "e\u0301 ﬁ"), "\u00e9 ﬁ");
  EXPECT_EQ(Normalized(R"({"type": "NFD"})", "\u00e9"), "e\u0301");
  EXPECT_EQ(Normalized(R"({"type": "NFKC"})", "ﬁ ２ e\u0301 Ⅳ"), "fi 2 \u00e9 IV");
  EXPECT_EQ(Normalized(R"({"type": "NFKD"})", "ﬁ \u00e9"), "fi e\u0301");
  EXPECT_EQ(Normalized(R"({"type": "NFC"})", "a\xff \u00e9"), "a\xff \u00e9");  // bytes that are no text stay
}

// Two million marks in the wrong order: sorted all together, they would take hours.
TEST(Normalizers, ACharacterWithoutEndIsNoTrouble) {
  std::string text = "a";
  for (int i = 0; i < 1'000'000; ++i) text += "\u0301\u0323";
  EXPECT_EQ(Normalized(R"({"type": "NFD"})", text).size(), text.size());
  EXPECT_EQ(Normalized(kBertNormalizer, text), "a");
  EXPECT_EQ(Normalized(R"({"type": "NFD"})", "a\u0301\u0323"), "a\u0323\u0301");
}

TEST(Normalizers, SmallOnes) {
  EXPECT_EQ(Normalized(R"({"type": "Lowercase"})", "ÀB\u0130"), "àbi\u0307");
  EXPECT_EQ(Normalized(R"({"type": "StripAccents"})", "e\u0301\u0903x"), "ex");  // marks of every kind
  EXPECT_EQ(Normalized(R"({"type": "Strip", "strip_left": true, "strip_right": false})", " \u3000a "), "a ");
  EXPECT_EQ(Normalized(R"({"type": "Strip", "strip_left": false, "strip_right": true})", " a \u3000"), " a");
  EXPECT_EQ(Normalized(R"({"type": "Strip"})", " \t "), "");
  EXPECT_EQ(Normalized(R"({"type": "Prepend", "prepend": "▁"})", "a"), "▁a");
  EXPECT_EQ(Normalized(R"({"type": "Prepend", "prepend": "▁"})", ""), "");
  EXPECT_EQ(Normalized(R"({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})", " a  b"), "▁a▁▁b");
  EXPECT_EQ(Normalized(R"({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})", "a   b c  "), "a b c ");
  EXPECT_EQ(Normalized(R"({"type": "Nmt"})", "a\x01\u200b\tb"), "a  b");
  EXPECT_EQ(Normalized(R"({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Sequence", "normalizers":
      [{"type": "StripAccents"}]}, {"type": "Lowercase"}]})",
                       "É"),
            "e");
  EXPECT_EQ(Normalized("null", "É"), "É");
}

// A map with one rule: "A" becomes "aa".
std::string SmallCharsMap() {
  std::vector<uint32_t> trie(512);
  trie[0] = 256U << 10;                       // the root's children begin at 256
  trie[256 ^ 'A'] = 'A' | 0x100U | 1U << 10;  // has a value, which is beside it
  trie[256 ^ 'A' ^ 1] = 0x80000000U;          // the text at 0
  std::string bytes;
  const auto put = [&](uint32_t number) {
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(number >> shift));
  };
  put(2048);
  for (const uint32_t unit : trie) put(unit);
  return bytes + std::string("aa\0", 3);
}

TEST(CharsMaps, ReplaceWhatTheyKnow) {
  const auto map = CharsMap::FromBytes(SmallCharsMap());
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_EQ(map->Longest("Ab").length, 1U);
  EXPECT_EQ(map->Longest("Ab").with, "aa");
  EXPECT_EQ(map->Longest("b").length, 0U);
  EXPECT_EQ(map->Longest("").length, 0U);
  std::string text = "bA\u0301 AA\xff";  // the first is a grapheme of three bytes, replaced as one
  PrecompiledNormalizer(*map).Apply(&text);
  EXPECT_EQ(text, "baa aaaa\xff");
}

TEST(CharsMaps, WhatPointsOutsideIsNotFollowed) {
  const std::string good = SmallCharsMap();
  EXPECT_FALSE(CharsMap::FromBytes(good.substr(0, 3)).ok());
  EXPECT_FALSE(CharsMap::FromBytes(good.substr(0, 2000)).ok());
  EXPECT_TRUE(rc::check("any bytes", [&] {
    std::string bytes = good;
    for (int i = *rc::gen::inRange(1, 9); i > 0; --i) {
      const bool near = *rc::gen::inRange(0, 2) == 0;  // at the units that matter
      const size_t at =
          near ? 4 + 4 * (256 ^ 'A' ^ *rc::gen::inRange<size_t>(0, 2)) : *rc::gen::inRange<size_t>(4, bytes.size());
      bytes[at + *rc::gen::inRange<size_t>(0, std::min<size_t>(4, bytes.size() - at))] = *rc::gen::arbitrary<char>();
    }
    const auto map = CharsMap::FromBytes(bytes);
    RC_ASSERT(map.ok());
    std::string text = *rc::gen::container<std::string>(rc::gen::elementOf(std::string("ABab\x01\xff")));
    const CharsMap::Match match = map->Longest(text);
    RC_ASSERT(match.length <= text.size());
    RC_ASSERT(match.with.size() <= bytes.size());
    PrecompiledNormalizer(*map).Apply(&text);
  }));
}

TEST(Normalizers, AChainOfReplacementsDoesNotFillTheMemory) {
  std::string chain = R"({"type": "Sequence", "normalizers": [)";
  for (int i = 0; i < 30; ++i)
    chain += R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},)";
  chain += R"({"type": "NFC"}]})";
  EXPECT_EQ(Normalized(chain, std::string(100, 'a')).size(), 100U * 16 + 4096);
  // Not even on the way: each step ends a little behind the bound.
  const std::string once =
      std::string(R"({"type": "Replace", "pattern": {"String": "a"}, "content": ")") + std::string(200, 'a') + R"("})";
  const boost::json::value value = boost::json::parse(once);
  const auto normalizer = ParseNormalizer(&value);
  ASSERT_TRUE(normalizer.ok()) << normalizer.status();
  std::string text(1 << 20, 'a');
  (*normalizer)->Apply(&text);
  EXPECT_EQ(text.size(), MaxNormalizedBytes(1 << 20));
  EXPECT_LT(text.capacity(), size_t{64} << 20);  // 200 MiB, if it had been made and cut
}

TEST(CharsMaps, DoNotFillTheMemory) {
  const auto map = CharsMap::FromBytes(SmallCharsMap());
  ASSERT_TRUE(map.ok()) << map.status();
  std::string text(1000, 'A');
  PrecompiledNormalizer(*map).ApplyWithin(100, &text);
  EXPECT_EQ(text, std::string(102, 'a'));
}

TEST(Normalizers, WhatIsWrongIsSaid) {
  const auto status = [](std::string_view component) {
    const boost::json::value value = boost::json::parse(component);
    return ParseNormalizer(&value).status();
  };
  EXPECT_EQ(status(R"({"type": "Upper"})").code(), Code::kUnimplemented);
  EXPECT_NE(status(R"({"type": "Upper"})").message().find("Upper"), std::string::npos);
  for (const char* wrong :
       {R"([])", R"({"type": 3})", R"({"type": "Prepend"})",
        R"({"type": "Replace", "pattern": {"String": ""}, "content": ""})",
        R"({"type": "Replace", "pattern": {"Regex": "("}, "content": ""})",
        R"({"type": "Replace", "pattern": 3, "content": ""})", R"({"type": "BertNormalizer", "lowercase": "yes"})",
        R"({"type": "Sequence", "normalizers": {}})", R"({"type": "Precompiled", "precompiled_charsmap": "!"})",
        R"({"type": "Precompiled", "precompiled_charsmap": "AAAA"})"}) {
    EXPECT_EQ(status(wrong).code(), Code::kInvalidArgument) << wrong;
  }
}

}  // namespace
}  // namespace heddle::model
