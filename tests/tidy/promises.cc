#include "tests/tidy/promises.h"

#include <algorithm>
#include <cctype>
#include <sstream>
#include <vector>

namespace heddle::tidy {
namespace {

constexpr const char* kPage = "docs/threat-model.md";
constexpr const char* kHeader = "| promise | test |";

bool IsWordCharacter(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// The arguments of each `macro(…` in the text, up to `count` of them, without white space.
std::vector<std::vector<std::string>> Uses(const std::string& text, const std::string& macro, size_t count) {
  std::vector<std::vector<std::string>> uses;
  for (size_t at = text.find(macro + "("); at != std::string::npos; at = text.find(macro + "(", at + 1)) {
    if (at > 0 && IsWordCharacter(text[at - 1])) continue;
    std::vector<std::string> arguments(1);
    for (size_t i = at + macro.size() + 1; i < text.size() && arguments.size() <= count; ++i) {
      const char c = text[i];
      const bool separates = c == ',' || c == ')' || (count == 1 && std::isspace(static_cast<unsigned char>(c)) != 0);
      if (IsWordCharacter(c)) arguments.back() += c;
      if (separates) arguments.emplace_back();
      if (c == ')') break;
    }
    if (arguments.size() > count)
      uses.push_back({arguments.begin(), arguments.begin() + static_cast<ptrdiff_t>(count)});
  }
  return uses;
}

// What stands between pairs of backticks.
std::vector<std::string> Quoted(const std::string& text) {
  std::vector<std::string> quoted;
  for (size_t begin = text.find('`'); begin != std::string::npos;) {
    const size_t end = text.find('`', begin + 1);
    if (end == std::string::npos) break;
    quoted.push_back(text.substr(begin + 1, end - begin - 1));
    begin = text.find('`', end + 1);
  }
  return quoted;
}

}  // namespace

std::set<std::string> TestNames(const Tree& tree) {
  std::set<std::string> names;
  for (const auto& [path, text] : tree) {
    if (!path.starts_with("tests/")) continue;
    if (path.ends_with(".cc")) {
      for (const char* macro : {"TEST", "TEST_F", "TEST_P", "RC_GTEST_PROP", "RC_GTEST_FIXTURE_PROP"}) {
        for (const auto& arguments : Uses(text, macro, 2)) names.insert(arguments[0] + "." + arguments[1]);
      }
    } else if (path.ends_with("CMakeLists.txt")) {
      for (const auto& arguments : Uses(text, "heddle_fuzz_target", 1)) names.insert(arguments[0]);
    }
  }
  return names;
}

Violations CheckPromises(const Tree& tree) {
  const auto page = tree.find(kPage);
  if (page == tree.end()) return {std::string(kPage) + ": it does not exist"};
  const std::set<std::string> known = TestNames(tree);
  Violations out;
  size_t promises = 0;
  bool in_table = false;
  std::vector<std::string> lines(1);  // the first is number 1
  std::istringstream text(page->second);
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  for (size_t number = 1; number < lines.size(); ++number) {
    const std::string& line = lines[number];
    const std::string at = std::string(kPage) + ":" + std::to_string(number) + ": ";
    const bool row = line.starts_with("|");
    // A blank line ends a table: what follows would be no promise, and nobody would see that it is none.
    const bool begins = row && !lines[number - 1].starts_with("|");
    if (begins && (number + 1 == lines.size() || !lines[number + 1].starts_with("|---"))) {
      out.push_back(at + "a row outside any table");
    }
    if (line == kHeader) {
      in_table = true;
      continue;
    }
    in_table = in_table && row;
    if (!in_table || line.starts_with("|---")) continue;
    ++promises;
    const size_t end = line.rfind('|');
    const size_t cell = end == 0 ? 0 : line.rfind('|', end - 1);
    const std::vector<std::string> tests = Quoted(line.substr(cell, end - cell));
    if (cell == 0 || tests.empty()) out.push_back(at + "a promise without a test");
    for (const std::string& test : tests) {
      if (!known.contains(test)) out.push_back(at + "there is no test " + test);
    }
  }
  if (promises == 0) out.push_back(std::string(kPage) + ": it has no table \"" + kHeader + "\"");
  return out;
}

}  // namespace heddle::tidy
