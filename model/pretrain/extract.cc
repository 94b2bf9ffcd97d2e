#include <boost/json.hpp>
#include <utility>

#include "model/pretrain/corpus.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

using Paragraphs = std::vector<std::string>;

std::vector<std::string_view> Lines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

void ReplaceAll(std::string* text, std::string_view from, std::string_view to) {
  for (size_t at = text->find(from); at != std::string::npos; at = text->find(from, at + to.size())) {
    text->replace(at, from.size(), to);
  }
}

// Lines up to a blank one are a paragraph. `skip` says which lines are markup and end a paragraph too.
template <typename Skip>
Paragraphs Unwrap(std::string_view text, Skip skip) {
  Paragraphs out;
  std::string paragraph;
  for (const std::string_view line : Lines(text)) {
    const bool blank = line.find_first_not_of(" \t\r\f") == std::string_view::npos;
    if (!blank && !skip(line)) {
      paragraph += std::string(line) + " ";
    } else if (!paragraph.empty()) {
      out.push_back(std::exchange(paragraph, {}));
    }
  }
  if (!paragraph.empty()) out.push_back(std::move(paragraph));
  return out;
}

Paragraphs FromText(std::string_view text) {
  return Unwrap(text, [](std::string_view) { return false; });
}

// "[text](address)" to "text"; emphasis and heading signs away.
std::string StripMarkdown(std::string_view paragraph) {
  std::string out;
  for (size_t i = 0; i < paragraph.size(); ++i) {
    const char c = paragraph[i];
    if (c == ']' && i + 1 < paragraph.size() && paragraph[i + 1] == '(') {
      const size_t end = paragraph.find(')', i);
      i = end == std::string_view::npos ? i + 1 : end;
    } else if (c == '\\' && i + 1 < paragraph.size()) {
      out.push_back(paragraph[++i]);
    } else if (c != '*' && c != '[' && c != ']' && c != '_' && c != '`' && c != '#' && c != '>') {
      out.push_back(c);
    }
  }
  return out;
}

Paragraphs FromMarkdown(std::string_view text) {
  Paragraphs out = Unwrap(text, [](std::string_view line) { return line.starts_with('#') || line.starts_with("```"); });
  for (std::string& paragraph : out) paragraph = StripMarkdown(paragraph);
  return out;
}

// Perl's documentation: commands and verbatim paragraphs are dropped, C<code> and the like keep their content.
Paragraphs FromPod(std::string_view text) {
  Paragraphs out;
  for (const std::string& paragraph : FromText(text)) {
    if (paragraph.front() == '=' || paragraph.front() == ' ' || paragraph.front() == '\t') continue;
    std::string clean;
    std::vector<bool> opened;  // for each '<': did it follow a formatting letter?
    for (size_t i = 0; i < paragraph.size(); ++i) {
      const char c = paragraph[i];
      if (c >= 'A' && c <= 'Z' && i + 1 < paragraph.size() && paragraph[i + 1] == '<') continue;
      if (c == '<') {
        opened.push_back(i > 0 && paragraph[i - 1] >= 'A' && paragraph[i - 1] <= 'Z');
        if (opened.back()) continue;
      }
      if (c == '>' && !opened.empty()) {
        const bool formatting = opened.back();
        opened.pop_back();
        if (formatting) continue;
      }
      clean.push_back(c);
    }
    out.push_back(std::move(clean));
  }
  return out;
}

// Tags away; block tags end a paragraph; script, style and preformatted text are dropped.
Paragraphs FromHtml(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size();) {
    if (text[i] != '<') {
      plain.push_back(text[i] == '\n' ? ' ' : text[i]);
      ++i;
      continue;
    }
    const std::string_view rest = text.substr(i);
    size_t end = std::string_view::npos;
    for (const auto& [open, close] :
         {std::pair("<script", "</script>"), {"<style", "</style>"}, {"<pre", "</pre>"}, {"<!--", "-->"}}) {
      if (!rest.starts_with(open)) continue;
      end = rest.find(close);
      if (end != std::string_view::npos) end += std::string_view(close).size();
      plain += "\n\n";
    }
    if (end == std::string_view::npos) {
      end = rest.find('>');
      if (end == std::string_view::npos) break;
      ++end;
      for (const char* block :
           {"<p", "</p", "<div", "</div", "<h", "</h", "<li", "</li", "<td", "<tr", "<dt", "<dd", "<br"}) {
        if (rest.starts_with(block)) plain += "\n\n";
      }
    }
    i += end;
  }
  for (const auto& [entity, with] : {std::pair("&lt;", "<"),
                                     {"&gt;", ">"},
                                     {"&quot;", "\""},
                                     {"&nbsp;", " "},
                                     {"&#39;", "'"},
                                     {"&#8217;", "'"},
                                     {"&rsquo;", "'"},
                                     {"&amp;", "&"}}) {
    ReplaceAll(&plain, entity, with);
  }
  return FromText(plain);
}

// Literals in `…` or "…" of data files that are not code.
Paragraphs FromQuoted(std::string_view text) {
  Paragraphs out;
  for (const std::string_view line : Lines(text)) {
    const size_t begin = line.find_first_of("`\"");
    if (begin == std::string_view::npos) continue;
    const size_t end = line.rfind(line[begin]);
    if (end > begin + 1) out.emplace_back(line.substr(begin + 1, end - begin - 1));
  }
  return out;
}

void CollectStrings(const json::value& value, Paragraphs* out) {
  if (const json::string* text = value.if_string()) {
    for (const std::string& paragraph : FromText({text->data(), text->size()})) out->push_back(paragraph);
  } else if (const json::array* list = value.if_array()) {
    for (const json::value& item : *list) CollectStrings(item, out);
  } else if (const json::object* object = value.if_object()) {
    for (const auto& item : *object) CollectStrings(item.value(), out);
  }
}

Paragraphs FromJson(std::string_view text) {
  json::error_code error;
  json::parse_options options;
  options.max_depth = 64;
  const json::value value = json::parse(text, error, {}, options);
  Paragraphs out;
  if (!error) CollectStrings(value, &out);
  return out;
}

// WordNet's data files: "… word … | definition; "example"; …".
Paragraphs FromWordNet(std::string_view text) {
  Paragraphs out;
  for (const std::string_view line : Lines(text)) {
    const size_t bar = line.find(" | ");
    if (line.starts_with("  ") || bar == std::string_view::npos) continue;
    // offset, file number, part of speech, number of words, first word
    size_t at = 0;
    for (int field = 0; field < 4; ++field) at = line.find(' ', at) + 1;
    std::string word(line.substr(at, line.find(' ', at) - at));
    ReplaceAll(&word, "_", " ");
    if (const size_t marker = word.find('('); marker != std::string::npos) word.resize(marker);
    std::string gloss(line.substr(bar + 3));
    ReplaceAll(&gloss, "  ", "");
    out.push_back(word + ": " + gloss);
  }
  return out;
}

// Blocks between lines of %%%%, whose first line is a key.
Paragraphs FromBlocks(std::string_view text) {
  Paragraphs out;
  std::string block;
  bool key = true;
  const auto flush = [&] {
    for (std::string& paragraph : FromText(block)) out.push_back(std::move(paragraph));
    block.clear();
  };
  for (const std::string_view line : Lines(text)) {
    if (line.starts_with("%%%%")) {
      flush();
      key = true;
    } else if (!line.starts_with('#')) {
      if (!key) block += std::string(line) + "\n";
      key = key && line.empty();
    }
  }
  flush();
  return out;
}

// Translatable strings of Wesnoth's markup language: _ "…", where a doubled quote stands for one.
Paragraphs FromWml(std::string_view text) {
  Paragraphs out;
  for (size_t at = text.find("_ \""); at != std::string_view::npos; at = text.find("_ \"", at)) {
    std::string literal;
    for (at += 3; at < text.size(); ++at) {
      if (text[at] == '"') {
        if (at + 1 == text.size() || text[at + 1] != '"') break;
        ++at;
      }
      literal.push_back(text[at]);
    }
    for (std::string& paragraph : FromText(literal)) out.push_back(std::move(paragraph));
  }
  return out;
}

// Typographic signs to ASCII, runs of space to one.
std::string Normalize(std::string text) {
  for (const auto& [from, to] : {std::pair("\xE2\x80\x99", "'"),
                                 {"\xE2\x80\x98", "'"},
                                 {"\xE2\x80\x9C", "\""},
                                 {"\xE2\x80\x9D", "\""},
                                 {"\xE2\x80\x93", "-"},
                                 {"\xE2\x80\x94", " - "},
                                 {"\xE2\x80\xA6", "..."},
                                 {"\xC2\xA0", " "}}) {
    ReplaceAll(&text, from, to);
  }
  std::string out;
  for (const char c : text) {
    const bool space = c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\f';
    if (!space) {
      out.push_back(c);
    } else if (!out.empty() && out.back() != ' ') {
      out.push_back(' ');
    }
  }
  while (out.ends_with(' ')) out.pop_back();
  return out;
}

// Running English: some length, mostly lower-case letters, hardly any signs of code or of other languages.
bool IsProse(std::string_view text) {
  if (text.size() < 40) return false;
  size_t lower = 0, letters = 0, odd = 0, spaces = 0;
  for (const char c : text) {
    lower += c >= 'a' && c <= 'z';
    letters += (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    spaces += c == ' ';
    odd +=
        static_cast<uint8_t>(c) >= 0x80 || std::string_view("{}[]<>|\\@#$%^=_~/*+").find(c) != std::string_view::npos;
  }
  const auto share = [&](size_t count) { return static_cast<double>(count) / static_cast<double>(text.size()); };
  return share(lower) > 0.65 && share(letters) > 0.70 && share(odd) < 0.01 && share(spaces) > 0.10 &&
         share(spaces) < 0.25;
}

}  // namespace

Result<std::vector<std::string>> ExtractParagraphs(std::string_view text, std::string_view format) {
  using Extractor = Paragraphs (*)(std::string_view);
  constexpr std::pair<std::string_view, Extractor> kExtractors[] = {
      {"text", FromText},       {"markdown", FromMarkdown}, {"pod", FromPod},
      {"html", FromHtml},       {"quoted", FromQuoted},     {"json", FromJson},
      {"wordnet", FromWordNet}, {"blocks", FromBlocks},     {"wml", FromWml}};
  for (const auto& [name, extractor] : kExtractors) {
    if (name != format) continue;
    Paragraphs out;
    for (std::string& paragraph : extractor(text)) {
      std::string clean = Normalize(std::move(paragraph));
      if (IsProse(clean)) out.push_back(std::move(clean));
    }
    return out;
  }
  return InvalidArgument("source.format \"" + std::string(format) +
                         "\" is not one of text, markdown, html, pod, quoted, json, wordnet, blocks, wml");
}

}  // namespace heddle::model
