#include "model/tokenizer/expression.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "model/tokenizer/json_members.h"

namespace heddle::model {
namespace {

constexpr int kMaxDepth = 8;

// As members of a set. White space is Unicode's property: PCRE2's \s has U+180E too, which is none since Unicode 6.3.
constexpr std::string_view kSpace =
    R"(\t-\r\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";  // PCRE2's lacks marks, and has all numbers
// Fractions and raised digits of Latin-1, which Oniguruma's \w and \b count outside of sets only.
constexpr std::string_view kWordAlone = R"(\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";
constexpr std::string_view kHex = "0-9A-Fa-f";  // PCRE2's \h is white space

constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kNames = {{{"alnum", R"(\p{Alphabetic}\p{Nd})"},
                                                                                   {"alpha", R"(\p{Alphabetic})"},
                                                                                   {"cntrl", R"(\p{Cc})"},
                                                                                   {"digit", R"(\p{Nd})"},
                                                                                   {"lower", R"(\p{Lowercase})"},
                                                                                   {"punct", R"(\p{P})"},
                                                                                   {"space", kSpace},
                                                                                   {"upper", R"(\p{Uppercase})"},
                                                                                   {"word", kWord},
                                                                                   {"xdigit", kHex}}};

// Properties that both know, besides those with names of two letters. Others are scripts, which PCRE2 takes with their
// extensions (its \p{Han} has U+3002), or unknown to it as scripts and refused.
constexpr std::array<std::string_view, 8> kProperties = {
    "any", "alphabetic", "emoji", "extendedpictographic", "ideographic", "lowercase", "uppercase", "whitespace"};

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// The members of [:alpha:] and so on; empty: not known.
std::string_view MembersOfName(std::string_view name) {
  const auto* known = std::find_if(kNames.begin(), kNames.end(), [&](const auto& one) { return one.first == name; });
  return known == kNames.end() ? std::string_view() : known->second;
}

std::string Set(bool negated, std::string_view members) {
  return std::string(negated ? "[^" : "[").append(members).append("]");
}

// What an escape stands for, as members of a set.
struct Class {
  std::string members;
  bool negated = false;
};

// Of \p{Han}, \P{^L} and so on.
Class ClassOfProperty(std::string_view escape) {
  if (!escape.ends_with('}')) return {std::string(escape)};  // wrong in both
  bool negated = escape[1] == 'P';
  std::string_view name = escape.substr(3, escape.size() - 4);
  if (name.starts_with('^')) {
    negated = !negated;
    name.remove_prefix(1);
  }
  std::string key;
  for (const char c : name) {
    if (c != ' ' && c != '_' && c != '-') key.push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c));
  }
  if (const std::string_view members = MembersOfName(key); !members.empty()) return {std::string(members), negated};
  const bool same = key.size() <= 2 || std::find(kProperties.begin(), kProperties.end(), key) != kProperties.end();
  return {std::string(negated ? "\\P{" : "\\p{").append(same ? "" : "sc:").append(name).append("}")};
}

// One walk over the expression, which writes as it reads.
class Rewriter {
 public:
  explicit Rewriter(std::string_view expression) : expression_(expression) {}

  Result<std::string> Run() && {
    while (!AtEnd()) {
      if (Peek() == '\\') {
        HEDDLE_RETURN_IF_ERROR(Escape());
      } else if (Peek() == '[') {
        HEDDLE_ASSIGN_OR_RETURN(const std::string set, ReadSet(0));
        out_ += set;
      } else if (Peek() == '(') {
        HEDDLE_RETURN_IF_ERROR(Group());
      } else if (Peek() == '{') {
        HEDDLE_RETURN_IF_ERROR(Interval());
      } else {
        out_.push_back(Take());
      }
    }
    return std::move(out_);
  }

 private:
  bool AtEnd() const { return position_ >= expression_.size(); }
  char Peek(size_t ahead = 0) const {
    return position_ + ahead < expression_.size() ? expression_[position_ + ahead] : '\0';
  }
  char Take() { return expression_[position_++]; }
  bool Skip(std::string_view text) {
    const bool found = expression_.substr(position_).starts_with(text);
    if (found) position_ += text.size();
    return found;
  }

  Status Refuse(std::string_view what) const {
    return Unimplemented("the regular expression \"" + Shorten(expression_) + "\" has " + std::string(what) +
                         " at byte " + std::to_string(position_) + ", which is not supported");
  }
  Status Wrong(std::string_view what) const {
    return InvalidArgument("the regular expression \"" + Shorten(expression_) + "\" has " + std::string(what));
  }

  // An escape as it stands, with its braces: \p{L}, \x{41}.
  std::string_view TakeEscape() {
    const size_t begin = position_;
    position_ = std::min(position_ + 2, expression_.size());
    if (Peek() == '{' && std::string_view("pPxokg").find(expression_[position_ - 1]) != std::string_view::npos)
      position_ = std::min(expression_.find('}', position_), expression_.size() - 1) + 1;
    return expression_.substr(begin, position_ - begin);
  }

  // Quoting and the like, which only PCRE2 has.
  static bool IsPcre2Only(char escape) { return std::string_view("QEN").find(escape) != std::string_view::npos; }

  // Nothing where PCRE2 has the same.
  std::optional<Class> TakeClass(bool in_set) {
    const char c = Peek(1);
    if ((c == 'p' || c == 'P') && Peek(2) == '{') return ClassOfProperty(TakeEscape());
    Class found{"", c == 'S' || c == 'W' || c == 'H'};
    if (c == 's' || c == 'S') {
      found.members = kSpace;
    } else if (c == 'w' || c == 'W') {
      found.members = std::string(kWord).append(in_set ? "" : kWordAlone);
    } else if (c == 'h' || c == 'H') {
      found.members = kHex;
    } else if (c == 'v') {
      found.members = R"(\x0B)";
    } else {
      return std::nullopt;
    }
    position_ += 2;
    return found;
  }

  Status Escape() {
    const char c = Peek(1);
    if (IsPcre2Only(c)) return Refuse("an escape that is not Oniguruma's");
    if (c == 'b' || c == 'B') {
      const std::string word = Set(false, std::string(kWord).append(kWordAlone));
      const char* after_word = c == 'b' ? "(?!" : "(?=";
      const char* after_other = c == 'b' ? "(?=" : "(?!";
      out_ += "(?:(?<=" + word + ")" + after_word + word + ")|(?<!" + word + ")" + after_other + word + "))";
      position_ += 2;
    } else if (const std::optional<Class> found = TakeClass(false)) {
      out_ += Set(found->negated, found->members);
    } else {
      out_ += TakeEscape();
    }
    return OkStatus();
  }

  // Options mean other things ("m": the dot), or hold for other parts: only (?i:...), and (?i) for all that follows.
  Status Group() {
    if (Peek(1) == '*') return Refuse("a verb");
    if (Peek(1) == '?' && (IsLetter(Peek(2)) || Peek(2) == '-' || Peek(2) == '#' || Peek(2) == '^')) {
      size_t length = 2;
      while (Peek(length) == 'i' || Peek(length) == '-') ++length;
      const bool for_all = Peek(length) == ')' && position_ == 0;
      if (Peek(length) != ':' && !for_all) return Refuse("options of a group");
    }
    out_.push_back(Take());
    return OkStatus();
  }

  Status Interval() {
    size_t length = 1;
    while (IsDigit(Peek(length))) ++length;
    const size_t low = length - 1;
    const bool comma = Peek(length) == ',';
    if (comma) ++length;
    const size_t high_begin = length;
    while (IsDigit(Peek(length))) ++length;
    const bool interval = Peek(length) == '}' && (low > 0 || length > high_begin);
    if (!interval) {
      out_.push_back(Take());
      return OkStatus();
    }
    ++length;
    if (Peek(length) == '+') return Refuse("\"+\" behind \"{...}\" (it would repeat there, and be possessive here)");
    if (Peek(length) == '?' && !comma) return Refuse("\"?\" behind \"{n}\"");
    out_ += low == 0 ? "{0" : "{";
    out_ += expression_.substr(position_ + 1, length - 1);
    position_ += length;
    return OkStatus();
  }

  // A part of a set between "&&": plain members, and sets among them.
  struct Operand {
    std::string members;
    std::vector<std::string> sets;
    bool empty() const { return members.empty() && sets.empty(); }
    std::string Expression() const {
      if (sets.empty()) return Set(false, members);
      std::string all = "(?:";
      if (!members.empty()) all += Set(false, members) + "|";
      for (size_t i = 0; i < sets.size(); ++i) all += (i == 0 ? "" : "|") + sets[i];
      return all + ")";
    }
  };

  Result<std::string> ReadSet(int depth) {
    if (depth >= kMaxDepth) return Refuse("sets nested too deeply");
    Take();
    const bool negated = Skip("^");
    std::vector<Operand> operands(1);
    if (Skip("]")) operands[0].members = R"(\])";
    while (!AtEnd() && Peek() != ']') {
      if (Skip("&&")) {
        if (operands.back().empty()) return Refuse("an intersection with nothing");
        operands.emplace_back();
      } else {
        HEDDLE_RETURN_IF_ERROR(ReadMember(depth, &operands.back()));
      }
    }
    if (AtEnd()) return Wrong("a \"[\" without its \"]\"");
    Take();
    if (operands.back().empty()) return Refuse("an intersection with nothing");
    if (operands.size() == 1 && operands[0].sets.empty()) return Set(negated, operands[0].members);
    // A character that is in all: looked at for each but the last, which takes it.
    std::string all;
    for (size_t i = 0; i + 1 < operands.size(); ++i) all += "(?=" + operands[i].Expression() + ")";
    all += operands.back().Expression();
    return negated ? "(?:(?!" + all + ")\\p{Any})" : "(?:" + all + ")";
  }

  Status ReadMember(int depth, Operand* operand) {
    if (Peek() == '[') {
      if (Peek(1) == ':') {
        const size_t end = expression_.find(":]", position_ + 2);
        if (end != std::string_view::npos) return ReadName(end, operand);
      }
      HEDDLE_ASSIGN_OR_RETURN(std::string set, ReadSet(depth + 1));
      operand->sets.push_back(std::move(set));
    } else if (Peek() == '\\') {
      if (IsPcre2Only(Peek(1))) return Refuse("an escape that is not Oniguruma's");
      if (std::optional<Class> found = TakeClass(true); !found) {
        operand->members += TakeEscape();
      } else if (found->negated) {
        operand->sets.push_back(Set(true, found->members));
      } else {
        operand->members += found->members;
      }
    } else {
      operand->members.push_back(Take());
    }
    return OkStatus();
  }

  // [:alpha:] and so on; `end` is that of the name.
  Status ReadName(size_t end, Operand* operand) {
    const std::string_view name = expression_.substr(position_ + 2, end - position_ - 2);
    const std::string_view members = MembersOfName(name);
    if (members.empty()) return Refuse("the name [:" + Shorten(name) + ":]");
    operand->members += members;
    position_ = end + 2;
    return OkStatus();
  }

  std::string_view expression_;
  size_t position_ = 0;
  std::string out_;
};

}  // namespace

Result<std::string> ToPcre2(std::string_view expression) { return Rewriter(expression).Run(); }

}  // namespace heddle::model
