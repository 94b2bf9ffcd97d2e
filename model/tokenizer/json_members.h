// Members of the objects in a tokenizer's files, with errors that name them. Internal to the tokenizer. Pure functions.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"

namespace heddle::model {

// Above every known vocabulary. Bounds what one hostile id can make us allocate.
inline constexpr int64_t kMaxTokenId = int64_t{1} << 21;

// At most 60 bytes of a text, for messages.
std::string Shorten(std::string_view text);

// The member, or null when absent or JSON null.
const boost::json::value* Member(const boost::json::object& object, std::string_view key);
// Errors of all below: kInvalidArgument, "KEY must be ...", for the reader of a file to put its name before.
Result<bool> BoolMember(const boost::json::object& object, std::string_view key, bool otherwise);
// The same of tokenizer_config.json, which the error names.
Result<bool> ConfigFlag(const boost::json::object& config, std::string_view key, bool otherwise);
Result<int64_t> IntMember(const boost::json::object& object, std::string_view key, int64_t otherwise);
// The second form has no default: the member must be there.
Result<std::string> StringMember(const boost::json::object& object, std::string_view key, std::string_view otherwise);
Result<std::string> StringMember(const boost::json::object& object, std::string_view key);
// A string of exactly one character.
Result<char32_t> CharacterMember(const boost::json::object& object, std::string_view key, char32_t otherwise);
// From 0 to kMaxTokenId - 1.
Result<int32_t> TokenId(const boost::json::value& value, std::string_view what);

// A component {"type": NAME, ...} of tokenizer.json.
struct Component {
  const boost::json::object* object = nullptr;  // null: absent
  std::string_view type;                        // empty: absent
};
// `where` names it in messages: "pre_tokenizer".
Result<Component> ReadComponent(const boost::json::value* value, std::string_view where);
// The members of a Sequence: the list under `key`. Errors: kInvalidArgument, also for more than 32 of them.
Result<const boost::json::array*> SequenceMembers(const Component& component, std::string_view key);
// kUnimplemented, with the name of what there is and of what is known.
Status UnsupportedComponent(std::string_view where, std::string_view type, std::string_view known);

}  // namespace heddle::model
