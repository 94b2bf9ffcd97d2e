// The parts of config.h that need no schema: "key=value" texts, names that were nearly right, values as text.
#include "common/config_words.h"

#include <unistd.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <charconv>

#include "common/config.h"

namespace heddle {
namespace {

constexpr size_t kMistypedLetters = 2;
constexpr size_t kMostParts = 1000;  // of keys within one another

// Levenshtein, one row.
size_t EditDistance(std::string_view from, std::string_view to) {
  std::vector<size_t> row(to.size() + 1);
  for (size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= from.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j < row.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (from[i - 1] == to[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row.back();
}

// The last place of the text or comment that begins at `at`: its closing quotes, or the end of its line.
size_t EndOfText(std::string_view toml, size_t at) {
  const char quote = toml[at];
  const bool is_long = quote != '#' && toml.substr(at + 1, 2) == std::string(2, quote);
  for (size_t i = at + (is_long ? 3 : 1); i < toml.size(); ++i) {
    if (toml[i] == '\\' && quote == '"') {
      ++i;
    } else if (toml[i] == '\n' && !is_long) {
      return i - 1;
    } else if (toml[i] == quote && quote != '#' && (!is_long || toml.substr(i, 3) == std::string(3, quote))) {
      if (!is_long) return i;
      for (i += 2; i + 1 < toml.size() && toml[i + 1] == quote; ++i) {
      }  // one or two more belong to the text
      return i;
    }
  }
  return toml.size() - 1;
}

}  // namespace

size_t LineTooDeep(std::string_view toml) {
  size_t around = 0, points = 0;  // of what is open, and of the present key or value
  std::vector<size_t> open;
  for (size_t i = 0; i < toml.size(); ++i) {
    switch (toml[i]) {
      case '"':
      case '\'':
      case '#':
        i = EndOfText(toml, i);
        break;
      case '.':
        ++points;
        break;
      case '[':
      case '{':
        open.push_back(points);
        around += points;
        points = 0;
        break;
      case ']':
      case '}':
        if (open.empty()) break;
        points = open.back();
        around -= points;
        open.pop_back();
        break;
      case ',':
        points = 0;
        break;
      case '\n':
        if (open.empty()) points = 0;
        break;
      default:
        break;
    }
    if (around + points > kMostParts) {
      return 1 + static_cast<size_t>(std::count(toml.begin(), toml.begin() + static_cast<ptrdiff_t>(i), '\n'));
    }
  }
  return 0;
}

// A JSON string is one of TOML too, but for the one control character that JSON does not escape.
std::string TomlText(std::string_view text) {
  std::string out;
  for (char c : boost::json::serialize(boost::json::string(text))) {
    if (c == '\x7F') {
      out += "\\u007F";
    } else {
      out += c;
    }
  }
  return out;
}

std::string DoubleText(double value) {
  char buffer[32];
  auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return std::string(buffer, end);
}

Result<std::map<std::string, std::string>> ParseSettings(const std::vector<std::string>& settings) {
  std::map<std::string, std::string> overrides;
  for (const std::string& setting : settings) {
    const size_t equals = setting.find('=');
    if (equals == std::string::npos || equals == 0) {
      return InvalidArgument("--set needs key=value, not '" + setting + "'");
    }
    overrides[setting.substr(0, equals)] = setting.substr(equals + 1);
  }
  return overrides;
}

std::optional<std::string> NearestName(std::string_view word, const std::vector<std::string>& candidates) {
  if (word.size() > 256) return std::nullopt;
  std::optional<std::string> best;
  size_t best_distance = word.size() / 3 + 2;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::map<std::string, std::string> MistypedVariables(const std::vector<std::string>& known) {
  std::map<std::string, std::string> found;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::string name(text.substr(0, text.find('=')));
    if (!name.starts_with("HEDDLE_") || name.size() > 256) continue;
    for (const std::string& right : known) {
      const size_t distance = EditDistance(name, right);
      if (distance == 0) {
        found.erase(name);
        break;
      }
      if (distance <= kMistypedLetters) found.emplace(name, right);
    }
  }
  return found;
}

}  // namespace heddle
