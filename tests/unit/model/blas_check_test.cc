// Which BLAS is loaded, read from the text of /proc/self/maps, and what a processor has, from that of /proc/cpuinfo.
#include "model/transformer/blas_check.h"

#include <gtest/gtest.h>

namespace heddle::model {
namespace {

std::string Maps(const std::string& path) {
  return "559a0000-559b0000 r-xp 00000000 08:01 131 /usr/bin/heddle-worker\n"
         "7f0000000000-7f0000010000 rw-p 00000000 00:00 0 \n"
         "7f1000000000-7f1000010000 r-xp 00001000 08:01 42                         " +
         path + "\n7ffd0000-7ffe0000 rw-p 00000000 00:00 0   [stack]\n";
}

TEST(CheckBlas, ReferenceBlasIsSlowAndTheCureIsNamed) {
  const BlasCheck check = CheckBlas(Maps("/usr/lib/x86_64-linux-gnu/blas/libblas.so.3.11.0"), "");
  EXPECT_TRUE(check.slow);
  EXPECT_EQ(check.library, "/usr/lib/x86_64-linux-gnu/blas/libblas.so.3.11.0");
  EXPECT_NE(check.Describe().find("libopenblas"), std::string::npos) << check.Describe();
}

TEST(CheckBlas, FastOnesAreKnownByTheirNames) {
  for (const char* path : {"/usr/lib/x86_64-linux-gnu/openblas-openmp/libopenblasp-r0.3.21.so",
                           "/usr/lib/x86_64-linux-gnu/openblas-pthread/libblas.so.3", "/opt/mkl/libmkl_rt.so.2",
                           "/usr/lib/x86_64-linux-gnu/blis-openmp/libblas.so.3", "/usr/lib/libblis.so.4"}) {
    const BlasCheck check = CheckBlas(Maps(path), "");
    EXPECT_FALSE(check.slow) << path;
    EXPECT_EQ(check.library, path);
    EXPECT_EQ(check.Describe().find("apt install"), std::string::npos);
  }
}

TEST(CheckBlas, OpenBlasCountsBesideTheReference) {
  const std::string both = Maps("/usr/lib/blas/libblas.so.3.11.0") + Maps("/usr/lib/libopenblas.so.0");
  EXPECT_FALSE(CheckBlas(both, "").slow);
}

TEST(CheckBlas, MklInsideLibTorchIsFoundInItsConfiguration) {
  EXPECT_FALSE(CheckBlas(Maps("/usr/lib/libc.so.6"), "Build settings: BLAS_INFO=mkl, BUILD_TYPE=Release").slow);
  EXPECT_FALSE(CheckBlas(Maps("/usr/lib/libblas.so.3"), "- Intel(R) oneAPI Math Kernel Library Version 2022").slow);
}

TEST(CheckBlas, NothingMappedIsBuiltIn) {
  for (const std::string& maps : {std::string(), Maps("/usr/lib/libc.so.6"), std::string("garbage\n\n/\n")}) {
    const BlasCheck check = CheckBlas(maps, "");
    EXPECT_FALSE(check.slow);
    EXPECT_EQ(check.library, "built in");
  }
}

TEST(IsBfloat16Slow, WithoutInstructionsForIt) {
  const auto slow = [](const std::string& flags) {
    return IsBfloat16Slow("processor\t: 0\nmodel name\t: bf16 \n" + flags + "\nbugs\t\t: spectre_v1\n");
  };
  EXPECT_TRUE(slow("flags\t\t: fpu avx2 avx512f avx512bw"));
  EXPECT_FALSE(slow("flags\t\t: fpu avx512_bf16 wbnoinvd"));
  EXPECT_FALSE(slow("flags\t\t: fpu avx2 amx_bf16"));
  EXPECT_TRUE(slow("Features\t: fp asimd svebf16x"));
  EXPECT_FALSE(slow("Features\t: fp asimd bf16 dgh"));
  EXPECT_FALSE(slow("features\t: another system's")) << "nothing is known";
  EXPECT_FALSE(IsBfloat16Slow(""));
}

TEST(CheckBlas, ThisProcessHasOne) { EXPECT_FALSE(CheckLoadedBlas().library.empty()); }

}  // namespace
}  // namespace heddle::model
