#include "model/tokenizer/post_processor.h"

#include <algorithm>
#include <boost/json.hpp>
#include <string>
#include <utility>

#include "model/tokenizer/json_members.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

using Step = PostProcessor::Step;
using Kind = Step::Kind;

constexpr size_t kMaxSteps = 64;
constexpr int64_t kMaxTypeId = 1024;
constexpr std::string_view kKnown = "BertProcessing, ByteLevel, RobertaProcessing, Sequence, TemplateProcessing";

bool AddsNothing(const std::vector<Step>& steps) {
  return std::all_of(steps.begin(), steps.end(), [](const Step& step) { return step.kind != Kind::kSpecial; });
}

// ["[SEP]", 102]
Result<int32_t> NamedId(const json::object& object, std::string_view key) {
  const json::value* value = Member(object, key);
  const json::array* pair = value == nullptr ? nullptr : value->if_array();
  if (pair == nullptr || pair->size() != 2 || !(*pair)[0].is_string())
    return InvalidArgument("post_processor." + std::string(key) + " must be [\"token\", id]");
  return TokenId((*pair)[1], std::string_view((*pair)[0].get_string()));
}

Result<PostProcessor> ParseBertOrRoberta(const json::object& object, bool bert) {
  HEDDLE_ASSIGN_OR_RETURN(const int32_t sep, NamedId(object, "sep"));
  HEDDLE_ASSIGN_OR_RETURN(const int32_t cls, NamedId(object, "cls"));
  const std::vector<Step> single = {{Kind::kSpecial, cls, 0}, {Kind::kFirst, -1, 0}, {Kind::kSpecial, sep, 0}};
  std::vector<Step> pair = single;
  // RoBERTa has no types of its own, and two separators.
  if (!bert) pair.push_back({Kind::kSpecial, sep, 0});
  pair.push_back({Kind::kSecond, -1, bert ? 1 : 0});
  pair.push_back({Kind::kSpecial, sep, bert ? 1 : 0});
  return PostProcessor(single, pair);
}

// The ids of a special token of a template.
Result<std::vector<int32_t>> TemplateIds(const json::object& object, const std::string& name) {
  const json::value* all = Member(object, "special_tokens");
  const json::value* token = all != nullptr && all->is_object() ? Member(all->get_object(), name) : nullptr;
  const json::value* list = token != nullptr && token->is_object() ? Member(token->get_object(), "ids") : nullptr;
  if (list == nullptr || !list->is_array() || list->get_array().size() > kMaxSteps) {
    return InvalidArgument("post_processor.special_tokens lacks the ids of \"" + Shorten(name) + "\"");
  }
  std::vector<int32_t> ids;
  for (const json::value& id : list->get_array()) {
    HEDDLE_ASSIGN_OR_RETURN(const int32_t one, TokenId(id, name));
    ids.push_back(one);
  }
  return ids;
}

Result<std::vector<Step>> ParseTemplate(const json::object& object, std::string_view key) {
  const json::value* list = Member(object, key);
  const auto wrong = [&] {
    return InvalidArgument("post_processor." + std::string(key) +
                           " must be a list of at most 64 {\"SpecialToken\": ...} and {\"Sequence\": ...}");
  };
  if (list == nullptr || !list->is_array() || list->get_array().size() > kMaxSteps) return wrong();
  std::vector<Step> steps;
  for (const json::value& value : list->get_array()) {
    const json::object* one = value.if_object();
    const json::value* special = one == nullptr ? nullptr : Member(*one, "SpecialToken");
    const json::value* sequence = one == nullptr ? nullptr : Member(*one, "Sequence");
    const json::value* piece = special != nullptr ? special : sequence;
    if (piece == nullptr || !piece->is_object()) return wrong();
    HEDDLE_ASSIGN_OR_RETURN(const std::string name, StringMember(piece->get_object(), "id"));
    HEDDLE_ASSIGN_OR_RETURN(const int64_t type_id, IntMember(piece->get_object(), "type_id", 0));
    if (type_id > kMaxTypeId) return wrong();
    const auto type = static_cast<int32_t>(type_id);
    if (sequence != nullptr) {
      if (name != "A" && name != "B") return wrong();
      steps.push_back({name == "A" ? Kind::kFirst : Kind::kSecond, -1, type});
      continue;
    }
    HEDDLE_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, TemplateIds(object, name));
    for (const int32_t id : ids) steps.push_back({Kind::kSpecial, id, type});
  }
  const auto count = [&](Kind kind) {
    return std::count_if(steps.begin(), steps.end(), [kind](const Step& step) { return step.kind == kind; });
  };
  if (steps.size() > kMaxSteps || count(Kind::kFirst) != 1 || count(Kind::kSecond) != (key == "pair" ? 1 : 0)) {
    return InvalidArgument("post_processor." + std::string(key) + " must have each text in it once");
  }
  return steps;
}

Result<PostProcessor> ParseTemplates(const json::object& object) {
  HEDDLE_ASSIGN_OR_RETURN(std::vector<Step> single, ParseTemplate(object, "single"));
  std::vector<Step> pair = PostProcessor().pair();
  if (Member(object, "pair") != nullptr) {
    HEDDLE_ASSIGN_OR_RETURN(pair, ParseTemplate(object, "pair"));
  }
  return PostProcessor(std::move(single), std::move(pair));
}

Result<PostProcessor> Parse(const json::value* value, int depth) {
  HEDDLE_ASSIGN_OR_RETURN(const Component component, ReadComponent(value, "post_processor"));
  if (component.object == nullptr || component.type == "ByteLevel") return PostProcessor();
  if (component.type == "BertProcessing") return ParseBertOrRoberta(*component.object, true);
  if (component.type == "RobertaProcessing") return ParseBertOrRoberta(*component.object, false);
  if (component.type == "TemplateProcessing") return ParseTemplates(*component.object);
  if (component.type != "Sequence") return UnsupportedComponent("post_processor", component.type, kKnown);
  if (depth > 0) return InvalidArgument("post_processors are nested too deeply");
  HEDDLE_ASSIGN_OR_RETURN(const json::array* list, SequenceMembers(component, "processors"));
  PostProcessor all;
  for (const json::value& one : *list) {
    HEDDLE_ASSIGN_OR_RETURN(PostProcessor part, Parse(&one, depth + 1));
    if (AddsNothing(part.single()) && AddsNothing(part.pair())) continue;
    if (!AddsNothing(all.single()) || !AddsNothing(all.pair()))
      return Unimplemented("two post_processors that add tokens are not supported");
    all = std::move(part);
  }
  return all;
}

}  // namespace

PostProcessor::PostProcessor()
    : single_({{Kind::kFirst, -1, 0}}), pair_({{Kind::kFirst, -1, 0}, {Kind::kSecond, -1, 1}}) {}

PostProcessor::PostProcessor(std::vector<Step> single, std::vector<Step> pair)
    : single_(std::move(single)), pair_(std::move(pair)) {}

Result<PostProcessor> PostProcessor::FromJson(const json::value* value, int64_t vocab_size) {
  HEDDLE_ASSIGN_OR_RETURN(PostProcessor all, Parse(value, 0));
  for (const std::vector<Step>* steps : {&all.single_, &all.pair_}) {
    for (const Step& step : *steps) {
      if (step.kind == Kind::kSpecial && step.id >= vocab_size) {
        return InvalidArgument("the post_processor adds the token " + std::to_string(step.id) +
                               ", but the largest id is " + std::to_string(vocab_size - 1));
      }
    }
  }
  return all;
}

Result<Encoding> PostProcessor::Build(std::vector<int32_t> first, std::vector<int32_t>* second,
                                      const EncodeOptions& options) const {
  const std::vector<Step>& steps = second == nullptr ? single_ : pair_;
  int64_t added = 0;
  for (const Step& step : steps) added += options.add_special_tokens && step.kind == Kind::kSpecial ? 1 : 0;
  if (options.max_length > 0) {
    HEDDLE_RETURN_IF_ERROR(Truncate(options.max_length - added, options, &first, second));
  }
  Encoding out;
  const auto append = [&](const std::vector<int32_t>& ids, int32_t type_id) {
    out.ids.insert(out.ids.end(), ids.begin(), ids.end());
    out.type_ids.resize(out.ids.size(), type_id);
    out.attention_mask.resize(out.ids.size(), 1);
    out.special_mask.resize(out.ids.size(), 0);
  };
  for (const Step& step : steps) {
    if (step.kind == Kind::kFirst) append(first, step.type_id);
    if (step.kind == Kind::kSecond) append(*second, step.type_id);
    if (step.kind == Kind::kSpecial && options.add_special_tokens) out.Append(step.id, step.type_id, true);
  }
  return out;
}

}  // namespace heddle::model
