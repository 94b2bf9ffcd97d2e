#include "coordinator/service/updates_in_use.h"

#include <gtest/gtest.h>

#include <set>
#include <span>

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
  // As a device's upload comes.
  Sha256Digest Put(const std::string& bytes) {
    const Sha256Digest digest = Sha256(bytes);
    auto upload = run_.blobs().BeginUpload({.device = DeviceId("anna"),
                                            .assignment = AssignmentId(std::string(32, 'a')),
                                            .size_bytes = bytes.size(),
                                            .digest = digest});
    EXPECT_TRUE(upload.ok() && (*upload)->Append(0, std::as_bytes(std::span(bytes))).ok() && (*upload)->Finish().ok());
    return digest;
  }
  bool DeleteUnneeded(const Sha256Digest& digest) {
    in_use_->DeleteUnneeded({&digest, 1});
    return !run_.blobs().Has(digest);
  }

  testing::TempFolder folder_;
  testing::SmallRun run_{folder_.path() / "state"};
  std::set<Sha256Digest> needed_;
  std::optional<UpdatesInUse> in_use_;
};

TEST_F(UpdatesInUseTest, WhatNobodyAsksForIsDeleted) {
  EXPECT_TRUE(DeleteUnneeded(Put("an update")));
  in_use_->DeleteUnneeded({});
}

TEST_F(UpdatesInUseTest, WhatARowNamesOrTheRunNeedsStays) {
  EXPECT_FALSE(DeleteUnneeded(run_.run().model));
  needed_.insert(Put("a view"));
  EXPECT_FALSE(DeleteUnneeded(*needed_.begin()));
}

// A file of the next run, put there while a device finishes an upload of the same bytes: no row names it yet.
TEST_F(UpdatesInUseTest, WhatTheCoordinatorHasPutThereItselfStays) {
  const Sha256Digest digest = run_.blobs().Put("a tokenizer").value();
  EXPECT_EQ(Put("a tokenizer"), digest);
  EXPECT_FALSE(DeleteUnneeded(digest));
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
  in_use_->DeleteUnneeded({});
  EXPECT_FALSE(run_.blobs().Has(held));
}

TEST_F(UpdatesInUseTest, WhatIsAskedForByTheTimeItIsLetGoStays) {
  const Sha256Digest held = Put("held");
  {
    const UpdatesInUse::Hold hold = in_use_->Take(held);
    EXPECT_FALSE(DeleteUnneeded(held));
    needed_.insert(held);
  }
  in_use_->DeleteUnneeded({});
  EXPECT_TRUE(run_.blobs().Has(held));
}

}  // namespace
}  // namespace heddle::coordinator
