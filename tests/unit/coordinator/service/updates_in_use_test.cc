#include "coordinator/service/updates_in_use.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/unit/coordinator/store/temp_folder.h"
#include "tests/unit/coordinator/upgrade/small_run.h"

namespace heddle::coordinator {
namespace {

class UpdatesInUseTest : public ::testing::Test {
 protected:
  UpdatesInUseTest() {
    EXPECT_TRUE(run_.Open().ok());
    run_.Create(folder_.path());
    in_use_.emplace(&run_.store(), &run_.blobs(), [this](const Sha256Digest& blob) { return needed_.contains(blob); });
  }
  Sha256Digest Put(const std::string& bytes) { return run_.blobs().Put(bytes).value(); }
  bool DeleteUnneeded(const Sha256Digest& digest) {
    EXPECT_TRUE(in_use_->DeleteUnneeded({&digest, 1}).ok());
    return !run_.blobs().Has(digest);
  }

  testing::TempFolder folder_;
  testing::SmallRun run_{folder_.path() / "state"};
  std::set<Sha256Digest> needed_;
  std::optional<UpdatesInUse> in_use_;
};

TEST_F(UpdatesInUseTest, WhatNobodyAsksForIsDeleted) {
  EXPECT_TRUE(DeleteUnneeded(Put("an update")));
  EXPECT_TRUE(in_use_->DeleteUnneeded({}).ok());
}

TEST_F(UpdatesInUseTest, WhatARowNamesOrTheRunNeedsStays) {
  EXPECT_FALSE(DeleteUnneeded(run_.run().model));
  needed_.insert(Put("a view"));
  EXPECT_FALSE(DeleteUnneeded(*needed_.begin()));
}

TEST_F(UpdatesInUseTest, WhatIsHeldIsDeletedOnceItHasBeenLetGo) {
  const Sha256Digest held = Put("held");
  {
    UpdatesInUse::Hold one = in_use_->Take(held);
    const UpdatesInUse::Hold moved = std::move(one), two = in_use_->Take(held);
    EXPECT_FALSE(DeleteUnneeded(held));
  }
  EXPECT_TRUE(run_.blobs().Has(held)) << "not by the one who lets go, who may be on a connection's thread";
  {
    const UpdatesInUse::Hold again = in_use_->Take(held);
    EXPECT_TRUE(DeleteUnneeded(Put("other"))) << "others meanwhile";
    EXPECT_TRUE(run_.blobs().Has(held));
  }
  EXPECT_TRUE(in_use_->DeleteUnneeded({}).ok());
  EXPECT_FALSE(run_.blobs().Has(held));
}

TEST_F(UpdatesInUseTest, WhatIsAskedForByTheTimeItIsLetGoStays) {
  const Sha256Digest held = Put("held");
  {
    const UpdatesInUse::Hold hold = in_use_->Take(held);
    EXPECT_FALSE(DeleteUnneeded(held));
    needed_.insert(held);
  }
  EXPECT_TRUE(in_use_->DeleteUnneeded({}).ok());
  EXPECT_TRUE(run_.blobs().Has(held));
}

}  // namespace
}  // namespace heddle::coordinator
