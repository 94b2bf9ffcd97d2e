#include "common/dotted_name.h"

#include <algorithm>
#include <charconv>

namespace heddle {

bool HasComponents(std::string_view path, std::string_view name) {
  for (size_t at = path.find(name); !name.empty() && at != std::string_view::npos; at = path.find(name, at + 1)) {
    const size_t end = at + name.size();
    if ((at == 0 || path[at - 1] == '.') && (end == path.size() || path[end] == '.')) return true;
  }
  return false;
}

std::optional<uint32_t> FirstNumber(std::string_view name) {
  for (size_t begin = 0; begin < name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    uint32_t number = 0;
    const char* last = name.data() + end;
    if (std::from_chars(name.data() + begin, last, number) == std::from_chars_result{last, {}}) return number;
    begin = end + 1;
  }
  return std::nullopt;
}

}  // namespace heddle
