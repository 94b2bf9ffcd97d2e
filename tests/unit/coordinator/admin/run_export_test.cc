// heddle run export: a checkpoint is copied whole or not at all.
#include <gtest/gtest.h>

#include <sstream>

#include "common/file.h"
#include "coordinator/admin/commands.h"
#include "tests/unit/coordinator/store/temp_folder.h"
#include "tests/unit/coordinator/upgrade/small_run.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;

class RunExportTest : public ::testing::Test {
 protected:
  RunExportTest() {
    EXPECT_TRUE(run_.Open().ok());
    run_.Create(folder_.path());
    run_.Round();
    run_.Round();
    context_.config.state_dir = (folder_.path() / "state").string();
    context_.out = &out_;
  }
  Status Export(std::optional<uint32_t> round, const fs::path& to) {
    return RunExport(context_, run_.run().id.value(), round, to);
  }
  fs::path Checkpoint(uint32_t round) { return RunFiles::CheckpointFolder(run_.folder(), round); }
  // What is beside the folder that was asked for.
  size_t LeftBehind() { return static_cast<size_t>(std::distance(fs::directory_iterator(exports_), {})); }

  testing::TempFolder folder_;
  testing::SmallRun run_{folder_.path() / "state"};
  fs::path exports_ = folder_.path() / "exports";
  std::ostringstream out_;
  CommandContext context_;
};

TEST_F(RunExportTest, CopiesTheNewestCheckpointOrTheOneThatIsAskedFor) {
  fs::create_directories(exports_);
  ASSERT_TRUE(Export({}, exports_ / "newest").ok());
  ASSERT_TRUE(Export(1, exports_ / "first" / "").ok()) << "with a slash at the end";
  for (const auto& [name, round] : {std::pair("newest", 2U), std::pair("first", 1U)}) {
    for (const char* file : {"adapter_config.json", kAdapterFile}) {
      EXPECT_EQ(ReadFile(exports_ / name / file).value(), ReadFile(Checkpoint(round) / file).value()) << name << file;
    }
  }
  EXPECT_NE(ReadFile(exports_ / "newest" / kAdapterFile).value(), ReadFile(exports_ / "first" / kAdapterFile).value());
  EXPECT_EQ(LeftBehind(), 2U);
}

TEST_F(RunExportTest, RefusesWhatIsNotThereAndWhatIsThereAlready) {
  fs::create_directories(exports_);
  EXPECT_EQ(Export(3, exports_ / "out").code(), Code::kNotFound);
  EXPECT_EQ(Export({}, exports_).code(), Code::kAlreadyExists);
  EXPECT_EQ(LeftBehind(), 0U);
}

TEST_F(RunExportTest, LeavesNothingOfACopyThatFailed) {
  fs::create_directories(exports_);
  fs::create_symlink(folder_.path() / "not there", Checkpoint(2) / "broken");
  EXPECT_FALSE(Export({}, exports_ / "out").ok());
  EXPECT_EQ(LeftBehind(), 0U);
  fs::remove(Checkpoint(2) / "broken");
  EXPECT_TRUE(Export({}, exports_ / "out").ok());
}

}  // namespace
}  // namespace heddle::coordinator
