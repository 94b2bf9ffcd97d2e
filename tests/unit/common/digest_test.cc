#include "common/digest.h"

#include <gtest/gtest.h>

#include <unordered_set>

#include "tests/unit/common/temp_dir.h"

namespace heddle {
namespace {

// FIPS 180-2, appendix B.
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr char kTwoBlocks[] = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
constexpr char kMillionAs[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
constexpr char kEmpty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

TEST(Digest, GivesThePublishedAnswers) {
  EXPECT_EQ(Sha256("abc").ToHex(), kAbc);
  EXPECT_EQ(Sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq").ToHex(), kTwoBlocks);
  EXPECT_EQ(Sha256(std::string(1'000'000, 'a')).ToHex(), kMillionAs);
  EXPECT_EQ(Sha256("").ToHex(), kEmpty);
}

TEST(Digest, HashingInPiecesIsHashingTheWhole) {
  Sha256Hasher hasher;
  for (int i = 0; i < 1000; ++i) hasher.Update(std::string(1000, 'a'));
  EXPECT_EQ(hasher.Finish().ToHex(), kMillionAs);
  // And it starts anew.
  hasher.Update("a");
  hasher.Update("");
  hasher.Update("bc");
  EXPECT_EQ(hasher.Finish().ToHex(), kAbc);
  EXPECT_EQ(hasher.Finish().ToHex(), kEmpty);
}

TEST(Digest, AFileLargerThanABufferHasTheDigestOfItsBytes) {
  TempDir dir;
  std::string content(3 * (size_t{1} << 20) + 17, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 31 % 251);
  auto digest = Sha256File(dir.Write("blob", content));
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(*digest, Sha256(content));
  EXPECT_EQ(Sha256File(dir.Write("empty", "")).value().ToHex(), kEmpty);
}

TEST(Digest, AMissingFileIsNotFoundAndNamed) {
  TempDir dir;
  auto digest = Sha256File(dir / "absent");
  EXPECT_EQ(digest.status().code(), Code::kNotFound);
  EXPECT_NE(digest.status().message().find("absent"), std::string::npos);
  EXPECT_FALSE(Sha256File(dir.path()).ok());
}

TEST(Digest, HexIsReadInEitherCaseAndWrittenInLower) {
  std::string upper = kAbc;
  for (char& c : upper) c = static_cast<char>(std::toupper(c));
  auto digest = Sha256Digest::FromHex(upper);
  ASSERT_TRUE(digest.ok());
  EXPECT_EQ(digest->ToHex(), kAbc);
  EXPECT_EQ(*digest, Sha256("abc"));
}

TEST(Digest, WhatIsNotADigestIsRefused) {
  std::string good = kAbc;
  for (const std::string& bad : {std::string(), good.substr(1), good + "0", good.substr(0, 63) + "g",
                                 good.substr(0, 63) + " ", "0x" + good.substr(2), good.substr(0, 63) + '\0'}) {
    EXPECT_EQ(Sha256Digest::FromHex(bad).status().code(), Code::kInvalidArgument) << bad;
  }
  EXPECT_FALSE(Sha256Digest::FromBytes(std::string(31, 'x')).ok());
  EXPECT_FALSE(Sha256Digest::FromBytes(std::string(33, 'x')).ok());
}

TEST(Digest, RawBytesComeBackAsTheyWere) {
  Sha256Digest digest = Sha256("abc");
  auto again = Sha256Digest::FromBytes(digest.raw());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(*again, digest);
  EXPECT_TRUE(Sha256Digest().IsZero());
  EXPECT_FALSE(digest.IsZero());
}

TEST(Digest, OrderIsThatOfTheHexTextAndHashesTellApart) {
  std::unordered_set<Sha256Digest> set;
  for (int i = 0; i < 100; ++i) {
    Sha256Digest a = Sha256(std::to_string(i));
    Sha256Digest b = Sha256(std::to_string(i + 1));
    EXPECT_EQ(a < b, a.ToHex() < b.ToHex());
    set.insert(a);
  }
  EXPECT_EQ(set.size(), 100U);
}

}  // namespace
}  // namespace heddle
