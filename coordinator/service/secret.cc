#include "coordinator/service/secret.h"

#include <sys/random.h>

#include <cerrno>
#include <vector>

#include "common/file.h"

namespace heddle::coordinator {

Result<std::string> RandomText(size_t bytes) {
  static constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::vector<unsigned char> raw(bytes);
  for (size_t done = 0; done < raw.size();) {
    const ssize_t n = ::getrandom(raw.data() + done, raw.size() - done, 0);
    if (n < 0 && errno != EINTR) return ErrnoStatus(errno, "the system gives no random bytes");
    if (n > 0) done += static_cast<size_t>(n);
  }
  std::string out;
  unsigned bits = 0, held = 0;
  for (unsigned char byte : raw) {
    bits = bits << 8 | byte;
    held += 8;
    while (held >= 6) {
      held -= 6;
      out += kAlphabet[bits >> held & 63];
    }
  }
  if (held > 0) out += kAlphabet[bits << (6 - held) & 63];
  return out;
}

Result<std::string> ReadOrMakeSecret(const std::filesystem::path& path) {
  auto text = ReadFile(path, 4096);
  if (text.status().code() == Code::kNotFound) {
    HEDDLE_ASSIGN_OR_RETURN(std::string made, RandomText(32));
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(path, made + "\n", 0600));
    return made;
  }
  HEDDLE_RETURN_IF_ERROR(text.status());
  while (!text->empty() && (text->back() == '\n' || text->back() == '\r' || text->back() == ' ')) text->pop_back();
  if (text->empty()) return InvalidArgument(path.string() + " is empty; delete it and start again");
  return text;
}

}  // namespace heddle::coordinator
