// A strict look at HTML and SVG that we wrote: every tag is closed where it must be, attributes are quoted, text holds
// no stray markup. Written for tests; knows what reports use and no more.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace heddle::simulator {

// Empty when well formed, else what is wrong and where.
inline std::string Malformed(std::string_view text) {
  const std::vector<std::string> empty_tags = {"meta"};
  std::vector<std::string> open;
  size_t at = 0;
  const auto wrong = [&](const std::string& what) {
    return what + " at: " + std::string(text.substr(at > 30 ? at - 30 : 0, 90));
  };
  if (text.starts_with("<!doctype html>")) at = 15;
  while (at < text.size()) {
    const char c = text[at];
    if (c == '>' && (open.empty() || open.back() != "style")) return wrong("stray >");
    if (c == '&') {
      const std::string_view rest = text.substr(at, 8);
      const auto is = [&](std::string_view entity) { return rest.starts_with(entity); };
      if (!is("&amp;") && !is("&lt;") && !is("&gt;") && !is("&quot;")) return wrong("stray &");
    }
    if (c != '<') {
      ++at;
      continue;
    }
    const bool closing = at + 1 < text.size() && text[at + 1] == '/';
    size_t i = at + (closing ? 2 : 1);
    std::string name;
    while (i < text.size() && std::isalnum(static_cast<unsigned char>(text[i]))) name += text[i++];
    if (name.empty()) return wrong("stray <");
    bool self_closed = false, quoted = false;
    for (;; ++i) {
      if (i >= text.size()) return wrong("a tag without an end");
      if (text[i] == '"') {
        if (!quoted && text[i - 1] != '=') return wrong("a quote outside of an attribute");
        quoted = !quoted;
      }
      if (text[i] == '<') return wrong("< inside of a tag");
      if (text[i] == '>' && quoted) return wrong("> inside of an attribute");
      if (text[i] == '>') break;
      if (!quoted && text[i] == '=' && text[i + 1] != '"') return wrong("an attribute without quotes");
    }
    self_closed = text[i - 1] == '/';
    if (closing) {
      if (open.empty() || open.back() != name) return wrong("</" + name + "> closes nothing");
      open.pop_back();
    } else if (!self_closed && std::find(empty_tags.begin(), empty_tags.end(), name) == empty_tags.end()) {
      open.push_back(name);
    }
    at = i + 1;
  }
  return open.empty() ? "" : "<" + open.back() + "> is not closed";
}

// Values of ` name="…"` in the text.
inline std::vector<std::string> Attributes(const std::string& text, const std::string& name) {
  std::vector<std::string> out;
  const std::string start = " " + name + "=\"";
  for (size_t at = text.find(start); at != std::string::npos; at = text.find(start, at + 1)) {
    const size_t begin = at + start.size();
    out.push_back(text.substr(begin, text.find('"', begin) - begin));
  }
  return out;
}

}  // namespace heddle::simulator
