// The bytes of an IDX file of unsigned bytes, for tests.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace heddle::model {

inline std::string Idx(const std::vector<uint32_t>& shape, std::string_view data) {
  std::string file = {0, 0, 8, static_cast<char>(shape.size())};
  for (const uint32_t extent : shape) {
    for (int shift = 24; shift >= 0; shift -= 8) file += static_cast<char>(extent >> shift);
  }
  return file.append(data);
}

}  // namespace heddle::model
