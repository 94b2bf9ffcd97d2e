// What fuzz targets share: taking typed values off the front of the input, and Require(), which ends the process so
// that libFuzzer or replay_main.cc keeps the input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace heddle::fuzz {

// A property of the code under test does not hold for this input.
inline void Require(bool holds, const char* property, std::string_view detail = {}) {
  if (holds) return;
  std::fprintf(stderr, "property broken: %s\n%s\n", property, std::string(detail).c_str());
  std::abort();
}

class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

  uint8_t TakeByte() { return static_cast<uint8_t>(TakeNumber(1)); }
  // Little-endian; bytes that are not there count as zero.
  uint64_t TakeNumber(size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes && i < rest_.size(); ++i)
      value |= static_cast<uint64_t>(static_cast<uint8_t>(rest_[i])) << (8 * i);
    rest_.remove_prefix(bytes < rest_.size() ? bytes : rest_.size());
    return value;
  }
  // Up to the next newline, which is taken too.
  std::string_view TakeLine() {
    const size_t end = rest_.find('\n');
    const std::string_view line = rest_.substr(0, end);
    rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
    return line;
  }
  // So many bytes, or what is left.
  std::string_view TakeBytes(size_t bytes) {
    const std::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(taken.size());
    return taken;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

}  // namespace heddle::fuzz
