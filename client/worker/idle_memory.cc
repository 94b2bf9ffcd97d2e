#include "client/worker/idle_memory.h"

#include <malloc.h>
#include <sys/mman.h>

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

#include "common/file.h"

namespace heddle::client {
namespace {

struct Range {
  uintptr_t begin = 0, end = 0;
};

// Private mappings of files, not writable, without a page of their own: a page that was written before (relocations, a
// debugger's breakpoint) is not in the file.
std::vector<Range> UnchangedFiles(const std::string& smaps) {
  std::vector<Range> found;
  Range mapping;
  bool is_file = false;
  std::istringstream lines(smaps);
  for (std::string line; std::getline(lines, line);) {
    char rights[5] = "";
    uint64_t inode = 0, anonymous = 0;
    Range next;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %4s %*x %*s %" SCNu64, &next.begin, &next.end, rights,
                    &inode) == 4) {
      mapping = next;
      is_file = inode != 0 && rights[0] == 'r' && rights[1] == '-' && rights[3] == 'p';
    } else if (is_file && std::sscanf(line.c_str(), "Anonymous: %" SCNu64, &anonymous) == 1 && anonymous == 0) {
      found.push_back(mapping);
    }
  }
  return found;
}

}  // namespace

void GiveBackIdleMemory() {
  ::malloc_trim(0);
  const Result<std::string> smaps = ReadFile("/proc/self/smaps", size_t{16} << 20);
  if (!smaps.ok()) return;
  const std::vector<Range> files = UnchangedFiles(*smaps);
  for (const Range& file : files) {
    [[maybe_unused]] const int ignored =
        ::madvise(reinterpret_cast<void*>(file.begin), file.end - file.begin, MADV_DONTNEED);
  }
}

}  // namespace heddle::client
