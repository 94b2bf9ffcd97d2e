// The blob cache on a real folder.
#include "client/daemon/blob_cache.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>

#include "common/file.h"
#include "tests/unit/protocol/transport_fixture.h"

namespace heddle::client {
namespace {

namespace fs = std::filesystem;
using protocol::MakeBytes;
using protocol::ReadAllOf;
using protocol::TempDir;

class BlobCacheTest : public testing::Test {
 protected:
  void SetUp() override { Reopen(10'000); }
  void Reopen(uint64_t max_bytes) {
    auto opened = BlobCache::Open(folder_, max_bytes);
    ASSERT_TRUE(opened.ok()) << opened.status();
    cache_.emplace(*std::move(opened));
  }
  static CachedBlob BlobOf(const std::string& bytes, const std::string& name = "file") {
    return {Sha256(bytes), bytes.size(), name};
  }
  fs::path PathOf(const CachedBlob& blob) const { return folder_ / blob.digest.ToHex(); }
  fs::path PartOf(const CachedBlob& blob) const { return folder_ / (blob.digest.ToHex() + ".part"); }
  static void Write(const fs::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }
  // As a download does it: appends what is missing.
  Status Download(const CachedBlob& blob, const std::string& bytes) {
    auto partial = cache_->Begin(blob);
    if (!partial.ok()) return partial.status();
    const std::string rest = bytes.substr(partial->offset);
    std::ofstream(partial->file, std::ios::binary | std::ios::app) << rest;
    partial->hasher.Update(rest);
    return cache_->Finish(blob, *std::move(partial)).status();
  }
  void SetLastUse(const CachedBlob& blob, time_t seconds) const {
    const timespec times[2] = {{seconds, 0}, {0, UTIME_OMIT}};
    ASSERT_EQ(::utimensat(AT_FDCWD, PathOf(blob).c_str(), times, 0), 0);
  }

  TempDir temp_;
  const fs::path folder_ = temp_.path() / "cache";
  std::optional<BlobCache> cache_;
};

TEST_F(BlobCacheTest, BlobIsFoundAfterItsDownloadAlsoByALaterProcess) {
  const std::string bytes = MakeBytes(1000);
  const CachedBlob blob = BlobOf(bytes);
  EXPECT_FALSE(cache_->Find(blob));
  ASSERT_TRUE(Download(blob, bytes).ok());
  EXPECT_EQ(cache_->Find(blob), PathOf(blob));
  EXPECT_FALSE(fs::exists(PartOf(blob)));
  Reopen(10'000);
  EXPECT_EQ(cache_->Find(blob), PathOf(blob));
}

TEST_F(BlobCacheTest, WhatIsMadeHereIsCheckedLikeADownload) {
  const CachedBlob blob = BlobOf("made of a patch", "ledger.bin");
  ASSERT_TRUE(cache_->Put(blob, "made of a patch").ok());
  EXPECT_TRUE(cache_->Find(blob));
  const CachedBlob other = BlobOf("something else", "ledger.bin");
  Write(PartOf(other), "somet");  // of a download that broke
  EXPECT_EQ(cache_->Put(other, "something Else").status().code(), Code::kDataLoss);
  EXPECT_FALSE(cache_->Find(other));
  EXPECT_TRUE(cache_->Put(other, "something else").ok());
}

TEST_F(BlobCacheTest, TheLatestOfANameIsRecalledAlsoByALaterProcessWhileItIsThere) {
  EXPECT_FALSE(cache_->Recall("ledger.bin"));
  const CachedBlob first = BlobOf("first", "ledger.bin"), second = BlobOf("second", "ledger.bin");
  ASSERT_TRUE(cache_->Put(first, "first").ok());
  ASSERT_TRUE(cache_->Put(second, "second").ok());
  cache_->Remember(first);
  cache_->Remember(second);
  Reopen(10'000);
  const auto recalled = cache_->Recall("ledger.bin");
  ASSERT_TRUE(recalled);
  EXPECT_EQ(recalled->digest, second.digest);
  EXPECT_EQ(recalled->size_bytes, second.size_bytes);
  fs::remove(PathOf(second));
  EXPECT_FALSE(cache_->Recall("ledger.bin"));
  for (const char* torn : {"", "ab", "zz", "0123456789abcdef 5"}) {
    Write(folder_ / "latest-ledger.bin", torn);
    EXPECT_FALSE(cache_->Recall("ledger.bin")) << torn;
  }
}

TEST_F(BlobCacheTest, PartialDownloadGoesOnWhereItBroke) {
  const std::string bytes = MakeBytes(1000);
  const CachedBlob blob = BlobOf(bytes);
  fs::create_directories(folder_);
  Write(PartOf(blob), bytes.substr(0, 400));
  auto partial = cache_->Begin(blob);
  ASSERT_TRUE(partial.ok());
  EXPECT_EQ(partial->offset, 400u);
  EXPECT_EQ(partial->hasher.Finish(), Sha256(bytes.substr(0, 400)));
  EXPECT_TRUE(Download(blob, bytes).ok());
  EXPECT_EQ(ReadAllOf(*cache_->Find(blob)), bytes);
}

TEST_F(BlobCacheTest, PartialThatIsLongerThanTheBlobIsThrownAway) {
  const std::string bytes = MakeBytes(1000);
  const CachedBlob blob = BlobOf(bytes);
  Write(PartOf(blob), std::string(1001, 'x'));
  auto partial = cache_->Begin(blob);
  ASSERT_TRUE(partial.ok());
  EXPECT_EQ(partial->offset, 0u);
  EXPECT_FALSE(fs::exists(PartOf(blob)));
}

TEST_F(BlobCacheTest, WrongBytesAreDeletedAndTheNextDownloadStartsAnew) {
  const std::string bytes = MakeBytes(1000);
  const CachedBlob blob = BlobOf(bytes);
  Write(PartOf(blob), std::string(400, 'x'));
  EXPECT_EQ(Download(blob, bytes).code(), Code::kDataLoss);
  EXPECT_FALSE(fs::exists(PartOf(blob)));
  EXPECT_FALSE(cache_->Find(blob));
  EXPECT_TRUE(Download(blob, bytes).ok());
}

TEST_F(BlobCacheTest, ShortDownloadIsDataLoss) {
  const std::string bytes = MakeBytes(1000);
  const CachedBlob blob = BlobOf(bytes);
  EXPECT_EQ(Download(blob, bytes.substr(0, 999)).code(), Code::kDataLoss);
  EXPECT_FALSE(cache_->Find(blob));
}

TEST_F(BlobCacheTest, EmptyBlobNeedsNoBytes) {
  const CachedBlob blob = BlobOf("");
  auto partial = cache_->Begin(blob);
  ASSERT_TRUE(partial.ok());
  EXPECT_TRUE(cache_->Finish(blob, *std::move(partial)).ok());
  EXPECT_TRUE(cache_->Find(blob));
}

TEST_F(BlobCacheTest, CorruptFileIsFoundOutAndDeleted) {
  const std::string bytes = MakeBytes(1000);
  const CachedBlob blob = BlobOf(bytes);
  std::string wrong = bytes;
  wrong[500] ^= 1;
  Write(PathOf(blob), wrong);
  EXPECT_FALSE(cache_->Find(blob));
  EXPECT_FALSE(fs::exists(PathOf(blob)));
  Write(PathOf(blob), bytes.substr(0, 999));
  EXPECT_FALSE(cache_->Find(blob));
  EXPECT_FALSE(fs::exists(PathOf(blob)));
}

TEST_F(BlobCacheTest, FileThatChangesAfterItsFirstCheckIsFoundOut) {
  const std::string bytes = MakeBytes(1000);
  const CachedBlob blob = BlobOf(bytes);
  ASSERT_TRUE(Download(blob, bytes).ok());
  ASSERT_TRUE(cache_->Find(blob));
  Write(PathOf(blob), MakeBytes(1000, 2));
  const timespec times[2] = {{0, UTIME_NOW}, {12345, 0}};  // surely another time of change
  ASSERT_EQ(::utimensat(AT_FDCWD, PathOf(blob).c_str(), times, 0), 0);
  EXPECT_FALSE(cache_->Find(blob));
}

TEST_F(BlobCacheTest, LinkInPlaceOfABlobIsNotFollowed) {
  const std::string bytes = MakeBytes(1000);
  const CachedBlob blob = BlobOf(bytes);
  const fs::path elsewhere = temp_.path() / "elsewhere";
  Write(elsewhere, bytes);
  fs::create_symlink(elsewhere, PathOf(blob));
  EXPECT_FALSE(cache_->Find(blob));
  EXPECT_TRUE(fs::exists(elsewhere));
}

TEST_F(BlobCacheTest, LeastRecentlyUsedGoesFirst) {
  std::vector<CachedBlob> blobs;
  for (uint64_t i = 0; i < 3; ++i) {
    const std::string bytes = MakeBytes(3000, i + 1);
    blobs.push_back(BlobOf(bytes));
    ASSERT_TRUE(Download(blobs.back(), bytes).ok());
  }
  SetLastUse(blobs[0], 3000);
  SetLastUse(blobs[1], 1000);
  SetLastUse(blobs[2], 2000);
  const std::string more = MakeBytes(4000, 9);
  ASSERT_TRUE(Download(BlobOf(more), more).ok());
  EXPECT_TRUE(fs::exists(PathOf(blobs[0])));
  EXPECT_FALSE(fs::exists(PathOf(blobs[1])));
  EXPECT_TRUE(fs::exists(PathOf(blobs[2])));
  EXPECT_LE(cache_->TotalBytes(), 10'000u);
}

TEST_F(BlobCacheTest, FindingABlobCountsAsUseAndKeepsItsTimeOfChange) {
  const std::string bytes = MakeBytes(100);
  const CachedBlob blob = BlobOf(bytes);
  ASSERT_TRUE(Download(blob, bytes).ok());
  SetLastUse(blob, 1000);
  const auto changed = fs::last_write_time(PathOf(blob));
  ASSERT_TRUE(cache_->Find(blob));
  struct stat info {};
  ASSERT_EQ(::stat(PathOf(blob).c_str(), &info), 0);
  EXPECT_GT(info.st_atim.tv_sec, 1000);
  EXPECT_EQ(fs::last_write_time(PathOf(blob)), changed);
}

TEST_F(BlobCacheTest, PinnedBlobsStayHoweverOldTheyAre) {
  const std::string old_bytes = MakeBytes(3000, 1), new_bytes = MakeBytes(3000, 2), more = MakeBytes(6000, 3);
  ASSERT_TRUE(Download(BlobOf(old_bytes), old_bytes).ok());
  ASSERT_TRUE(Download(BlobOf(new_bytes), new_bytes).ok());
  SetLastUse(BlobOf(old_bytes), 1000);
  ASSERT_TRUE(cache_->Pin({BlobOf(old_bytes), BlobOf(more)}).ok());
  ASSERT_TRUE(Download(BlobOf(more), more).ok());
  EXPECT_TRUE(cache_->Find(BlobOf(old_bytes)));
  EXPECT_FALSE(fs::exists(PathOf(BlobOf(new_bytes))));
}

TEST_F(BlobCacheTest, TaskLargerThanTheCacheIsRefusedWithTheSetting) {
  const Status status = cache_->Pin({{Sha256("a"), 6000, "a"}, {Sha256("b"), 4001, "b"}});
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_THAT(status.message(), testing::HasSubstr("max_bytes"));
  EXPECT_TRUE(cache_->Pin({{Sha256("a"), 6000, "a"}, {Sha256("a"), 6000, "the same"}, {Sha256("b"), 4000, "b"}}).ok());
  EXPECT_EQ(cache_->Pin({{Sha256("a"), UINT64_MAX, "a"}, {Sha256("b"), 2, "b"}}).code(), Code::kResourceExhausted);
}

TEST_F(BlobCacheTest, OldPartialDownloadsCountAndGoToo) {
  const CachedBlob abandoned{Sha256("abandoned"), 9000, "x"};
  Write(PartOf(abandoned), std::string(8000, 'x'));
  const std::string bytes = MakeBytes(5000);
  ASSERT_TRUE(Download(BlobOf(bytes), bytes).ok());
  EXPECT_FALSE(fs::exists(PartOf(abandoned)));
}

TEST_F(BlobCacheTest, FolderHoldsExactlyTheTasksFiles) {
  const std::string a = MakeBytes(100, 1), b = MakeBytes(200, 2);
  ASSERT_TRUE(Download(BlobOf(a), a).ok());
  ASSERT_TRUE(Download(BlobOf(b), b).ok());
  const fs::path model = temp_.path() / "model";
  fs::create_directories(model / "stale_folder");
  Write(model / "stale", "x");
  Write(model / "config.json", "of another model");
  ASSERT_TRUE(cache_->Materialise({BlobOf(a, "config.json"), BlobOf(b, "model.safetensors")}, model).ok());
  EXPECT_EQ(ReadAllOf(model / "config.json"), a);
  EXPECT_EQ(ReadAllOf(model / "model.safetensors"), b);
  EXPECT_EQ(std::distance(fs::directory_iterator(model), fs::directory_iterator()), 2);
}

TEST_F(BlobCacheTest, FolderStaysTheSameForTheSameFiles) {
  const std::string a = MakeBytes(100);
  ASSERT_TRUE(Download(BlobOf(a), a).ok());
  const fs::path model = temp_.path() / "model";
  ASSERT_TRUE(cache_->Materialise({BlobOf(a, "x")}, model).ok());
  struct stat before {
  }, after{};
  ASSERT_EQ(::lstat((model / "x").c_str(), &before), 0);
  ASSERT_TRUE(cache_->Materialise({BlobOf(a, "x")}, model).ok());
  ASSERT_EQ(::lstat((model / "x").c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  EXPECT_EQ(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
}

TEST_F(BlobCacheTest, FolderWithAMissingBlobIsAnError) {
  EXPECT_EQ(cache_->Materialise({BlobOf("nowhere")}, temp_.path() / "model").code(), Code::kNotFound);
}

TEST_F(BlobCacheTest, NothingIsThrownAwayForWhatDoesNotFitAnyway) {
  const std::string pinned = MakeBytes(4000, 1), other = MakeBytes(3000, 2), large = MakeBytes(6500, 3);
  ASSERT_TRUE(Download(BlobOf(pinned), pinned).ok());
  ASSERT_TRUE(Download(BlobOf(other), other).ok());
  cache_->Remember(BlobOf(other, "ledger.bin"));
  ASSERT_TRUE(cache_->Pin({BlobOf(pinned)}).ok());
  EXPECT_EQ(cache_->Begin(BlobOf(large)).status().code(), Code::kResourceExhausted);
  EXPECT_TRUE(cache_->Find(BlobOf(other)));
  EXPECT_TRUE(cache_->Recall("ledger.bin"));
  cache_->Forget("ledger.bin");
  EXPECT_FALSE(cache_->Recall("ledger.bin"));
}

}  // namespace
}  // namespace heddle::client
