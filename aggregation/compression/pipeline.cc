#include "aggregation/compression/pipeline.h"

#include <algorithm>
#include <array>
#include <optional>

#include "common/config.h"

namespace heddle::compression {
namespace {

struct Name {
  std::string_view name;
  StageKind kind;
};

constexpr std::array kNames = {
    Name{"top_k", StageKind::kTopK},     Name{"random_mask", StageKind::kRandomMask},
    Name{"bf16", StageKind::kBf16},      Name{"int8", StageKind::kInt8},
    Name{"int4", StageKind::kInt4},      Name{"int2", StageKind::kInt2},
    Name{"sign", StageKind::kSign},      Name{"blocks", StageKind::kBlocks},
    Name{"nnadq", StageKind::kAdaptive},
};

constexpr std::string_view kErrorFeedback = "error_feedback";
constexpr uint32_t kWhole = 1'000'000;

const Name* FindName(std::string_view name) {
  const auto* found = std::find_if(kNames.begin(), kNames.end(), [&](const Name& n) { return n.name == name; });
  return found == kNames.end() ? nullptr : found;
}

std::string_view NameOf(StageKind kind) {
  return std::find_if(kNames.begin(), kNames.end(), [&](const Name& n) { return n.kind == kind; })->name;
}

// "0.01" as millionths. Nothing for what is no such number; above one and zero are for the caller to refuse.
std::optional<uint32_t> ParseShare(std::string_view text) {
  const size_t point = std::min(text.find('.'), text.size());
  const std::string_view whole = text.substr(0, point);
  const std::string_view part = point == text.size() ? std::string_view() : text.substr(point + 1);
  const auto digits = [](std::string_view t) {
    return std::all_of(t.begin(), t.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  if (whole.empty() || whole.size() > 3 || part.size() > 6 || !digits(whole) || !digits(part)) return std::nullopt;
  if (point != text.size() && part.empty()) return std::nullopt;
  uint32_t value = 0;
  for (const char c : whole) value = value * 10 + static_cast<uint32_t>(c - '0');
  for (size_t i = 0; i < 6; ++i) value = value * 10 + (i < part.size() ? static_cast<uint32_t>(part[i] - '0') : 0);
  return value;
}

std::string ShareText(uint32_t millionths) {
  if (millionths == kWhole) return "1";
  std::string digits = std::to_string(kWhole + millionths).substr(1);
  digits.erase(digits.find_last_not_of('0') + 1);
  return "0." + digits;
}

// One word; what is wrong with it goes to `mistakes`.
std::optional<Stage> ParseWord(const std::string& word, std::vector<std::string>* mistakes) {
  const auto wrong = [&](const std::string& sentence) {
    mistakes->push_back("'" + word + "' " + sentence);
    return std::nullopt;
  };
  const size_t colon = word.find(':');
  const std::string name = word.substr(0, colon);
  const Name* known = FindName(name);
  if (known == nullptr) {
    const auto nearest = NearestName(name, WordNames());
    return wrong("is no way to make updates smaller; " +
                 (nearest ? "did you mean '" + *nearest + "'?"
                          : std::string("there are blocks:F, top_k:F, random_mask:F, nnadq:W, bf16, int8, int4, int2, "
                                        "sign and error_feedback")));
  }
  if (!HasNumber(known->kind)) {
    if (colon != std::string::npos) return wrong("takes no number; write '" + name + "'");
    return Stage{known->kind, 0};
  }
  const bool weight = known->kind == StageKind::kAdaptive;
  if (colon == std::string::npos) {
    return wrong(std::string("needs ") +
                 (weight ? "the weight of bytes against accuracy" : "the share of values to keep") + ", such as '" +
                 name + ":0.01'");
  }
  const auto share = ParseShare(std::string_view(word).substr(colon + 1));
  if (!share || *share == 0 || *share > kWhole) {
    return wrong(std::string("needs a ") + (weight ? "weight" : "share") +
                 " above 0 and up to 1 with at most six digits behind the point, such as '" + name + ":0.01'");
  }
  return Stage{known->kind, *share};
}

}  // namespace

std::vector<std::string> WordNames() {
  std::vector<std::string> names;
  for (const Name& name : kNames) names.emplace_back(name.name);
  names.emplace_back(kErrorFeedback);
  return names;
}

Result<Pipeline> Pipeline::Parse(std::span<const std::string> words) {
  std::vector<std::string> mistakes;
  Pipeline pipeline;
  std::string number;  // the stage that said how values are written
  for (const std::string& word : words) {
    if (word == kErrorFeedback) {
      if (pipeline.error_feedback_) mistakes.push_back("'error_feedback' stands twice");
      pipeline.error_feedback_ = true;
      continue;
    }
    const std::optional<Stage> stage = ParseWord(word, &mistakes);
    if (!stage) continue;
    if (!number.empty()) {
      mistakes.push_back(IsSelection(stage->kind) || stage->kind == StageKind::kBlocks
                             ? "'" + word + "' must stand before '" + number + "', which writes what was selected"
                             : "'" + word + "' cannot follow '" + number +
                                   "': values are written in one way; leave one of the two out");
      continue;
    }
    if (stage->kind == StageKind::kBlocks) {
      if (!pipeline.stages_.empty()) mistakes.push_back("'" + word + "' must stand first: it drops whole blocks");
    } else if (!IsSelection(stage->kind)) {
      number = word;
    }
    pipeline.stages_.push_back(*stage);
  }
  if (words.size() > kMaxWords) {
    mistakes.push_back("there are " + std::to_string(words.size()) + " words; at most " + std::to_string(kMaxWords) +
                       " can follow one another");
  }
  if (words.size() == 1 && pipeline.error_feedback_) {
    mistakes.push_back(
        "'error_feedback' alone has nothing to do; name what leaves something out, such as 'top_k:0.01'");
  }
  if (mistakes.empty()) return pipeline;
  std::string all = mistakes[0];
  for (size_t i = 1; i < mistakes.size(); ++i) all += "\n" + mistakes[i];
  return InvalidArgument(std::move(all));
}

std::vector<std::string> Pipeline::Words() const {
  std::vector<std::string> words;
  for (const Stage& stage : stages_) {
    words.emplace_back(NameOf(stage.kind));
    if (HasNumber(stage.kind)) words.back() += ":" + ShareText(stage.millionths);
  }
  if (error_feedback_) words.emplace_back(kErrorFeedback);
  return words;
}

std::string Pipeline::ToString() const {
  std::string text;
  for (const std::string& word : Words()) text += (text.empty() ? "" : ", ") + word;
  return text.empty() ? "nothing" : text;
}

}  // namespace heddle::compression
