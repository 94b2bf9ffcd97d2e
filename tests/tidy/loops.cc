#include "tests/tidy/loops.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <string_view>

namespace heddle::tidy {
namespace {

bool IsWord(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool IsSpace(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

// Members that give a reference into their object. Where they are first in a chain, the object has a name.
bool GivesAReference(std::string_view name) {
  static const std::set<std::string_view> kNames = {"Model", "Whole", "as_array", "as_object", "at", "log", "plan"};
  return kNames.contains(name);
}

// Members that give a value of its own: when one is last, nothing of its object is needed any more.
bool GivesAValue(std::string_view name) {
  static const std::set<std::string_view> kNames = {"AtBoundary", "Garbage", "LinearModules", "WeightSpec", "substr"};
  return kNames.contains(name);
}

// Behind the bracket that closes the one at `open`, or the end.
size_t Behind(const std::string& code, size_t open) {
  int depth = 0;
  for (size_t i = open; i < code.size(); ++i) {
    if (code[i] == '(' || code[i] == '[' || code[i] == '{') ++depth;
    if (code[i] == ')' || code[i] == ']' || code[i] == '}') --depth;
    if (depth == 0) return i + 1;
  }
  return code.size();
}

// The range of the loop whose parenthesis opens at `open`; empty where it is no range-based loop.
std::string RangeOf(const std::string& code, size_t open) {
  const size_t end = Behind(code, open) - 1;
  for (size_t i = open + 1; i < end; ++i) {
    if (code[i] == '(' || code[i] == '[' || code[i] == '{') i = Behind(code, i);
    if (i >= end) break;
    const bool alone = code[i] == ':' && code[i - 1] != ':' && code[i + 1] != ':';
    if (alone) return code.substr(i + 1, end - i - 1);
  }
  return "";
}

// Of an expression: it reads something through the result of a call; its own value comes of a call.
struct Reading {
  bool temporary = false;
  bool called = false;
};

Reading ReadingOf(const std::string& range) {
  size_t i = 0;
  while (i < range.size() && IsSpace(range[i])) ++i;
  const bool followed = i < range.size() && range[i] == '*';
  std::string name;
  bool called = false;  // the call before it gives something that nobody is known to keep
  bool open = false;    // as above, and only one plain member was named since
  while (i < range.size()) {
    const char c = range[i];
    if (c == '(') {
      if (open && !GivesAValue(name)) return {.temporary = true};
      open = false;
      const size_t end = Behind(range, i);
      const Reading inner = name.empty() ? ReadingOf(range.substr(i + 1, end - i - 2)) : Reading();
      called = name.empty() ? inner.called || inner.temporary : !GivesAReference(name);
      i = end;
      name.clear();
    } else if (c == '[') {
      if (called || open) return {.temporary = true};
      i = Behind(range, i);
      name.clear();
    } else if (c == '{') {
      return {};  // a list of values, each with its own life
    } else if (c == '<' && !name.empty() && range.find('>', i) != std::string::npos) {
      i = range.find('>', i) + 1;  // arguments of a template; the name stays
    } else if (IsWord(c)) {
      const size_t begin = i;
      while (i < range.size() && IsWord(range[i])) ++i;
      name = range.substr(begin, i - begin);
    } else if (c == '.' || range.compare(i, 2, "->") == 0) {
      if (c != '.' && called) return {.temporary = true};
      if (open) return {.temporary = true};
      open = called;
      called = false;
      i += c == '.' ? 1 : 2;
    } else {
      if (!IsSpace(c) && c != '>') {  // another operand begins
        name.clear();
        called = open = false;
      }
      ++i;
    }
  }
  return {.temporary = followed && called, .called = called || open};
}

// Behind the literal that begins at `at` with its quotation mark; `raw` names the end of a raw string.
size_t BehindLiteral(const std::string& text, size_t at) {
  if (text[at] == '"' && at > 0 && text[at - 1] == 'R') {
    const size_t open = text.find('(', at);
    if (open == std::string::npos) return text.size();
    const std::string end = ")" + text.substr(at + 1, open - at - 1) + "\"";
    const size_t close = text.find(end, open);
    return close == std::string::npos ? text.size() : close + end.size();
  }
  for (size_t i = at + 1; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == text[at] || text[i] == '\n') {
      return i + 1;
    }
  }
  return text.size();
}

}  // namespace

std::string WithoutTexts(const std::string& text) {
  std::string code = text;
  size_t i = 0;
  auto blank = [&](size_t end) {
    for (; i < std::min(end, code.size()); ++i) {
      if (code[i] != '\n') code[i] = ' ';
    }
  };
  while (i < text.size()) {
    const bool digit_mark = text[i] == '\'' && i > 0 && std::isxdigit(static_cast<unsigned char>(text[i - 1])) != 0;
    if (text.compare(i, 2, "//") == 0) {
      blank(text.find('\n', i));
    } else if (text.compare(i, 2, "/*") == 0) {
      const size_t close = text.find("*/", i + 2);
      blank(close == std::string::npos ? close : close + 2);
    } else if (text[i] == '"' || (text[i] == '\'' && !digit_mark)) {
      blank(BehindLiteral(text, i));
    } else {
      ++i;
    }
  }
  return code;
}

Violations CheckLoops(const Tree& tree) {
  Violations out;
  for (const auto& [path, text] : tree) {
    if (!path.ends_with(".h") && !path.ends_with(".cc")) continue;
    const std::string code = WithoutTexts(text);
    for (size_t at = code.find("for ("); at != std::string::npos; at = code.find("for (", at + 1)) {
      if (at > 0 && IsWord(code[at - 1])) continue;
      if (!ReadingOf(RangeOf(code, at + 4)).temporary) continue;
      const auto line = std::count(code.begin(), code.begin() + static_cast<std::ptrdiff_t>(at), '\n') + 1;
      out.push_back(
          path + ":" + std::to_string(line) +
          ": the loop walks over a part of what a call gives, which ends before the loop begins; give the call's "
          "result a name");
    }
  }
  return out;
}

}  // namespace heddle::tidy
