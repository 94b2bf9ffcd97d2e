#include "model/data/prompt.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

namespace heddle::model {
namespace {

constexpr std::string_view kText = "{text}", kPair = "{pair}", kMask = "{mask}";

std::string Quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

std::string_view Stripped(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  return text;
}

}  // namespace

Result<Prompt> Prompt::Make(const ModelSpec& spec, std::shared_ptr<const Tokenizer> tokenizer,
                            const std::string& pattern, const std::vector<std::string>& words) {
  Prompt prompt;
  prompt.masked_ = spec.head.task == Task::kMaskedLm;
  if (!prompt.masked_ && spec.head.task != Task::kCausalLm) {
    return InvalidArgument(spec.architecture +
                           " is no language model that could answer a prompt; remove [prompt], and it is trained with "
                           "its classifier head");
  }
  prompt.tokenizer_ = std::move(tokenizer);
  const Tokenizer& t = *prompt.tokenizer_;
  std::vector<int32_t> joined = t.Encode("a"), second = t.Encode("b");
  joined.insert(joined.end(), second.begin(), second.end());
  prompt.own_spaces_ = joined == t.Encode("a b");
  HEDDLE_ASSIGN_OR_RETURN(const Encoding empty, t.EncodeText(""));
  if (prompt.masked_) {
    if (t.special().mask < 0) return InvalidArgument("the tokenizer has no mask token, which a prompt needs");
    if (!empty.ids.empty()) {
      prompt.begin_ = {empty.ids[0]};
      prompt.end_.assign(empty.ids.begin() + 1, empty.ids.end());
    }
  } else if (!empty.ids.empty() && t.bos_id() >= 0 && empty.ids[0] == t.bos_id()) {
    prompt.begin_ = {t.bos_id()};
  }
  HEDDLE_RETURN_IF_ERROR(prompt.ReadPattern(pattern).Annotate("prompt.pattern"));
  const size_t at = pattern.find(kMask);
  HEDDLE_RETURN_IF_ERROR(prompt.ReadWords(words, at > 0 && pattern[at - 1] == ' ').Annotate("prompt.words"));
  for (const int32_t word : prompt.words_) {
    if (word >= spec.vocab_size) return InvalidArgument("prompt.words: the tokenizer does not fit the model");
  }
  return prompt;
}

std::vector<int32_t> Prompt::EncodePiece(std::string_view text, bool begins) const {
  if (own_spaces_) text = Stripped(text);
  if (text.empty()) return {};
  // Texts stand behind a space of the pattern, which belongs to their first word.
  return tokenizer_->Encode(begins || own_spaces_ ? std::string(text) : " " + std::string(text));
}

Status Prompt::ReadPattern(const std::string& pattern) {
  std::set<Field> seen;
  std::string_view rest = pattern;
  while (!rest.empty()) {
    size_t at = rest.size();
    std::pair<Field, std::string_view> next = {Field::kNone, ""};
    for (const auto& [field, name] : {std::pair{Field::kText, kText}, {Field::kPair, kPair}, {Field::kMask, kMask}}) {
      if (const size_t found = rest.find(name); found < at) {
        at = found;
        next = {field, name};
      }
    }
    std::string_view words = rest.substr(0, at);
    // The space before a field belongs to what comes there.
    if (next.first != Field::kNone && words.ends_with(' ')) words.remove_suffix(1);
    std::vector<int32_t> ids = EncodePiece(words, /*begins=*/true);
    if (!ids.empty()) pieces_.push_back({Field::kNone, std::move(ids)});
    if (next.first == Field::kNone) break;
    if (!seen.insert(next.first).second) return InvalidArgument(Quoted(next.second) + " stands twice; it may once");
    pieces_.push_back({next.first, next.first == Field::kMask && masked_ ? std::vector{tokenizer_->special().mask}
                                                                         : std::vector<int32_t>()});
    rest.remove_prefix(at + next.second.size());
  }
  for (const auto& [field, name] : {std::pair{Field::kText, kText}, {Field::kMask, kMask}}) {
    if (!seen.contains(field)) return InvalidArgument(Quoted(name) + " is missing; it says where that stands");
  }
  if (!masked_ && pieces_.back().field != Field::kMask) {
    return InvalidArgument("a causal model answers at the end, so nothing may stand behind " + Quoted(kMask));
  }
  return OkStatus();
}

Status Prompt::ReadWords(const std::vector<std::string>& words, bool after_space) {
  if (words.size() < 2) return InvalidArgument("there must be a word for each of at least two classes");
  for (const std::string& word : words) {
    std::vector<int32_t> ids = tokenizer_->Encode(after_space && !own_spaces_ ? " " + word : word);
    if (ids.size() != 1) ids = tokenizer_->Encode(word);
    if (ids.size() != 1 || tokenizer_->IsSpecial(ids[0]) || ids[0] == tokenizer_->special().unknown) {
      return InvalidArgument(Quoted(word) + " is " + std::to_string(ids.size()) +
                             " tokens of this model, or one that it does not know; take a word that is one");
    }
    if (std::find(words_.begin(), words_.end(), ids[0]) != words_.end()) {
      return InvalidArgument(Quoted(word) + " is the same token as another class's word");
    }
    words_.push_back(ids[0]);
  }
  return OkStatus();
}

Result<EncodedExample> Prompt::Encode(const TextExample& example, int64_t max_tokens) const {
  std::vector<int32_t> text, pair;
  int64_t fixed = static_cast<int64_t>(begin_.size() + end_.size());
  bool first = true;
  for (const Piece& piece : pieces_) {
    fixed += static_cast<int64_t>(piece.ids.size());
    if (piece.field == Field::kText) text = EncodePiece(example.text(), first);
    if (piece.field == Field::kPair) {
      if (!example.pair) return InvalidArgument("the prompt asks for {pair}, and the example has no second text");
      pair = EncodePiece(*example.pair, first);
    }
    first = false;
  }
  const int64_t room = max_tokens - fixed;
  if (room < 1) {
    return InvalidArgument("the prompt's pattern alone has " + std::to_string(fixed) +
                           " tokens, which leaves no room for a text in " + std::to_string(max_tokens));
  }
  const auto over = [&] { return static_cast<int64_t>(text.size() + pair.size()) - room; };
  if (over() > 0) pair.resize(pair.size() - std::min(pair.size(), static_cast<size_t>(over())));
  if (over() > 0) text.resize(text.size() - static_cast<size_t>(over()));
  EncodedExample out;
  out.ids = begin_;
  for (const Piece& piece : pieces_) {
    const std::vector<int32_t>& ids = piece.field == Field::kText   ? text
                                      : piece.field == Field::kPair ? pair
                                                                    : piece.ids;
    out.ids.insert(out.ids.end(), ids.begin(), ids.end());
  }
  out.ids.insert(out.ids.end(), end_.begin(), end_.end());
  out.label = example.label.value_or(0);
  return out;
}

int64_t Prompt::AnswerOf(const EncodedExample& encoded) const {
  if (!masked_) return static_cast<int64_t>(encoded.ids.size()) - 1;
  // The pattern's own mask: a text that has the token in it comes before or after the rest of the pattern.
  int64_t behind = static_cast<int64_t>(end_.size());
  bool text_behind = false;
  for (auto piece = pieces_.rbegin(); piece->field != Field::kMask; ++piece) {
    behind += static_cast<int64_t>(piece->ids.size());
    text_behind |= piece->field != Field::kNone;
  }
  if (!text_behind) return static_cast<int64_t>(encoded.ids.size()) - behind - 1;
  int64_t before = static_cast<int64_t>(begin_.size());
  bool text_before = false;
  for (const Piece& piece : pieces_) {
    if (piece.field == Field::kMask) break;
    before += static_cast<int64_t>(piece.ids.size());
    text_before |= piece.field != Field::kNone;
  }
  if (!text_before) return before;
  const auto found = std::find(encoded.ids.begin(), encoded.ids.end(), tokenizer_->special().mask);
  return found - encoded.ids.begin();
}

}  // namespace heddle::model
