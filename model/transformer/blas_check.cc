#include "model/transformer/blas_check.h"

#include <torch/types.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <mutex>

#include "common/logging.h"

namespace heddle::model {
namespace {

// The path at the end of a line of /proc/<pid>/maps that mentions `word` in its file name; empty when there is none.
std::string MappedPath(std::string_view maps, std::string_view word) {
  while (!maps.empty()) {
    const std::string_view line = maps.substr(0, maps.find('\n'));
    maps.remove_prefix(std::min(maps.size(), line.size() + 1));
    const size_t path = line.find('/');
    if (path == std::string_view::npos) continue;
    if (line.substr(line.rfind('/')).find(word) != std::string_view::npos) return std::string(line.substr(path));
  }
  return {};
}

}  // namespace

BlasCheck CheckBlas(std::string_view maps, std::string_view torch_config) {
  // libblas.so.3 is a link that the distribution's alternatives set; maps show where it leads.
  for (const char* fast : {"openblas", "libmkl", "libblis", "libarmpl", "libatlas"}) {
    if (std::string path = MappedPath(maps, fast); !path.empty()) return {path, false};
  }
  if (torch_config.find("BLAS_INFO=mkl") != std::string_view::npos ||
      torch_config.find("Math Kernel Library") != std::string_view::npos) {
    return {"MKL, built into LibTorch", false};
  }
  std::string path = MappedPath(maps, "libblas.so");
  if (path.empty()) return {"built in", false};
  // OpenBLAS may also come under the name libblas.so.3 in a folder of its own; then its folder says so.
  const bool named = path.find("openblas") != std::string::npos || path.find("blis") != std::string::npos ||
                     path.find("atlas") != std::string::npos;
  return {path, !named};
}

BlasCheck CheckLoadedBlas() {
  std::ifstream in("/proc/self/maps");
  const std::string maps{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  return CheckBlas(maps, at::show_config());
}

bool IsBfloat16Slow(std::string_view cpu_info) {
  const size_t flags = std::min(cpu_info.find("\nflags"), cpu_info.find("\nFeatures"));
  if (flags == std::string_view::npos) return false;
  const std::string line = std::string(cpu_info.substr(flags, cpu_info.find('\n', flags + 1) - flags)) + " ";
  for (const char* name : {" avx512_bf16 ", " amx_bf16 ", " bf16 "}) {
    if (line.find(name) != std::string::npos) return false;
  }
  return true;
}

void WarnOfSlowBfloat16() {
  static std::once_flag once;
  std::call_once(once, [] {
    std::ifstream in("/proc/cpuinfo");
    const std::string cpu_info{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    if (!IsBfloat16Slow(cpu_info)) return;
    Log(Severity::kWarning,
        "computing in bfloat16 on a processor without instructions for it (avx512_bf16, amx_bf16) is many times slower "
        "than in float32: take float32 if memory allows");
  });
}

void WarnOfSlowBlas() {
  if (const BlasCheck blas = CheckLoadedBlas(); blas.slow) Log(Severity::kWarning, blas.Describe());
}

std::string BlasCheck::Describe() const {
  if (!slow) return "matrix products by " + library;
  return "matrix products by " + library +
         ", the reference BLAS, which is many times slower than OpenBLAS: run `apt install libopenblas0-openmp`";
}

}  // namespace heddle::model
