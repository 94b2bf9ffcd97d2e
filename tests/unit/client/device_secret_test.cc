// A device's own secret: made once, kept, never guessed.
#include "client/device_secret.h"

#include <gmock/gmock.h>

#include "common/file.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::client {
namespace {

namespace fs = std::filesystem;

TEST(DeviceSecretFile, IsMadeOnceForItsOwnerOnlyAndThenKept) {
  const TempDir folder;
  const auto first = DeviceSecret(folder / "a");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->size(), 64U);
  EXPECT_EQ(fs::status(folder / "a").permissions(), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(*DeviceSecret(folder / "a"), *first);
  EXPECT_NE(*DeviceSecret(folder / "b"), *first);
}

TEST(DeviceSecretFile, ThatHoldsSomethingElseIsNeitherUsedNorReplaced) {
  const TempDir folder;
  for (const std::string& text : {std::string(), std::string("secret"), std::string(63, 'a'), std::string(65, 'a'),
                                  std::string(64, 'x'), std::string(2000, 'a')}) {
    folder.Write("a", text);
    const auto secret = DeviceSecret(folder / "a");
    EXPECT_FALSE(secret.ok()) << text;
    EXPECT_THAT(secret.status().message(), testing::HasSubstr((folder / "a").string()));
    EXPECT_EQ(*ReadFile(folder / "a"), text);
  }
  EXPECT_EQ(DeviceSecret(folder / "none" / "a").status().code(), Code::kNotFound) << "no such folder";
}

}  // namespace
}  // namespace heddle::client
