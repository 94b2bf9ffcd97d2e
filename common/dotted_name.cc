#include "common/dotted_name.h"

namespace heddle {

bool HasComponents(std::string_view path, std::string_view name) {
  for (size_t at = path.find(name); !name.empty() && at != std::string_view::npos; at = path.find(name, at + 1)) {
    const size_t end = at + name.size();
    if ((at == 0 || path[at - 1] == '.') && (end == path.size() || path[end] == '.')) return true;
  }
  return false;
}

}  // namespace heddle
