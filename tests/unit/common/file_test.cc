#include "common/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <vector>

#include "tests/unit/common/temp_dir.h"

namespace heddle {
namespace {

int ModeOf(const std::filesystem::path& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? static_cast<int>(info.st_mode & 07777) : -1;
}

TEST(WriteFileAtomically, WritesTheContentAndLeavesNothingElse) {
  TempDir dir;
  std::string content("a\0b\n", 4);
  ASSERT_TRUE(WriteFileAtomically(dir / "f", content).ok());
  EXPECT_EQ(Slurp(dir / "f"), content);
  ASSERT_TRUE(WriteFileAtomically(dir / "f", "").ok());
  EXPECT_EQ(Slurp(dir / "f"), "");
  EXPECT_EQ(dir.Count(), 1U);
}

TEST(SyncFile, TakesWhatIsThereAndNamesWhatIsNot) {
  TempDir dir;
  ASSERT_TRUE(WriteFileAtomically(dir / "f", "content", 0400).ok());
  EXPECT_TRUE(SyncFile(dir / "f").ok());
  const Status absent = SyncFile(dir / "g");
  EXPECT_EQ(absent.code(), Code::kNotFound);
  EXPECT_NE(absent.message().find((dir / "g").string()), std::string::npos) << absent.message();
}

TEST(WriteFileAtomically, GivesTheModeAskedForWhateverTheUmask) {
  TempDir dir;
  mode_t before = ::umask(0077);
  EXPECT_TRUE(WriteFileAtomically(dir / "open", "x", 0644).ok());
  ::umask(0);
  EXPECT_TRUE(WriteFileAtomically(dir / "secret", "x", 0600).ok());
  ::umask(before);
  EXPECT_EQ(ModeOf(dir / "open"), 0644);
  EXPECT_EQ(ModeOf(dir / "secret"), 0600);
}

TEST(WriteFileAtomically, AReaderWithTheFileOpenKeepsTheOldContent) {
  TempDir dir;
  ASSERT_TRUE(WriteFileAtomically(dir / "f", "old").ok());
  std::ifstream reader(dir / "f");
  ASSERT_TRUE(WriteFileAtomically(dir / "f", "new").ok());
  std::string seen;
  reader >> seen;
  EXPECT_EQ(seen, "old");
  EXPECT_EQ(Slurp(dir / "f"), "new");
}

TEST(WriteFileAtomically, ReplacesASymbolicLinkAndNotWhatItPointsTo) {
  TempDir dir;
  dir.Write("target", "untouched");
  std::filesystem::create_symlink(dir / "target", dir / "link");
  ASSERT_TRUE(WriteFileAtomically(dir / "link", "new").ok());
  EXPECT_EQ(Slurp(dir / "target"), "untouched");
  EXPECT_EQ(Slurp(dir / "link"), "new");
  EXPECT_FALSE(std::filesystem::is_symlink(dir / "link"));
}

// A file size limit stands for the full disk: the write fails half-way.
TEST(WriteFileAtomically, WhenTheDiskIsFullTheOldContentStaysAndTheTemporaryFileIsGone) {
  TempDir dir;
  ASSERT_TRUE(WriteFileAtomically(dir / "f", "old").ok());
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{.rlim_cur = 100'000, .rlim_max = 100'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    Status status = WriteFileAtomically(dir / "f", std::string(1'000'000, 'n'));
    ::_exit(status.code() == Code::kResourceExhausted ? 0 : 1);
  }
  int exit_status = -1;
  ASSERT_EQ(::waitpid(child, &exit_status, 0), child);
  EXPECT_EQ(exit_status, 0);
  EXPECT_EQ(Slurp(dir / "f"), "old");
  EXPECT_EQ(dir.Count(), 1U);
}

TEST(WriteFileAtomically, WhenTheRenameFailsTheTemporaryFileIsGone) {
  TempDir dir;
  std::filesystem::create_directory(dir / "taken");
  dir.Write("taken/inside", "x");
  Status status = WriteFileAtomically(dir / "taken", "content");
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("taken"), std::string::npos);
  EXPECT_EQ(dir.Count(), 1U);
  EXPECT_EQ(Slurp(dir / "taken/inside"), "x");
}

TEST(WriteFileAtomically, WithoutTheFolderItIsNotFound) {
  TempDir dir;
  EXPECT_EQ(WriteFileAtomically(dir / "no/f", "x").code(), Code::kNotFound);
}

TEST(RenameDurably, MovesTheFileAndNamesBothWhenItCannot) {
  TempDir dir;
  dir.Write("a", "x");
  ASSERT_TRUE(RenameDurably(dir / "a", dir / "b").ok());
  EXPECT_EQ(Slurp(dir / "b"), "x");
  Status status = RenameDurably(dir / "a", dir / "c");
  EXPECT_EQ(status.code(), Code::kNotFound);
  EXPECT_NE(status.message().find((dir / "c").string()), std::string::npos);
}

TEST(RenameDurably, WorksOnANameWithoutAFolder) {
  TempDir dir;
  dir.Write("a", "x");
  auto before = std::filesystem::current_path();
  std::filesystem::current_path(dir.path());
  Status status = RenameDurably("a", "b");
  std::filesystem::current_path(before);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(Slurp(dir / "b"), "x");
}

TEST(SyncDirectory, OfWhatIsNotAFolderIsAnError) {
  TempDir dir;
  EXPECT_TRUE(SyncDirectory(dir.path()).ok());
  EXPECT_EQ(SyncDirectory(dir / "absent").code(), Code::kNotFound);
  EXPECT_FALSE(SyncDirectory(dir.Write("f", "")).ok());
}

TEST(MappedFile, DroppedPagesComeBackAndOnlyThoseOfTheFileAreDropped) {
  TempDir dir;
  std::string content(100'000, 'x');
  for (size_t i = 0; i < content.size(); i += 7) content[i] = static_cast<char>(i % 251);
  dir.Write("f", content);
  const auto file = MappedFile::Open(dir / "f").value();
  const auto same = [&] { return std::memcmp(file->bytes().data(), content.data(), content.size()) == 0; };
  for (const auto& [begin, size] : {std::pair<size_t, size_t>{0, 100'000}, {1, 99'999}, {5000, 3}, {4096, 0}}) {
    const auto part = file->bytes().subspan(begin, size);
    EXPECT_TRUE(file->Holds(part));
    file->WillRead(part);
    file->DropPages(part);
    EXPECT_TRUE(same()) << begin;
  }
  // Memory that is no mapping would be zeroes afterwards.
  std::vector<std::byte> own(100'000, std::byte{1});
  EXPECT_FALSE(file->Holds(own));
  file->DropPages(own);
  file->WillRead(own);
  EXPECT_EQ(std::count(own.begin(), own.end(), std::byte{1}), 100'000);
}

TEST(ReadFile, ReadsTheWholeContent) {
  TempDir dir;
  std::string content(200'001, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i % 253);
  EXPECT_EQ(ReadFile(dir.Write("f", content)).value(), content);
  EXPECT_EQ(ReadFile(dir.Write("empty", "")).value(), "");
}

TEST(ReadFile, TheLimitIsInclusive) {
  TempDir dir;
  dir.Write("f", "12345");
  EXPECT_EQ(ReadFile(dir / "f", 5).value(), "12345");
  Status status = ReadFile(dir / "f", 4).status();
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_NE(status.message().find("limit of 4"), std::string::npos);
}

TEST(ReadFile, SaysWhatItCouldNotRead) {
  TempDir dir;
  Status status = ReadFile(dir / "absent").status();
  EXPECT_EQ(status.code(), Code::kNotFound);
  EXPECT_NE(status.message().find((dir / "absent").string()), std::string::npos);
  EXPECT_EQ(ReadFile(dir.path()).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(ReadFile(dir.Write("f", "x") / "below").status().code(), Code::kNotFound);
}

TEST(ReadFile, DoesNotWaitAtANamedPipe) {
  TempDir dir;
  ASSERT_EQ(::mkfifo((dir.path() / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(ReadFile(dir.path() / "pipe").status().code(), Code::kInvalidArgument);
}

TEST(ReadFile, WithoutThePermissionItIsPermissionDenied) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read everything";
  TempDir dir;
  ::chmod(dir.Write("f", "x").c_str(), 0);
  EXPECT_EQ(ReadFile(dir / "f").status().code(), Code::kPermissionDenied);
  EXPECT_EQ(MappedFile::Open(dir / "f").status().code(), Code::kPermissionDenied);
}

TEST(MappedFile, ShowsTheBytesAndOutlivesTheName) {
  TempDir dir;
  auto mapped = MappedFile::Open(dir.Write("f", "hello")).value();
  std::filesystem::remove(dir / "f");
  ASSERT_EQ(mapped->bytes().size(), 5U);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(mapped->bytes().data()), 5), "hello");
  EXPECT_EQ(mapped->path(), dir / "f");
}

TEST(MappedFile, SmallFilesAreReadAndLargeOnesMappedAndBothShowTheSame) {
  TempDir dir;
  for (const size_t size : {size_t{1}, MappedFile::kReadBytes - 1, MappedFile::kReadBytes, MappedFile::kReadBytes + 1,
                            3 * MappedFile::kReadBytes}) {
    std::string content(size, '\0');
    for (size_t i = 0; i < size; ++i) content[i] = static_cast<char>(i * 7 + i / 251);
    const auto file = MappedFile::Open(dir.Write("f", content)).value();
    const auto shown = [&] {
      return std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
    };
    EXPECT_EQ(shown(), content) << size;
    EXPECT_TRUE(file->Holds(file->bytes()));
    file->WillRead(file->bytes());
    file->DropPages(file->bytes());
    file->DropPages();
    EXPECT_EQ(shown(), content) << size << " bytes, after their pages were dropped";
  }
}

TEST(MappedFile, AnEmptyFileIsAnEmptySpan) {
  TempDir dir;
  EXPECT_TRUE(MappedFile::Open(dir.Write("f", "")).value()->bytes().empty());
}

TEST(MappedFile, RefusesWhatIsNotARegularFileWithoutWaitingForIt) {
  TempDir dir;
  EXPECT_EQ(MappedFile::Open(dir.path()).status().code(), Code::kInvalidArgument);
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  EXPECT_EQ(MappedFile::Open(dir / "fifo").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(MappedFile::Open("/dev/null").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(MappedFile::Open(dir / "absent").status().code(), Code::kNotFound);
}

TEST(MakeDirectories, MakesAllOfThemAndIsContentWhenTheyAreThere) {
  TempDir dir;
  EXPECT_TRUE(MakeDirectories(dir / "a/b/c").ok());
  EXPECT_TRUE(MakeDirectories(dir / "a/b/c").ok());
  EXPECT_TRUE(std::filesystem::is_directory(dir / "a/b/c"));
}

TEST(MakeDirectories, AFileInTheWayIsAnError) {
  TempDir dir;
  dir.Write("f", "x");
  EXPECT_FALSE(MakeDirectories(dir / "f").ok());
  EXPECT_FALSE(MakeDirectories(dir / "f/below").ok());
  EXPECT_EQ(Slurp(dir / "f"), "x");
}

TEST(UniqueFd, ClosesItsDescriptorOnceAndOnlyItsOwn) {
  TempDir dir;
  dir.Write("f", "x");
  auto is_open = [](int fd) { return ::fcntl(fd, F_GETFD) >= 0; };
  int first = -1;
  {
    UniqueFd a(::open((dir / "f").c_str(), O_RDONLY));
    first = a.get();
    UniqueFd b = std::move(a);
    EXPECT_FALSE(a.valid());  // NOLINT(bugprone-use-after-move): the moved-from state is what is tested
    EXPECT_TRUE(is_open(first));
    UniqueFd c(::open((dir / "f").c_str(), O_RDONLY));
    int second = c.get();
    c = std::move(b);
    EXPECT_FALSE(is_open(second));
    EXPECT_EQ(c.get(), first);
  }
  EXPECT_FALSE(is_open(first));
}

TEST(ErrnoStatus, MapsWhatTheSystemSays) {
  EXPECT_EQ(ErrnoStatus(ENOENT, "x").code(), Code::kNotFound);
  EXPECT_EQ(ErrnoStatus(EACCES, "x").code(), Code::kPermissionDenied);
  EXPECT_EQ(ErrnoStatus(EROFS, "x").code(), Code::kPermissionDenied);
  EXPECT_EQ(ErrnoStatus(ENOSPC, "x").code(), Code::kResourceExhausted);
  EXPECT_EQ(ErrnoStatus(EDQUOT, "x").code(), Code::kResourceExhausted);
  EXPECT_EQ(ErrnoStatus(EIO, "x").code(), Code::kDataLoss);
  EXPECT_EQ(ErrnoStatus(EBADF, "x").code(), Code::kInternal);
  EXPECT_EQ(ErrnoStatus(ENOENT, "cannot open y").message().find("cannot open y: "), 0U);
}

}  // namespace
}  // namespace heddle
