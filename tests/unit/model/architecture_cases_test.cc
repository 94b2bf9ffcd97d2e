// Whether the committed models are of all architectures.
#include <gtest/gtest.h>

#include <set>

#include "model/config/registry.h"
#include "tests/unit/model/case_folders.h"

namespace heddle::model {
namespace {

// Each is run through all checks of its kind (architectures_test.cc, encoder_test.cc): gradients, reference numbers.
TEST(ArchitectureCases, ThereIsOneOfEveryArchitecture) {
  std::set<std::string> seen;
  for (const char* kind : {"models", "encoders"}) {
    for (const std::string& name : CaseNames(kind)) {
      const auto spec = ReadModelConfig(CaseRoot(kind) / name);
      ASSERT_TRUE(spec.ok()) << spec.status();
      // The tests of the one kind are not those of the other.
      EXPECT_EQ(spec->head.task == Task::kCausalLm, std::string_view(kind) == "models") << name;
      seen.insert(spec->architecture);
    }
  }
  const std::vector<std::string> known = KnownArchitectures();
  EXPECT_EQ(seen, std::set<std::string>(known.begin(), known.end()));
}

}  // namespace
}  // namespace heddle::model
