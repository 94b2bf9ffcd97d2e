#include "model/tokenizer/json_members.h"

#include <boost/json.hpp>

#include "model/tokenizer/unicode.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr size_t kMaxSequence = 32;

Status MustBe(std::string_view key, std::string_view what) {
  return InvalidArgument(std::string(key) + " must be " + std::string(what));
}

}  // namespace

std::string Shorten(std::string_view text) {
  return text.size() <= 60 ? std::string(text) : std::string(text.substr(0, 57)) + "...";
}

const json::value* Member(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Result<bool> BoolMember(const json::object& object, std::string_view key, bool otherwise) {
  const json::value* value = Member(object, key);
  if (value == nullptr) return otherwise;
  if (!value->is_bool()) return MustBe(key, "true or false");
  return value->get_bool();
}

Result<bool> ConfigFlag(const json::object& config, std::string_view key, bool otherwise) {
  const Result<bool> flag = BoolMember(config, key, otherwise);
  return flag.ok() ? flag : flag.status().Annotate("tokenizer_config.json");
}

Result<int64_t> IntMember(const json::object& object, std::string_view key, int64_t otherwise) {
  const json::value* value = Member(object, key);
  if (value == nullptr) return otherwise;
  json::error_code error;
  const auto number = value->to_number<int64_t>(error);
  if (error || number < 0) return MustBe(key, "a whole number, not negative");
  return number;
}

Result<std::string> StringMember(const json::object& object, std::string_view key, std::string_view otherwise) {
  if (Member(object, key) == nullptr) return std::string(otherwise);
  return StringMember(object, key);
}

Result<std::string> StringMember(const json::object& object, std::string_view key) {
  const json::value* value = Member(object, key);
  if (value == nullptr || !value->is_string()) return MustBe(key, "a text");
  return std::string(value->get_string());
}

Result<char32_t> CharacterMember(const json::object& object, std::string_view key, char32_t otherwise) {
  if (Member(object, key) == nullptr) return otherwise;
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, StringMember(object, key));
  if (text.empty() || DecodeUtf8(text, 0).length != text.size()) return MustBe(key, "one character");
  return DecodeUtf8(text, 0).code_point;
}

Result<int32_t> TokenId(const json::value& value, std::string_view what) {
  json::error_code error;
  const auto id = value.to_number<int64_t>(error);
  if (error || id < 0 || id >= kMaxTokenId) {
    return MustBe("the id of " + Shorten(what), "a whole number from 0 to " + std::to_string(kMaxTokenId - 1));
  }
  return static_cast<int32_t>(id);
}

Result<Component> ReadComponent(const json::value* value, std::string_view where) {
  if (value == nullptr || value->is_null()) return Component{};
  const json::value* type = value->is_object() ? Member(value->get_object(), "type") : nullptr;
  if (type == nullptr || !type->is_string()) return MustBe(where, "an object with a type");
  return Component{&value->get_object(), {type->get_string().data(), type->get_string().size()}};
}

Result<const json::array*> SequenceMembers(const Component& component, std::string_view key) {
  const json::value* list = Member(*component.object, key);
  if (list == nullptr || !list->is_array() || list->get_array().size() > kMaxSequence) {
    return MustBe(key, "a list of at most " + std::to_string(kMaxSequence));
  }
  return &list->get_array();
}

Status UnsupportedComponent(std::string_view where, std::string_view type, std::string_view known) {
  return Unimplemented(std::string(where) + " of type \"" + Shorten(type) + "\" is not supported (only " +
                       std::string(known) + ")");
}

}  // namespace heddle::model
