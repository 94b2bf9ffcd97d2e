// The main() of fuzz targets where libFuzzer is not there: runs LLVMFuzzerTestOneInput over every file of the corpus
// folder, then over mutations of them that are the same in every run.
//
//   fuzz_x FOLDER            each seed, then rounds of one mutation a seed, until kMutations a seed or kSeconds are
//   over fuzz_x FILE...           only these inputs, as they are: to look at a finding
//
// When the target ends the process, the input is written to ./crash-<target> first.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
// Of the sanitizers' runtime, when the build has one: called before it ends the process.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

namespace fs = std::filesystem;

constexpr int kMutations = 4000;
constexpr double kSeconds = 4;
constexpr size_t kMaxInputBytes = 64 << 10;  // of mutations; seeds may be larger

std::string current, crash_name;  // for the handlers below

void KeepInput() {
  const int fd = ::open(crash_name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return;
  [[maybe_unused]] const ssize_t written = ::write(fd, current.data(), current.size());
  ::close(fd);
  constexpr char kSay[] = "the input was kept as ";
  [[maybe_unused]] ssize_t said = ::write(2, kSay, sizeof kSay - 1);
  said = ::write(2, crash_name.data(), crash_name.size());
  said = ::write(2, "\n", 1);
}

void OnSignal(int signal) {
  KeepInput();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void Run(const std::string& input) {
  current = input;
  // From a heap block of exactly its size, so that a sanitizer sees the first byte read beyond it.
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

// SplitMix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  size_t Below(size_t n) { return n == 0 ? 0 : Next() % n; }

 private:
  uint64_t state_;
};

constexpr uint64_t kEdges[] = {0,      1,          2,          0x7F,        0x80,       0xFF,       0x7FFF,
                               0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFFu, 1ull << 62, 1ull << 63, ~uint64_t{0}};
constexpr const char* kNumbers[] = {"0",    "-1", "1", "4294967296", "9223372036854775807", "18446744073709551616",
                                    "1e309"};

void FlipBit(std::string& s, Random& random) {
  if (!s.empty()) s[random.Below(s.size())] ^= static_cast<char>(1 << random.Below(8));
}
void SetByte(std::string& s, Random& random) {
  if (!s.empty()) s[random.Below(s.size())] = static_cast<char>(random.Next());
}
void Truncate(std::string& s, Random& random) { s.resize(random.Below(s.size() + 1)); }
void Erase(std::string& s, Random& random) {
  const size_t at = random.Below(s.size());
  s.erase(at, 1 + random.Below(16));
}
void Insert(std::string& s, Random& random) {
  std::string piece(1 + random.Below(8), '\0');
  for (char& c : piece) c = static_cast<char>(random.Next());
  s.insert(random.Below(s.size() + 1), piece);
}
void Repeat(std::string& s, Random& random) {
  const std::string piece = s.substr(random.Below(s.size()), 1 + random.Below(64));
  const size_t at = random.Below(s.size() + 1), times = 1 + random.Below(8);
  for (size_t i = 0; i < times && s.size() < kMaxInputBytes; ++i) s.insert(at, piece);
}
// A binary length or count, 1 to 8 bytes wide, either byte order, mostly near the front where lengths stand.
void EditLength(std::string& s, Random& random) {
  const size_t width = size_t{1} << random.Below(4);
  if (s.size() < width) return;
  const size_t at = random.Below(random.Below(2) ? s.size() - width + 1 : std::min<size_t>(16, s.size() - width + 1));
  uint64_t value = kEdges[random.Below(std::size(kEdges))];
  if (random.Below(2)) value = s.size() - width + 1 - random.Below(3);
  const bool big_endian = random.Below(2) == 1;
  for (size_t i = 0; i < width; ++i) s[at + i] = static_cast<char>(value >> (8 * (big_endian ? width - 1 - i : i)));
}
// A number written out in digits.
void EditDigits(std::string& s, Random& random) {
  const size_t begin = s.find_first_of("0123456789", random.Below(s.size() + 1));
  if (begin == std::string::npos) return;
  const size_t end = std::min(s.find_first_not_of("0123456789", begin), s.size());
  s.replace(begin, end - begin, kNumbers[random.Below(std::size(kNumbers))]);
}
void Splice(std::string& s, const std::string& other, Random& random) {
  s = s.substr(0, random.Below(s.size() + 1)) + other.substr(random.Below(other.size() + 1));
}

std::string Mutate(const std::vector<std::string>& seeds, size_t which, uint64_t round) {
  Random random(round * 1'000'003 + which);
  constexpr void (*kMutators[])(std::string&, Random&) = {FlipBit, SetByte, Truncate,   Erase,
                                                          Insert,  Repeat,  EditLength, EditDigits};
  std::string input = seeds[which];
  for (size_t left = 1 + random.Below(4); left > 0; --left) {
    const size_t pick = random.Below(std::size(kMutators) + 1);
    if (pick == std::size(kMutators)) {
      Splice(input, seeds[random.Below(seeds.size())], random);
    } else {
      kMutators[pick](input, random);
    }
  }
  if (input.size() > kMaxInputBytes && input.size() > seeds[which].size()) input.resize(kMaxInputBytes);
  return input;
}

std::string ReadBytes(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace

int main(int argc, char** argv) {
  crash_name = "crash-" + fs::path(argv[0]).filename().string();
  if (__sanitizer_set_death_callback) {
    __sanitizer_set_death_callback(KeepInput);
    std::signal(SIGABRT, OnSignal);
  } else {
    for (int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, OnSignal);
  }
  std::vector<fs::path> files;
  bool mutate = false;
  for (int i = 1; i < argc; ++i) {
    if (!fs::is_directory(argv[i])) {
      files.emplace_back(argv[i]);
      continue;
    }
    mutate = true;
    for (const fs::directory_entry& entry : fs::directory_iterator(argv[i])) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    std::fprintf(stderr, "usage: %s CORPUS_FOLDER | FILE...; there must be at least one seed\n", argv[0]);
    return 2;
  }
  std::vector<std::string> seeds;
  for (const fs::path& file : files) seeds.push_back(ReadBytes(file));
  for (const std::string& seed : seeds) Run(seed);
  if (!mutate) return 0;

  Run("");
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  int round = 0;
  for (; round < kMutations && elapsed() < kSeconds; ++round) {
    for (size_t which = 0; which < seeds.size(); ++which) Run(Mutate(seeds, which, static_cast<uint64_t>(round)));
  }
  std::printf("%zu seeds, %d mutations of each\n", seeds.size(), round);
  return 0;
}
