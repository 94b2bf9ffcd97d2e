#include "coordinator/store/blob_store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <functional>
#include <thread>

#include "coordinator/store/upload_name.h"
#include "tests/unit/coordinator/store/faulty_files.h"
#include "tests/unit/coordinator/store/temp_folder.h"

namespace heddle::coordinator::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

const std::string kContent = "the update of a device, sent in pieces";

UploadSpec SpecFor(const std::string& content, const std::string& device = "phone") {
  return {.device = DeviceId(device),
          .assignment = AssignmentId(std::string(32, 'a')),
          .size_bytes = content.size(),
          .digest = Sha256(content)};
}

std::set<std::string> NamesIn(const fs::path& folder) {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) names.insert(entry.path().filename().string());
  }
  return names;
}

void SetAge(const fs::path& path, int64_t unix_seconds) {
  timespec times[2] = {{unix_seconds, 0}, {unix_seconds, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

class BlobStoreTest : public ::testing::Test {
 protected:
  BlobStoreTest() { Reopen(); }
  void Reopen(BlobStoreOptions options = {}) {
    store_.reset();
    options.root = folder_.path();
    options.files = &files_;
    auto store = BlobStore::Open(options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  fs::path uploads() const { return folder_.path() / "uploads"; }
  fs::path blobs() const { return folder_.path() / "blobs"; }
  std::unique_ptr<Upload> Begin(const UploadSpec& spec) {
    auto upload = store_->BeginUpload(spec);
    EXPECT_TRUE(upload.ok()) << upload.status();
    return upload.ok() ? *std::move(upload) : nullptr;
  }

  TempFolder folder_;
  FaultyFiles files_;
  std::unique_ptr<BlobStore> store_;
};

// ---- blobs ----

TEST_F(BlobStoreTest, PutsAContentUnderItsDigest) {
  auto digest = store_->Put(kContent);
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(*digest, Sha256(kContent));
  EXPECT_TRUE(store_->Has(*digest));
  EXPECT_EQ(*store_->Size(*digest), kContent.size());
  EXPECT_EQ(store_->total_bytes(), kContent.size());
  EXPECT_EQ(store_->Path(*digest), blobs() / digest->ToHex().substr(0, 2) / digest->ToHex());
  EXPECT_EQ(*ReadFile(store_->Path(*digest)), kContent);
  auto mapped = store_->Map(*digest);
  ASSERT_TRUE(mapped.ok());
  EXPECT_EQ((*mapped)->bytes().size(), kContent.size());
  EXPECT_TRUE(NamesIn(uploads()).empty());
}

TEST_F(BlobStoreTest, KeepsOneCopyOfTheSameContent) {
  ASSERT_TRUE(store_->Put(kContent).ok());
  ASSERT_TRUE(store_->Put(kContent).ok());
  EXPECT_EQ(store_->total_bytes(), kContent.size());
  EXPECT_EQ(NamesIn(blobs()).size(), 1U);
}

TEST_F(BlobStoreTest, StoresTheEmptyContent) {
  auto digest = store_->Put("");
  ASSERT_TRUE(digest.ok());
  EXPECT_EQ(*store_->Size(*digest), 0U);
  EXPECT_TRUE(store_->Map(*digest).ok());
}

TEST_F(BlobStoreTest, CopiesAFileOfAnySize) {
  std::string large((size_t{5} << 20) + 3, 'x');
  fs::path source = folder_.path() / "source";
  std::ofstream(source, std::ios::binary) << large;
  auto digest = store_->PutCopyOf(source);
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(*digest, Sha256(large));
  EXPECT_EQ(*store_->Size(*digest), large.size());
  EXPECT_TRUE(fs::exists(source));
  EXPECT_EQ(store_->PutCopyOf(folder_.path() / "none").status().code(), Code::kNotFound);
}

TEST_F(BlobStoreTest, TakesAFinishedFile) {
  fs::path temporary = store_->TemporaryPath();
  EXPECT_NE(temporary, store_->TemporaryPath());
  std::ofstream(temporary) << kContent;
  ASSERT_TRUE(store_->PutFile(temporary, Sha256(kContent)).ok());
  EXPECT_TRUE(store_->Has(Sha256(kContent)));
  EXPECT_FALSE(fs::exists(temporary));
}

TEST_F(BlobStoreTest, DeletesAndKnowsNothingOfWhatIsNotThere) {
  Sha256Digest digest = *store_->Put(kContent);
  ASSERT_TRUE(store_->Delete(digest).ok());
  ASSERT_TRUE(store_->Delete(digest).ok());
  EXPECT_FALSE(store_->Has(digest));
  EXPECT_EQ(store_->Size(digest).status().code(), Code::kNotFound);
  EXPECT_EQ(store_->Map(digest).status().code(), Code::kNotFound);
  EXPECT_EQ(store_->total_bytes(), 0U);
}

TEST_F(BlobStoreTest, CountsItsBytesAgainAfterARestart) {
  ASSERT_TRUE(store_->Put("one").ok());
  ASSERT_TRUE(store_->Put("three").ok());
  Reopen();
  EXPECT_EQ(store_->total_bytes(), 8U);
}

TEST_F(BlobStoreTest, DeletesLeftoversOfPutWhenItOpens) {
  std::ofstream(store_->TemporaryPath()) << "half";
  std::ofstream(uploads() / "notes.txt") << "not ours";
  Reopen();
  EXPECT_THAT(NamesIn(uploads()), ElementsAre("notes.txt"));
}

TEST_F(BlobStoreTest, ListsAsGarbageWhatIsOldAndNotAlive) {
  Sha256Digest alive = *store_->Put("alive");
  Sha256Digest old = *store_->Put("old");
  Sha256Digest young = *store_->Put("young");
  SetAge(store_->Path(alive), 1000);
  SetAge(store_->Path(old), 1000);
  SetAge(store_->Path(young), 3000);
  std::ofstream(blobs() / "00" / "readme") << "not a blob";
  EXPECT_THAT(*store_->ListGarbage({alive}, FromUnixMicros(2'000'000'000)), ElementsAre(old));
  EXPECT_TRUE(store_->ListGarbage({alive}, FromUnixMicros(1'000'000'000))->empty());  // not before, but at
}

TEST_F(BlobStoreTest, MakesABlobYoungAgainThatIsPutAgain) {
  Sha256Digest digest = *store_->Put(kContent);
  SetAge(store_->Path(digest), 1000);
  ASSERT_TRUE(store_->Put(kContent).ok());
  EXPECT_TRUE(store_->ListGarbage({}, FromUnixMicros(2'000'000'000))->empty());
}

TEST_F(BlobStoreTest, TakesTheSameContentFromManyThreads) {
  store_.reset();
  auto opened = BlobStore::Open({.root = folder_.path()});  // the disk itself: FaultyFiles is for one thread
  ASSERT_TRUE(opened.ok()) << opened.status();
  BlobStore& store = **opened;
  std::vector<std::thread> threads;
  std::atomic<int> fine{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 10; ++k) {
        std::string content = "content " + std::to_string(k % 4);
        if (i == 7 && k % 3 == 0) (void)store.Delete(Sha256(content));
        if (store.Put(content).ok()) ++fine;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(fine, 80);
  uint64_t bytes = 0;
  for (int k = 0; k < 4; ++k) {
    auto size = store.Size(Sha256("content " + std::to_string(k)));
    if (size.ok()) bytes += *size;
  }
  EXPECT_EQ(store.total_bytes(), bytes);
}

// ---- uploads ----

// Notes what the disk is told of before it is asked to sync.
class WritebackFiles final : public FileOps {
 public:
  void BeginWriteback(const UniqueFd& fd, uint64_t offset, uint64_t bytes) override {
    FileOps::BeginWriteback(fd, offset, bytes);
    begun.push_back({offset, bytes});
  }
  std::vector<std::pair<uint64_t, uint64_t>> begun;
};

TEST(Writeback, BeginsForEachFourMebibytesOfALongUploadOnce) {
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  TempFolder folder;
  WritebackFiles files;
  auto store = BlobStore::Open({.root = folder.path(), .files = &files});
  ASSERT_TRUE(store.ok()) << store.status();
  std::string content(19 * kMiB + 5, 'w');
  for (size_t i = 0; i < content.size(); i += 4096) content[i] = static_cast<char>('a' + i / 4096 % 23);
  auto upload = (*store)->BeginUpload(SpecFor(content));
  ASSERT_TRUE(upload.ok()) << upload.status();
  // Pieces that end before, at and after a border, and one over two of them.
  uint64_t at = 0;
  for (const uint64_t end : {3 * kMiB, 4 * kMiB, 4 * kMiB + 1, 9 * kMiB, 17 * kMiB, content.size()}) {
    ASSERT_TRUE((*upload)->Append(at, Bytes(content).subspan(at, end - at)).ok());
    at = end;
  }
  EXPECT_EQ(files.begun,
            (std::vector<std::pair<uint64_t, uint64_t>>{{0, 4 * kMiB}, {4 * kMiB, 4 * kMiB}, {8 * kMiB, 8 * kMiB}}));
  ASSERT_TRUE((*upload)->Finish().ok());
  EXPECT_EQ(*ReadFile((*store)->Path(Sha256(content))), content);
}

TEST_F(BlobStoreTest, AnUploadInPiecesBecomesABlob) {
  auto upload = Begin(SpecFor(kContent));
  EXPECT_EQ(upload->offset(), 0U);
  EXPECT_FALSE(upload->finished());
  ASSERT_TRUE(upload->Append(0, Bytes(kContent).first(10)).ok());
  EXPECT_EQ(upload->offset(), 10U);
  EXPECT_FALSE(store_->Has(Sha256(kContent)));
  ASSERT_TRUE(upload->Append(10, Bytes(kContent).subspan(10)).ok());
  EXPECT_FALSE(store_->Has(Sha256(kContent)));
  ASSERT_TRUE(upload->Finish().ok());
  EXPECT_TRUE(upload->finished());
  EXPECT_EQ(upload->offset(), kContent.size());
  EXPECT_TRUE(upload->Finish().ok());
  EXPECT_EQ(*ReadFile(store_->Path(Sha256(kContent))), kContent);
  EXPECT_TRUE(NamesIn(uploads()).empty());
  EXPECT_EQ(store_->num_uploads(), 0U);
  EXPECT_EQ(store_->upload_bytes(), 0U);
}

TEST_F(BlobStoreTest, AnUploadAtAWrongOffsetChangesNothing) {
  auto upload = Begin(SpecFor(kContent));
  ASSERT_TRUE(upload->Append(0, Bytes(kContent).first(10)).ok());
  for (uint64_t offset : {uint64_t{0}, uint64_t{9}, uint64_t{11}, ~uint64_t{0}}) {
    EXPECT_EQ(upload->Append(offset, Bytes("x")).code(), Code::kOutOfRange) << offset;
  }
  EXPECT_EQ(upload->Append(10, Bytes(kContent)).code(), Code::kOutOfRange);  // goes beyond the declared size
  EXPECT_EQ(upload->offset(), 10U);
  ASSERT_TRUE(upload->Append(10, Bytes(kContent).subspan(10)).ok());
  EXPECT_TRUE(upload->Finish().ok());
}

TEST_F(BlobStoreTest, AnUploadWithBytesMissingCannotFinishAndGoesOn) {
  auto upload = Begin(SpecFor(kContent));
  ASSERT_TRUE(upload->Append(0, Bytes(kContent).first(10)).ok());
  EXPECT_EQ(upload->Finish().code(), Code::kFailedPrecondition);
  ASSERT_TRUE(upload->Append(10, Bytes(kContent).subspan(10)).ok());
  EXPECT_TRUE(upload->Finish().ok());
}

TEST_F(BlobStoreTest, AnUploadWithOtherBytesThanDeclaredIsDiscarded) {
  std::string other = kContent;
  other[5] ^= 1;
  {
    auto upload = Begin(SpecFor(kContent));
    ASSERT_TRUE(upload->Append(0, Bytes(other)).ok());
    EXPECT_EQ(upload->Finish().code(), Code::kDataLoss);
    EXPECT_EQ(upload->Finish().code(), Code::kNotFound);
    EXPECT_EQ(upload->Append(0, Bytes("x")).code(), Code::kNotFound);
  }
  EXPECT_TRUE(NamesIn(blobs()).empty());
  EXPECT_TRUE(NamesIn(uploads()).empty());
  EXPECT_EQ(store_->upload_bytes(), 0U);
  auto again = Begin(SpecFor(kContent));
  EXPECT_EQ(again->offset(), 0U);
  ASSERT_TRUE(again->Append(0, Bytes(kContent)).ok());
  EXPECT_TRUE(again->Finish().ok());
}

TEST_F(BlobStoreTest, AnUploadIsFoundAgainByItsIdAndByItsSpec) {
  UploadSpec spec = SpecFor(kContent);
  {
    auto upload = Begin(spec);
    EXPECT_EQ(upload->id(), UploadId(spec));
    ASSERT_TRUE(upload->Append(0, Bytes(kContent).first(7)).ok());
  }
  auto found = store_->FindUpload(UploadId(spec));
  ASSERT_TRUE(found.ok());
  EXPECT_EQ((*found)->offset(), 7U);
  EXPECT_EQ((*found)->spec(), spec);
  EXPECT_EQ(Begin(spec)->offset(), 7U);
  EXPECT_EQ(store_->num_uploads(), 1U);
  EXPECT_EQ(store_->FindUpload("none").status().code(), Code::kNotFound);
}

TEST_F(BlobStoreTest, ARestartTakesUpWhatIsThere) {
  UploadSpec spec = SpecFor(kContent);
  ASSERT_TRUE(Begin(spec)->Append(0, Bytes(kContent).first(7)).ok());
  Reopen();
  EXPECT_EQ(store_->num_uploads(), 1U);
  EXPECT_EQ(store_->upload_bytes(), kContent.size());
  auto upload = Begin(spec);
  EXPECT_EQ(upload->offset(), 7U);
  ASSERT_TRUE(upload->Append(7, Bytes(kContent).subspan(7)).ok());
  EXPECT_TRUE(upload->Finish().ok());
  upload.reset();  // a handle may not outlive its store
  Reopen();
  EXPECT_EQ(store_->num_uploads(), 0U);
  EXPECT_TRUE(store_->Has(spec.digest));
}

TEST_F(BlobStoreTest, ARestartTakesUpAnUploadThatOnlyLackedItsEnd) {
  UploadSpec spec = SpecFor(kContent);
  ASSERT_TRUE(Begin(spec)->Append(0, Bytes(kContent)).ok());
  Reopen();
  auto upload = Begin(spec);
  EXPECT_EQ(upload->offset(), kContent.size());
  EXPECT_TRUE(upload->Finish().ok());
}

TEST_F(BlobStoreTest, ARestartDropsAnUploadLongerThanDeclaredAndSeesDamageInTheOthers) {
  UploadSpec longer = SpecFor("longer");
  UploadSpec damaged = SpecFor(kContent);
  ASSERT_TRUE(Begin(longer)->Append(0, Bytes("long")).ok());
  ASSERT_TRUE(Begin(damaged)->Append(0, Bytes(kContent).first(20)).ok());
  store_.reset();
  std::ofstream(uploads() / UploadFileName(longer), std::ios::app) << "and longer";
  std::fstream(uploads() / UploadFileName(damaged), std::ios::in | std::ios::out) << "X";
  Reopen();
  EXPECT_EQ(store_->num_uploads(), 1U);
  auto upload = Begin(damaged);
  ASSERT_TRUE(upload->Append(20, Bytes(kContent).subspan(20)).ok());
  EXPECT_EQ(upload->Finish().code(), Code::kDataLoss);
}

TEST_F(BlobStoreTest, AnUploadThatWasSentBeforeIsFinishedAtOnce) {
  ASSERT_TRUE(store_->Put(kContent).ok());
  auto begun = store_->BeginUpload(SpecFor(kContent), /*proven=*/true);
  ASSERT_TRUE(begun.ok()) << begun.status();
  EXPECT_TRUE((*begun)->finished());
  EXPECT_EQ((*begun)->offset(), kContent.size());
  EXPECT_TRUE((*begun)->Finish().ok());
  EXPECT_EQ(store_->num_uploads(), 0U);
  // When the blob has gone meanwhile, the bytes must come again.
  ASSERT_TRUE(store_->Delete(Sha256(kContent)).ok());
  EXPECT_FALSE((*store_->BeginUpload(SpecFor(kContent), /*proven=*/true))->finished());
}

TEST_F(BlobStoreTest, AnUploadOfABlobThatSomebodyElseSentNeedsItsBytesAllTheSame) {
  UploadSpec mine = SpecFor(kContent, "phone");
  ASSERT_TRUE(Begin(mine)->Append(0, Bytes(kContent).first(3)).ok());
  auto other = Begin(SpecFor(kContent, "laptop"));
  ASSERT_TRUE(other->Append(0, Bytes(kContent)).ok());
  ASSERT_TRUE(other->Finish().ok());
  auto again = Begin(mine);
  EXPECT_FALSE(again->finished());
  EXPECT_EQ(again->offset(), 3U);
  ASSERT_TRUE(again->Append(3, Bytes(kContent).subspan(3)).ok());
  EXPECT_TRUE(again->Finish().ok());
  EXPECT_EQ(store_->num_uploads(), 0U);
  EXPECT_EQ(store_->total_bytes(), kContent.size());  // kept once
}

TEST_F(BlobStoreTest, TwoHandlesOnOneUploadShareItsOffset) {
  auto old = Begin(SpecFor(kContent));
  ASSERT_TRUE(old->Append(0, Bytes(kContent).first(10)).ok());
  auto reconnected = Begin(SpecFor(kContent));
  ASSERT_TRUE(reconnected->Append(10, Bytes(kContent).subspan(10, 5)).ok());
  EXPECT_EQ(old->Append(10, Bytes(kContent).subspan(10, 5)).code(), Code::kOutOfRange);
  EXPECT_EQ(old->offset(), 15U);
  ASSERT_TRUE(reconnected->Append(15, Bytes(kContent).subspan(15)).ok());
  ASSERT_TRUE(reconnected->Finish().ok());
  EXPECT_TRUE(old->finished());
  EXPECT_TRUE(old->Finish().ok());
}

TEST_F(BlobStoreTest, AMalformedUploadIsRefused) {
  auto refused = [&](auto change) {
    UploadSpec spec = SpecFor(kContent);
    change(spec);
    return store_->BeginUpload(spec).status().code();
  };
  EXPECT_EQ(refused([](UploadSpec& s) { s.device = DeviceId("../../etc"); }), Code::kInvalidArgument);
  EXPECT_EQ(refused([](UploadSpec& s) { s.assignment = AssignmentId("../x"); }), Code::kInvalidArgument);
  EXPECT_EQ(refused([](UploadSpec& s) { s.assignment = AssignmentId(std::string(32, 'A')); }), Code::kInvalidArgument);
  EXPECT_EQ(refused([](UploadSpec& s) { s.size_bytes = 0; }), Code::kInvalidArgument);
  EXPECT_EQ(refused([](UploadSpec& s) { s.size_bytes = ~uint64_t{0}; }), Code::kInvalidArgument);
  EXPECT_EQ(refused([](UploadSpec& s) { s.digest = {}; }), Code::kInvalidArgument);
  EXPECT_TRUE(NamesIn(uploads()).empty());
}

TEST_F(BlobStoreTest, AnUploadBegunWithAnotherSizeIsRefused) {
  auto upload = Begin(SpecFor(kContent));
  UploadSpec other = SpecFor(kContent);
  other.size_bytes += 1;
  EXPECT_EQ(store_->BeginUpload(other).status().code(), Code::kInvalidArgument);
  ASSERT_TRUE(store_->Put("there").ok());
  UploadSpec wrong = SpecFor("there");
  wrong.size_bytes += 1;
  EXPECT_EQ(store_->BeginUpload(wrong, /*proven=*/true).status().code(), Code::kInvalidArgument);
}

TEST_F(BlobStoreTest, AnUploadThatWouldFillTheDiskIsNotBegun) {
  const auto space = std::filesystem::space(std::filesystem::temp_directory_path());
  Reopen({.min_free_bytes = space.capacity});  // more than is free on any disk in use
  EXPECT_EQ(store_->BeginUpload(SpecFor("update")).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(store_->num_uploads(), 0U);
  Reopen({.min_free_bytes = 1});
  EXPECT_TRUE(store_->BeginUpload(SpecFor("update")).ok());
}

TEST_F(BlobStoreTest, UploadsHaveABudgetOfBytesThatIsGivenBack) {
  Reopen({.max_upload_bytes = 100});
  auto numbered = [](int i, uint64_t size) {
    UploadSpec spec = SpecFor("upload " + std::to_string(i));
    spec.size_bytes = size;
    return spec;
  };
  auto first = Begin(numbered(1, 60));
  EXPECT_EQ(store_->BeginUpload(numbered(2, 41)).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(store_->BeginUpload(numbered(2, uint64_t{1} << 62)).status().code(), Code::kResourceExhausted);
  auto second = Begin(numbered(3, 40));
  EXPECT_TRUE(store_->BeginUpload(numbered(1, 60)).ok());  // known already
  ASSERT_TRUE(second->Append(0, Bytes(std::string(40, 'x'))).ok());
  EXPECT_EQ(second->Finish().code(), Code::kDataLoss);
  EXPECT_TRUE(store_->BeginUpload(numbered(2, 40)).ok());
  EXPECT_EQ(store_->upload_bytes(), 100U);
}

TEST_F(BlobStoreTest, UploadsHaveABudgetOfTheirNumber) {
  Reopen({.max_uploads = 1});
  auto first = Begin(SpecFor("one"));
  EXPECT_EQ(store_->BeginUpload(SpecFor("two")).status().code(), Code::kResourceExhausted);
  ASSERT_TRUE(first->Append(0, Bytes("one")).ok());
  ASSERT_TRUE(first->Finish().ok());
  EXPECT_TRUE(store_->BeginUpload(SpecFor("two")).ok());
}

TEST_F(BlobStoreTest, ADevicesOlderUploadsMakeRoomForItsNewOneButNotThoseInUse) {
  Reopen({.max_device_uploads = 2, .max_device_upload_bytes = 10});
  auto begin = [this](const std::string& content, const std::string& device = "phone") {
    return store_->BeginUpload(SpecFor(content, device));
  };
  ASSERT_TRUE(begin("one").ok());
  ASSERT_TRUE(begin("two").ok());
  ASSERT_TRUE(begin("one", "tablet").ok());
  auto third = begin("three");
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_EQ(store_->FindUpload(UploadId(SpecFor("one"))).status().code(), Code::kNotFound) << "the oldest went";
  EXPECT_TRUE(store_->FindUpload(UploadId(SpecFor("one", "tablet"))).ok()) << "another device's did not";
  auto two = store_->FindUpload(UploadId(SpecFor("two")));
  ASSERT_TRUE(two.ok());
  EXPECT_EQ(begin("four").status().code(), Code::kFailedPrecondition) << "both are in use";
  EXPECT_TRUE(begin("two").ok()) << "the same upload again is not one more";
  two->reset();
  EXPECT_TRUE(begin("four").ok());
  EXPECT_EQ(begin("longer than ten").status().code(), Code::kFailedPrecondition);
  ASSERT_TRUE((*third)->Append(0, Bytes("three")).ok());
  ASSERT_TRUE((*third)->Finish().ok());
  EXPECT_TRUE(begin("seven b").ok()) << "a finished upload holds nothing: four makes room";
  EXPECT_EQ(store_->num_uploads(), 2U);
}

TEST_F(BlobStoreTest, ADevicesShareIsKnownAfterARestart) {
  Reopen({.max_device_uploads = 1});
  { const auto upload = Begin(SpecFor("one")); }
  Reopen({.max_device_uploads = 1});
  EXPECT_TRUE(store_->BeginUpload(SpecFor("two")).ok());
  EXPECT_EQ(store_->num_uploads(), 1U) << "the one of before made room";
}

TEST_F(BlobStoreTest, StaleUploadsThatNobodyHasOpenAreDiscarded) {
  UploadSpec stale = SpecFor("stale");
  UploadSpec held = SpecFor("held");
  UploadSpec young = SpecFor("young");
  for (const UploadSpec& spec : {stale, held, young}) ASSERT_TRUE(Begin(spec)->Append(0, Bytes("x")).ok());
  SetAge(uploads() / UploadFileName(stale), 1000);
  SetAge(uploads() / UploadFileName(held), 1000);
  auto handle = Begin(held);
  EXPECT_EQ(*store_->DiscardStaleUploads(FromUnixMicros(2'000'000'000)), 1U);
  EXPECT_EQ(store_->FindUpload(UploadId(stale)).status().code(), Code::kNotFound);
  EXPECT_TRUE(store_->FindUpload(UploadId(held)).ok());
  EXPECT_TRUE(store_->FindUpload(UploadId(young)).ok());
  EXPECT_EQ(NamesIn(uploads()).size(), 2U);
  EXPECT_EQ(Begin(stale)->offset(), 0U);
}

// ---- names of uploads ----

TEST(UploadName, HoldsAllThatIsKnownOfTheUpload) {
  UploadSpec spec = SpecFor(kContent, "a.b_c-d");
  auto parsed = ParseUploadFileName(UploadFileName(spec));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(*parsed, spec);
}

TEST(UploadName, IsRefusedWhenAnyPartOfItIsChanged) {
  std::string name = UploadFileName(SpecFor(kContent));
  size_t size_at = name.find('~') + 1;  // the size is no part of the id: another one is another legal name
  for (size_t i = 0; i < name.size(); ++i) {
    std::string changed = name;
    changed[i] = changed[i] == '1' ? '2' : '1';
    bool in_size = i >= size_at && i < size_at + 2;
    EXPECT_EQ(ParseUploadFileName(changed).has_value(), in_size) << changed;
    EXPECT_FALSE(ParseUploadFileName(name.substr(0, i)));
  }
}

// ---- a failing disk ----

// All that writes, once; says what it was promised.
class FailingFilesTest : public ::testing::Test {
 protected:
  struct World {
    TempFolder folder;
    FaultyFiles files;
    std::unique_ptr<BlobStore> store;
    std::set<std::string> promised;  // contents that a call with ok has stored

    Status Open() {
      store.reset();
      auto opened = BlobStore::Open({.root = folder.path() / "state", .files = &files});
      if (!opened.ok()) return opened.status();
      store = *std::move(opened);
      return OkStatus();
    }
  };

  static Status SendUpload(World& world, const std::string& content) {
    HEDDLE_ASSIGN_OR_RETURN(auto upload, world.store->BeginUpload(SpecFor(content)));
    while (!upload->finished() && upload->offset() < content.size()) {
      uint64_t offset = upload->offset();
      HEDDLE_RETURN_IF_ERROR(
          upload->Append(offset, Bytes(content).subspan(offset).first(std::min<size_t>(11, content.size() - offset))));
    }
    return upload->Finish();
  }

  static Status Everything(World& world) {
    Status worst;
    auto did = [&](const Status& status, const std::string& content) {
      if (status.ok()) world.promised.insert(content);
      if (!status.ok()) worst = status;
    };
    did(world.store->Put("put").status(), "put");
    fs::path source = world.folder.path() / "source";
    std::ofstream(source) << "copied";
    did(world.store->PutCopyOf(source).status(), "copied");
    fs::path temporary = world.store->TemporaryPath();
    std::ofstream(temporary) << "moved";
    did(world.store->PutFile(temporary, Sha256("moved")), "moved");
    did(SendUpload(world, kContent), kContent);
    did(SendUpload(world, "put"), "put");  // there already
    if (world.store->Put("deleted").ok() && !world.store->Delete(Sha256("deleted")).ok()) worst = Internal("delete");
    return worst;
  }

  // What must hold at any instant: a visible blob is whole, what was promised is there, the counts are right.
  static void Check(World& world) {
    uint64_t bytes = 0;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(world.folder.path() / "state/blobs")) {
      if (!entry.is_regular_file()) continue;
      EXPECT_EQ(Sha256File(entry.path())->ToHex(), entry.path().filename().string()) << "half a blob is visible";
      bytes += entry.file_size();
    }
    for (const std::string& content : world.promised) {
      EXPECT_TRUE(world.store->Has(Sha256(content))) << content << " was promised and is gone";
    }
    EXPECT_EQ(world.store->total_bytes(), bytes);
  }

  static uint64_t CallsOfEverything() {
    World world;
    EXPECT_TRUE(world.Open().ok());
    uint64_t before = world.files.calls();
    EXPECT_TRUE(Everything(world).ok());
    return world.files.calls() - before;
  }

  // `after` runs when the fault was met and the first checks are done.
  static void AtEveryCall(int error, bool stay, const std::function<void(World&)>& after) {
    uint64_t calls = CallsOfEverything();
    ASSERT_GT(calls, 25U);
    for (uint64_t at = 1; at <= calls; ++at) {
      SCOPED_TRACE("fault at call " + std::to_string(at));
      World world;
      ASSERT_TRUE(world.Open().ok());
      world.files.FailAt(at, error, stay);
      Status status = Everything(world);
      ASSERT_TRUE(world.files.failed());
      if (!status.ok() && error == ENOSPC && status.message() != "delete") {
        EXPECT_EQ(status.code(), Code::kResourceExhausted) << status;
      }
      Check(world);
      after(world);
      if (HasFailure()) return;
    }
  }
};

TEST_F(FailingFilesTest, AtAnyCallShowNoHalfBlobAndTheSameCallsSucceedLater) {
  for (int error : {ENOSPC, EIO}) {
    AtEveryCall(error, /*stay=*/false, [](World& world) {
      world.files.Heal();
      EXPECT_TRUE(Everything(world).ok());
      Check(world);
      EXPECT_EQ(world.store->num_uploads(), 0U);
      EXPECT_EQ(world.store->upload_bytes(), 0U);
    });
  }
}

TEST_F(FailingFilesTest, ThatStayFullRecoverWhenThereIsRoom) {
  AtEveryCall(ENOSPC, /*stay=*/true, [](World& world) {
    EXPECT_FALSE(Everything(world).ok());
    Check(world);
    world.files.Heal();
    EXPECT_TRUE(Everything(world).ok());
    Check(world);
  });
}

TEST_F(FailingFilesTest, BeforeAKillAtAnyCallLeaveNothingThatARestartCannotTakeUp) {
  AtEveryCall(EIO, /*stay=*/true, [](World& world) {
    world.store.reset();
    world.files.Heal();
    ASSERT_TRUE(world.Open().ok());
    Check(world);
    EXPECT_TRUE(Everything(world).ok());
    Check(world);
    EXPECT_TRUE(NamesIn(world.folder.path() / "state/uploads").empty());
  });
}

TEST_F(FailingFilesTest, BeforeAPowerCutAtAnyCallLoseNothingThatWasPromised) {
  AtEveryCall(EIO, /*stay=*/true, [](World& world) {
    world.store.reset();
    world.files.PowerCut();
    ASSERT_TRUE(world.Open().ok());
    Check(world);
    EXPECT_TRUE(Everything(world).ok());
    Check(world);
  });
}

TEST_F(FailingFilesTest, MakeOpenFailAndTheNextOpenSucceed) {
  World world;
  ASSERT_TRUE(world.Open().ok());
  ASSERT_TRUE(world.store->Put("put").ok());
  world.promised.insert("put");
  uint64_t before = world.files.calls();
  ASSERT_TRUE(world.Open().ok());
  uint64_t calls = world.files.calls() - before;
  for (uint64_t at = 1; at <= calls; at += at < 5 || at + 8 > calls ? 1 : 13) {
    world.files.FailAt(at, EIO, false);
    EXPECT_EQ(world.Open().code(), Code::kUnavailable) << at;
    world.files.Heal();
    ASSERT_TRUE(world.Open().ok());
    Check(world);
  }
}

TEST_F(FailingFilesTest, AreNotMistakenForBytesOtherThanDeclared) {
  World world;
  ASSERT_TRUE(world.Open().ok());
  auto upload = world.store->BeginUpload(SpecFor(kContent));
  ASSERT_TRUE((*upload)->Append(0, Bytes(kContent)).ok());
  world.files.FailAt(1, EIO, false);
  EXPECT_EQ((*upload)->Finish().code(), Code::kUnavailable);
}

TEST_F(FailingFilesTest, AtAWriteOfAnUploadKeepWhatWasThereBefore) {
  World world;
  ASSERT_TRUE(world.Open().ok());
  auto begun = world.store->BeginUpload(SpecFor(kContent));
  ASSERT_TRUE(begun.ok());
  Upload& upload = **begun;
  ASSERT_TRUE(upload.Append(0, Bytes(kContent).first(10)).ok());
  for (bool truncate_fails : {false, true}) {
    world.files.FailAt(1, ENOSPC, truncate_fails);
    uint64_t offset = upload.offset();
    EXPECT_EQ(upload.Append(offset, Bytes(kContent).subspan(offset, 8)).code(), Code::kResourceExhausted);
    EXPECT_GE(upload.offset(), offset);
    world.files.Heal();
  }
  uint64_t offset = upload.offset();
  ASSERT_TRUE(upload.Append(offset, Bytes(kContent).subspan(offset)).ok());
  EXPECT_TRUE(upload.Finish().ok());
}

}  // namespace
}  // namespace heddle::coordinator::testing
