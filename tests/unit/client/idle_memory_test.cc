// What an idle worker gives back: pages that are in their file, and no others.
#include "client/worker/idle_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "common/file.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::client {
namespace {

constexpr size_t kSize = size_t{1} << 20;

// KiB of the mapping that begins there, by the system's account.
long ResidentAt(const void* begin) {
  std::ostringstream address;
  address << std::hex << reinterpret_cast<uintptr_t>(begin) << "-";
  std::ifstream smaps("/proc/self/smaps");
  bool here = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.find('-') != std::string::npos && line.find(':') > line.find('-')) here = line.starts_with(address.str());
    if (here && line.starts_with("Rss:")) return std::stol(line.substr(4));
  }
  return -1;
}

class IdleMemoryTest : public testing::Test {
 protected:
  IdleMemoryTest() { temp_.Write("file", std::string(kSize, 'a')); }
  char* Map(int rights) {
    UniqueFd fd(::open((temp_ / "file").c_str(), O_RDONLY | O_CLOEXEC));
    void* map = ::mmap(nullptr, kSize, rights, MAP_PRIVATE, fd.get(), 0);
    EXPECT_NE(map, MAP_FAILED);
    return static_cast<char*>(map);
  }
  TempDir temp_;
};

TEST_F(IdleMemoryTest, PagesOfAFileGoAndComeBack) {
  char* map = Map(PROT_READ);
  EXPECT_EQ(std::count(map, map + kSize, 'a'), kSize);
  EXPECT_EQ(ResidentAt(map), static_cast<long>(kSize / 1024));
  GiveBackIdleMemory();
  EXPECT_EQ(ResidentAt(map), 0);
  EXPECT_EQ(std::count(map, map + kSize, 'a'), kSize);
  ::munmap(map, kSize);
}

TEST_F(IdleMemoryTest, WhatWasWrittenStays) {
  char* writable = Map(PROT_READ | PROT_WRITE);
  writable[7] = 'x';
  char* relocated = Map(PROT_READ | PROT_WRITE);  // as the loader leaves a library's table of addresses
  relocated[kSize - 1] = 'y';
  ASSERT_EQ(::mprotect(relocated, kSize, PROT_READ), 0);
  GiveBackIdleMemory();
  EXPECT_EQ(writable[7], 'x');
  EXPECT_EQ(relocated[kSize - 1], 'y');
  EXPECT_EQ(relocated[0], 'a');
  ::munmap(writable, kSize);
  ::munmap(relocated, kSize);
}

}  // namespace
}  // namespace heddle::client
