// How texts are cut into words, each case from the definition.
#include "model/tokenizer/pre_tokenizer.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "model/tokenizer/byte_level.h"
#include "tests/unit/model/tokenizer/parse.h"

namespace heddle::model {
namespace {

TEST(PreTokenizers, BertCutsAtSpacesAndMarks) {
  constexpr std::string_view kBert = R"({"type": "BertPreTokenizer"})";
  EXPECT_EQ(Split(kBert, "don't stop--now"), (Words{"don", "'", "t", "stop", "-", "-", "now"}));
  EXPECT_EQ(Split(kBert, "$5+3"), (Words{"$", "5", "+", "3"}));  // ASCII's symbols count as marks
  EXPECT_EQ(Split(kBert, "€5 ±3"), (Words{"€5", "±3"}));         // others do not
  EXPECT_EQ(Split(kBert, "中文。x"), (Words{"中文", "。", "x"}));
  EXPECT_EQ(Split(kBert, " \t\u2003 "), Words{});
  EXPECT_EQ(Split(kBert,
                  "a\xff"
                  "b"),
            (Words{"a\xff"
                   "b"}));
}

TEST(PreTokenizers, WhitespaceIsWordsAndRunsOfMarks) {
  EXPECT_EQ(Split(R"({"type": "Whitespace"})", "it's a_b: ...x é2"),
            (Words{"it", "'", "s", "a_b", ":", "...", "x", "é2"}));
  EXPECT_EQ(Split(R"({"type": "WhitespaceSplit"})", " a  b\u00a0c\n"), (Words{"a", "b", "c"}));
  EXPECT_EQ(Split(R"({"type": "CharDelimiterSplit", "delimiter": "-"})", "-a--b"), (Words{"a", "b"}));
}

TEST(PreTokenizers, DigitsAndPunctuation) {
  EXPECT_EQ(Split(R"({"type": "Digits", "individual_digits": false})", "ab123c²"), (Words{"ab", "123", "c", "²"}));
  EXPECT_EQ(Split(R"({"type": "Digits", "individual_digits": true})", "ab12"), (Words{"ab", "1", "2"}));
  EXPECT_EQ(Split(R"({"type": "Punctuation"})", "a, b!!"), (Words{"a", ",", " b", "!", "!"}));
  EXPECT_EQ(Split(R"({"type": "Punctuation", "behavior": "Contiguous"})", "a, b!!"), (Words{"a", ",", " b", "!!"}));
}

TEST(PreTokenizers, SplitHasFiveWaysToKeepWhatItFinds) {
  const auto split = [](const std::string& behavior, bool invert, std::string_view text) {
    return Split(R"({"type": "Split", "pattern": {"String": "-"}, "behavior": ")" + behavior + R"(", "invert": )" +
                     (invert ? "true" : "false") + "}",
                 text);
  };
  EXPECT_EQ(split("Removed", false, "the-final--countdown"), (Words{"the", "final", "countdown"}));
  EXPECT_EQ(split("Isolated", false, "the-final--countdown"), (Words{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(split("MergedWithPrevious", false, "the-final--countdown"), (Words{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(split("MergedWithNext", false, "the-final--countdown"), (Words{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(split("Contiguous", false, "the-final--countdown"), (Words{"the", "-", "final", "--", "countdown"}));
  EXPECT_EQ(split("Removed", true, "a-b--"), (Words{"-", "-", "-"}));
  EXPECT_EQ(split("MergedWithPrevious", false, "-a-"), (Words{"-", "a-"}));
  EXPECT_EQ(split("MergedWithNext", false, "-a-"), (Words{"-a", "-"}));
}

TEST(PreTokenizers, MetaspacePrependsAsItsSchemeSays) {
  const auto split = [](const std::string& scheme, std::string_view text, bool first) {
    return Split(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": ")" + scheme + R"("})", text, first);
  };
  EXPECT_EQ(split("always", "Hey  friend ", false), (Words{"▁Hey", "▁", "▁friend", "▁"}));
  EXPECT_EQ(split("first", "Hey friend", true), (Words{"▁Hey", "▁friend"}));
  EXPECT_EQ(split("first", "Hey friend", false), (Words{"Hey", "▁friend"}));
  EXPECT_EQ(split("never", "Hey", true), (Words{"Hey"}));
  EXPECT_EQ(split("always", " Hey", true), (Words{"▁Hey"}));  // there is one already
  EXPECT_EQ(split("always", "", true), Words{});
  EXPECT_EQ(Split(R"({"type": "Metaspace", "split": false})", "a b"), (Words{"▁a▁b"}));
  EXPECT_EQ(Split(R"({"type": "Metaspace", "add_prefix_space": false})", "a b"), (Words{"a", "▁b"}));
}

TEST(PreTokenizers, ASequenceCutsTheWordsOfTheOneBefore) {
  constexpr std::string_view kStarCoder =
      R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
          {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]})";
  EXPECT_EQ(Split(kStarCoder, "x = 12 y"), (Words{"x", " =", " ", "1", "2", " y"}));
}

// The expression of Llama 3, and with single digits of Qwen 2.
TEST(PreTokenizers, ExpressionsOfLlama3AndQwen2) {
  const auto split = [](const std::string& digits, std::string_view text) {
    const std::string expression = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N})" + digits +
                                   R"(| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+)";
    return Split(R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": ")" + expression +
                     R"("}, "behavior": "Isolated", "invert": false},
                     {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})",
                 text);
  };
  EXPECT_EQ(split("{1,3}", "I'M 12345 ok"), (Words{"I", "'M", " ", "123", "45", " ok"}));
  EXPECT_EQ(split("", "12a"), (Words{"1", "2", "a"}));
  EXPECT_EQ(split("{1,3}", "a,b (c)"), (Words{"a", ",b", " (", "c", ")"}));
  EXPECT_EQ(split("{1,3}", "x;\n\n  y\n z"), (Words{"x", ";\n\n", " ", " y", "\n", " z"}));
  EXPECT_EQ(split("{1,3}", "naïve 日本 Привет"), (Words{"naïve", " 日本", " Привет"}));
  EXPECT_EQ(split("{1,3}", "\u00a0b\u3000\u3000"), (Words{"\u00a0b", "\u3000\u3000"}));
  EXPECT_EQ(split("{1,3}", "e\u0301"), (Words{"e", "\u0301"}));
  // Bytes that are no text are matched by no expression, and stay.
  EXPECT_EQ(split("{1,3}",
                  "ab\xff\xfe"
                  "cd"),
            (Words{"ab", "\xff\xfe", "cd"}));
}

TEST(PreTokenizers, GPT2sExpressionIsMatchedByHandAsByTheLibrary) {
  // The same expression, but not the same text: this one goes to the library.
  constexpr std::string_view kByLibrary =
      R"({"type": "Split", "behavior": "Isolated", "pattern": {"Regex":
          "(?:'s|'t|'re|'ve|'m|'ll|'d)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"}})";
  const std::vector<std::string> kParts = {"a",      "'s", "'ll",        " ", "  ",     "\n", "é",
                                           "日",     "١",  "½",          "_", "\u0301", "!",  "\u2003",
                                           "\u0085", "'",  "\U0001F600", "9", "ß",      "\t", "\u180e"};
  EXPECT_TRUE(rc::check("both cut alike", [&] {
    std::string text;
    const auto parts = *rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(kParts));
    for (const std::string& part : parts) text += part;
    Words by_hand;
    for (const std::string_view word : SplitWords(text)) by_hand.emplace_back(word);
    RC_ASSERT(Split(kByLibrary, text) == by_hand);
  }));
}

Words Matches(const std::string& expression, std::string_view text) {
  const boost::json::value component = {
      {"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Removed"}, {"invert", true}};
  return Split(boost::json::serialize(component), text);
}

// Each is read by PCRE2 as something else, if it is not told.
TEST(Expressions, MeanWhatTheyMeanInOniguruma) {
  // U+180E is no white space.
  EXPECT_EQ(Matches(R"([^\s\p{L}]+)", "a!\u180e!b"), Words{"!\u180e!"});
  EXPECT_EQ(Matches(R"(\s+)", "a\u180e \u00a0\u2003\n\u0085b"), Words{" \u00a0\u2003\n\u0085"});
  EXPECT_EQ(Matches(R"(\S+)", "a\u180eb\u3000c"), (Words{"a\u180eb", "c"}));
  EXPECT_EQ(Matches(R"([[:space:]]+)", "a\u180e\u2003b"), Words{"\u2003"});
  EXPECT_EQ(Matches(R"([\S\n]+)", "a\n b"), (Words{"a\n", "b"}));
  EXPECT_EQ(Matches(R"([^\S\n]+)", "a\n \tb"), Words{" \t"});
  // Marks belong to words, and numbers that are no digits do not, but for some outside of sets.
  EXPECT_EQ(Matches(R"(\w+)", "e\u0301_1\u2153\u0903\u00bd"), (Words{"e\u0301_1", "\u0903\u00bd"}));
  EXPECT_EQ(Matches(R"([\w]+)", "e\u0301_1\u2153\u0903\u00bd"), (Words{"e\u0301_1", "\u0903"}));
  EXPECT_EQ(Matches(R"([\W_]+)", "ab_\u00bd!c"), Words{"_\u00bd!"});
  EXPECT_EQ(Matches(R"(\be)", "e\u0301e e"), (Words{"e", "e"}));
  EXPECT_EQ(Matches(R"(e\B)", "e\u0301 e"), Words{"e"});
  EXPECT_EQ(Matches(R"(\h+|\v)", "g1aF \t\v\n"), (Words{"1aF", "\v"}));
  // Lines.
  EXPECT_EQ(Matches("^a|b$", "ba\nab\na"), (Words{"a", "b", "a"}));
  // Intervals without a lower end.
  EXPECT_EQ(Matches("a{,2}b", "aaab{,2}b"), (Words{"aab", "b"}));
  EXPECT_EQ(Matches("a{,}b", "ab a{,}b"), Words{"a{,}b"});
}

TEST(Expressions, SetsMayHoldSetsAndIntersect) {
  EXPECT_EQ(Matches(R"([\p{L}&&[^\p{Greek}]]+)", "ab\u03b1\u03b2c"), (Words{"ab", "c"}));
  EXPECT_EQ(Matches(R"([\p{L}\p{M}&&[^\p{Han}]]+)", "e\u0301日a"), (Words{"e\u0301", "a"}));
  EXPECT_EQ(Matches(R"([^\p{L}&&[^\p{Greek}]]+)", "ab\u03b1 c"), Words{"\u03b1 "});
  EXPECT_EQ(Matches(R"([a-e&&b-g&&[^d]]+)", "abcdef"), (Words{"bc", "e"}));
  EXPECT_EQ(Matches(R"([a[bc]d]+)", "[abcd]"), Words{"abcd"});
  EXPECT_EQ(Matches(R"([^a[bc]]+)", "xabcy"), (Words{"x", "y"}));
  EXPECT_EQ(Matches(R"([]&\[\-]+)", "a]&[-b"), Words{"]&[-"});
  EXPECT_EQ(Matches(R"([[:punct:][:digit:]]+)", "a$1-\u00bfb"), (Words{"1-\u00bf"}));
  // Characters of one script; a full stop is of none.
  EXPECT_EQ(Matches(R"(\p{Han}+)", "日本。語a"), (Words{"日本", "語"}));
  EXPECT_EQ(Matches(R"([\P{Han}b]+)", "日本。語a"), (Words{"。", "a"}));
  EXPECT_EQ(Matches(R"([^\p{^Han}]+|\p{Punct})", "日本。語a"), (Words{"日本", "。", "語"}));
}

TEST(Expressions, ALongWordIsFoundWhole) {
  const std::string text(20'000, 'a');
  EXPECT_EQ(Matches(R"([\p{L}&&[^\p{Greek}]]+)", text + "\u03b1b"), (Words{text, "b"}));
  EXPECT_EQ(Matches(R"((?:a|b)+c?)", text + " b"), (Words{text, "b"}));
}

TEST(Expressions, WhatPcre2CannotSayIsRefusedByName) {
  const auto status = [](const std::string& expression) {
    const boost::json::value component = {{"type", "Split"}, {"pattern", {{"Regex", expression}}}};
    return ParsePreTokenizer(&component).status();
  };
  for (const char* other : {"(?m:a.b)", "a(?i)b", "(?x)a", "(?s).", "(*UTF)a", R"(\p{N}{1,3}+)", "a{2}?", R"(\Qa\E)",
                            R"([\N])", "[[:graph:]]", "[[[[[[[[[a]]]]]]]]]", "[a&&]", "[&&a]"}) {
    EXPECT_EQ(status(other).code(), Code::kUnimplemented) << other << ": " << status(other);
    EXPECT_NE(status(other).message().find("regular expression"), std::string::npos) << other;
  }
  for (const char* wrong : {"[a", "[a[b]", "[", "[^", "\\", "[\\", R"(\p{L)", R"([\x{1)", "a{3,2}", "(", "[b-a]",
                            R"([+-\s])", R"([\s-+])", R"(\p{Nonsense})"})
    EXPECT_EQ(status(wrong).code(), Code::kInvalidArgument) << wrong << ": " << status(wrong);
  for (const char* good :
       {"(?i)a|b", "(?i:'s)|(?<=a)b|(?<!a)b|(?=a)(?!b)(?>a)", R"(\p{N}{1,3}|a++|b?+|c{1,2}?)", "{", "a{", "a{b}"})
    EXPECT_TRUE(status(good).ok()) << good << ": " << status(good);
}

TEST(PreTokenizers, AnExpressionThatTakesTooLongEndsWithTheTextWhole) {
  constexpr std::string_view kHostile =
      R"({"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "(a+a+)+b"}})";
  const std::string text(5000, 'a');
  EXPECT_EQ(Split(kHostile, text), Words{text});
}

TEST(PreTokenizers, CuttingBeforeSpaceSignsKeepsRunsTogether) {
  CollectWords words;
  CutBeforeSpaceSigns()->Split("▁a▁▁b▁", true, words);
  EXPECT_EQ(words.words, (Words{"▁a", "▁▁b", "▁"}));
  EXPECT_EQ(words.firsts, (std::vector<bool>{true, false, false}));
}

TEST(PreTokenizers, WhatIsWrongIsSaid) {
  const auto status = [](std::string_view component) {
    const boost::json::value value = boost::json::parse(component);
    return ParsePreTokenizer(&value).status();
  };
  EXPECT_EQ(status(R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Odd"})").code(), Code::kUnimplemented);
  EXPECT_EQ(status(R"({"type": "Metaspace", "prepend_scheme": "last"})").code(), Code::kUnimplemented);
  EXPECT_EQ(status(R"({"type": "Metaspace", "replacement": "ab"})").code(), Code::kInvalidArgument);
  EXPECT_EQ(status(R"({"type": "Split", "pattern": {"Regex": "[a"}})").code(), Code::kInvalidArgument);
  EXPECT_EQ(status(R"({"type": "Split", "pattern": {"Regex": "\\C"}})").code(), Code::kInvalidArgument);
  EXPECT_EQ(status(R"({"type": "Sequence"})").code(), Code::kInvalidArgument);
  std::string nested = R"({"type": "ByteLevel"})";
  for (int i = 0; i < 6; ++i) nested = R"({"type": "Sequence", "pretokenizers": [)" + nested + "]}";
  EXPECT_EQ(status(nested).code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::model
