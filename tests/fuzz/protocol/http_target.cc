// Range headers, percent escapes and query strings. The first 8 bytes are the size that a range is taken of; the next
// line is a name to look for; the rest is the text.
#include "protocol/transport/server.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle::protocol;

namespace {

void CheckRange(std::string_view header, uint64_t size) {
  const auto range = ParseRange(header, size);
  if (!range.ok()) {
    Require(range.status().code() == heddle::Code::kOutOfRange, "a refused range is out of range", header);
    return;
  }
  if (!*range) return;
  Require((*range)->length > 0 && (*range)->offset < size && (*range)->length <= size - (*range)->offset,
          "a range lies inside", header);
  const std::string same =
      "bytes=" + std::to_string((*range)->offset) + "-" + std::to_string((*range)->offset + (*range)->length - 1);
  const auto again = ParseRange(same, size);
  Require(again.ok() && *again && (*again)->offset == (*range)->offset && (*again)->length == (*range)->length,
          "a range written out is the same range", same);
}

std::string EscapeAll(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    out += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  heddle::fuzz::Input input(data, size);
  const uint64_t file_size = input.TakeNumber(8);
  const std::string name(input.TakeLine());
  const std::string_view text = input.rest();
  CheckRange(text, file_size);
  CheckRange("bytes=" + std::string(text), file_size);
  for (bool plus_is_space : {false, true}) {
    const auto decoded = PercentDecode(text, plus_is_space);
    if (!decoded.ok()) continue;
    Require(decoded->size() <= text.size(), "decoding never grows a text");
    if (decoded->find('\0') != std::string::npos) continue;  // as it was sent: only an escaped one is refused
    const auto again = PercentDecode(EscapeAll(*decoded), plus_is_space);
    Require(again.ok() && *again == *decoded, "a text that is escaped again decodes to the same");
  }
  (void)FindQuery(text, name);
  if (name.find('\0') == std::string::npos && text.find('\0') == std::string_view::npos) {
    const auto found = FindQuery("%zz&a=1&" + EscapeAll(name) + "=" + EscapeAll(text) + "&a=2", name);
    Require(found == (name == "a" ? "1" : text), "a value is found under its name, behind what is broken");
  }
  return 0;
}
