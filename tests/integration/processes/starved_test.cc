// The real coordinator without what it needs: space, descriptors, its database, its blobs' folder. Requests are refused
// with reasons that tell devices to come back, nothing that was accepted is lost, and when the trouble ends the run
// goes on by itself and commits what arithmetic says.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sched.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "common/file.h"
#include "tests/integration/processes/keeper.h"
#include "tests/unit/common/sanitized.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;

#define ASSERT_OK(expression)                                                  \
  do {                                                                         \
    const Status ok_status = (expression);                                     \
    ASSERT_TRUE(ok_status.ok()) << #expression << ": " << ok_status.message(); \
  } while (false)

// Sum of a counter over all labels that contain `label`, in the text of /metrics.
double Sum(const std::string& metrics, const std::string& name, const std::string& label = "") {
  double sum = 0;
  std::istringstream lines(metrics);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name + "{") || line.find(label) == std::string::npos) continue;
    sum += std::strtod(line.c_str() + line.rfind(' '), nullptr);
  }
  return sum;
}

std::string Metrics(Keeper& keeper) {
  auto text = keeper.world().fleet().admin().GetText("/metrics");
  return text.ok() ? *text : "";
}

double Refusals(Keeper& keeper) { return Sum(Metrics(keeper), "heddle_refusals_total"); }

// Whatever was refused, it was with words that mean "come back"; of an upload that the disk did not let finish, "begin
// it again".
void ExpectOnlyTemporaryRefusals(Keeper& keeper) {
  const std::string metrics = Metrics(keeper);
  const auto refusals = [&](const std::string& label) { return Sum(metrics, "heddle_refusals_total", label); };
  const double later = refusals("\"OVERLOADED\"") + refusals("\"UNAVAILABLE\"");
  const double again = Sum(metrics, "heddle_http_requests_total", "/v1/uploads/{id}\",status=\"404\"");
  EXPECT_GE(later, 1) << metrics;
  EXPECT_EQ(refusals("\"NOT_FOUND\""), again) << metrics;
  EXPECT_EQ(refusals(""), later + again) << metrics;
}

void ExpectNothingThrownAway(Keeper& keeper) {
  const std::string metrics = Metrics(keeper);
  EXPECT_GE(Sum(metrics, "heddle_rounds_total", "committed"), 1) << metrics;
  EXPECT_EQ(Sum(metrics, "heddle_rounds_total", "abandoned"), 0) << "accepted updates were thrown away";
}

std::string CoordinatorLog(Keeper& keeper) { return Slurp(keeper.world().fleet().folder() / "coordinator.log"); }

// A run of many small rounds, so that the trouble comes in the middle of it.
KeeperOptions LongRun() {
  KeeperOptions options;
  options.rounds = 12;
  return options;
}

Status StartAndCommitOne(Keeper& keeper) {
  HEDDLE_RETURN_IF_ERROR(keeper.Start());
  HEDDLE_RETURN_IF_ERROR(keeper.Submit());
  return keeper.TendUntil([&] { return keeper.CommittedRounds() >= 1; }, "a round is committed");
}

// ---- a full disk ----

// A file system of its own for a folder, which only this process and its children see.
class SmallDisk {
 public:
  explicit SmallDisk(const fs::path& folder) : folder_(folder) {
    fs::create_directories(folder);
    mounted_ = ::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
               ::mount("heddle-test", folder.c_str(), "tmpfs", 0, "size=24m") == 0;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(folder_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  // Writes until nothing fits any more.
  void Fill() {
    const UniqueFd fd(::open((folder_ / "ballast").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    for (size_t piece = size_t{64} << 10; piece > 0;) {
      const std::string bytes(piece, 'x');
      if (::write(fd.get(), bytes.data(), bytes.size()) <= 0) piece /= 2;
    }
  }
  void Free() { fs::remove(folder_ / "ballast"); }

 private:
  fs::path folder_;
  bool mounted_ = false;
};

TEST(Starved, AFullDiskIsRefusedAndTheRunGoesOnWhenThereIsRoom) {
  TempDir folder;
  SmallDisk disk(folder / "disk");
  if (!disk.mounted()) GTEST_SKIP() << "a small file system cannot be mounted here (it needs root)";
  KeeperOptions options = LongRun();
  options.coordinator_settings["storage.state_dir"] = "\"" + (folder / "disk/state").string() + "\"";
  options.coordinator_settings["storage.min_free_bytes"] = "0";  // to the last byte
  Keeper keeper(options);
  ASSERT_OK(StartAndCommitOne(keeper));
  disk.Fill();
  const uint32_t committed = keeper.CommittedRounds();
  ASSERT_LT(committed, options.rounds) << "too late to disturb anything";
  ASSERT_OK(keeper.TendUntil([&] { return Refusals(keeper) >= 3; }, "requests are refused"));
  ExpectOnlyTemporaryRefusals(keeper);
  EXPECT_EQ(TextOf(keeper.Progress(), "state"), "running");
  disk.Free();
  ASSERT_OK(keeper.Finish());
  ExpectNothingThrownAway(keeper);
}

// People's files lie on a disk of their own (a mount at runs/): the run does not need it, and its folder is whole when
// that disk can be written again, also where the run has ended meanwhile.
TEST(Starved, ARunFolderOnAFullDiskIsWrittenWhenThereIsRoom) {
  TempDir folder;
  SmallDisk disk(folder / "state/runs");
  if (!disk.mounted()) GTEST_SKIP() << "a small file system cannot be mounted here (it needs root)";
  KeeperOptions options = LongRun();
  options.coordinator_settings["storage.state_dir"] = "\"" + (folder / "state").string() + "\"";
  Keeper keeper(options);
  ASSERT_OK(StartAndCommitOne(keeper));
  disk.Fill();
  const uint32_t committed = keeper.CommittedRounds();
  ASSERT_LT(committed, options.rounds) << "too late to disturb anything";
  ASSERT_OK(keeper.TendUntil([&] { return TextOf(keeper.Progress(), "state") == "complete"; }, "the run is complete"));
  EXPECT_TRUE(CoordinatorLog(keeper).find("the run folder could not be written") != std::string::npos);
  const double refused = Refusals(keeper);
  EXPECT_EQ(refused, 0) << "devices heard of it: " << Metrics(keeper);
  disk.Free();
  ASSERT_OK(keeper.Finish());
  ExpectNothingThrownAway(keeper);
}

// ---- no descriptors ----

// Connections that say nothing.
std::vector<UniqueFd> OpenConnections(uint16_t port, int count) {
  std::vector<UniqueFd> open;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (int i = 0; i < count; ++i) {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      open.push_back(std::move(fd));
    }
  }
  return open;
}

int DescriptorsOf(pid_t process) {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/" + std::to_string(process) + "/fd")) ++count;
  return count;
}

TEST(Starved, WithoutDescriptorsItRefusesAndGoesOnWhenSomeAreFree) {
  if (kSanitized)
    GTEST_SKIP() << "without descriptors UBSan cannot look at memory, and takes good objects for bad ones";
  Keeper keeper(LongRun());
  ASSERT_OK(StartAndCommitOne(keeper));
  const pid_t process = keeper.world().fleet().coordinator_process().pid();
  rlimit before{};
  ASSERT_EQ(::prlimit(process, RLIMIT_NOFILE, nullptr, &before), 0);
  rlimit low = before;
  low.rlim_cur = static_cast<rlim_t>(DescriptorsOf(process)) + 8;
  ASSERT_EQ(::prlimit(process, RLIMIT_NOFILE, &low, nullptr), 0);
  {
    const std::vector<UniqueFd> idle = OpenConnections(keeper.world().fleet().device_port(), 40);
    ASSERT_GE(idle.size(), 9U);
    EXPECT_TRUE(Eventually([&] {
      return CoordinatorLog(keeper).find("cannot accept a connection") != std::string::npos;
    })) << CoordinatorLog(keeper);
    ASSERT_OK(keeper.Tend());
  }
  // They are gone, but the limit is still there: it goes on with what it has.
  ASSERT_OK(keeper.TendUntil([&] { return keeper.CommittedRounds() >= 2; }, "it answers again"));
  low.rlim_cur = 3;  // nothing can be opened at all, not even an update
  ASSERT_EQ(::prlimit(process, RLIMIT_NOFILE, &low, nullptr), 0);
  EXPECT_TRUE(Eventually([&] {
    return keeper.world().DeviceLog("anna").find("OVERLOADED") != std::string::npos ||
           keeper.world().DeviceLog("bert").find("OVERLOADED") != std::string::npos;
  })) << CoordinatorLog(keeper);
  ASSERT_OK(keeper.Tend());
  ASSERT_EQ(::prlimit(process, RLIMIT_NOFILE, &before, nullptr), 0);
  ASSERT_OK(keeper.Finish());
  ExpectOnlyTemporaryRefusals(keeper);
  ExpectNothingThrownAway(keeper);
}

// ---- a locked database ----

TEST(Starved, ALockedDatabaseIsRefusedAndTheRunGoesOnWhenItIsFree) {
  Keeper keeper(LongRun());
  ASSERT_OK(StartAndCommitOne(keeper));
  sqlite3* database = nullptr;
  ASSERT_EQ(::sqlite3_open(keeper.world().fleet().config().database().c_str(), &database), SQLITE_OK);
  ::sqlite3_busy_timeout(database, 10'000);
  ASSERT_EQ(::sqlite3_exec(database, "BEGIN EXCLUSIVE", nullptr, nullptr, nullptr), SQLITE_OK);
  // Longer than the coordinator waits for the lock: it gives up, and says so.
  EXPECT_TRUE(Eventually([&] {
    return CoordinatorLog(keeper).find("another process holds its lock") != std::string::npos;
  })) << CoordinatorLog(keeper);
  ASSERT_OK(keeper.Tend());
  ASSERT_EQ(::sqlite3_exec(database, "ROLLBACK", nullptr, nullptr, nullptr), SQLITE_OK);
  ::sqlite3_close(database);
  ASSERT_OK(keeper.Finish());
  ExpectOnlyTemporaryRefusals(keeper);
  ExpectNothingThrownAway(keeper);
}

// ---- blobs that cannot be written ----

// Root may write everywhere: as root, the processes of this scope are somebody else's.
class AsOrdinaryUser {
 public:
  AsOrdinaryUser() {
    if (::geteuid() == 0) changed_ = ::setresgid(kNobody, kNobody, 0) == 0 && ::setresuid(kNobody, kNobody, 0) == 0;
  }
  ~AsOrdinaryUser() {
    if (!changed_) return;
    EXPECT_EQ(::setresuid(0, 0, 0), 0);
    EXPECT_EQ(::setresgid(0, 0, 0), 0);
  }

 private:
  static constexpr uid_t kNobody = 65534;
  bool changed_ = false;
};

void SetMode(const fs::path& folder, fs::perms mode) {
  std::vector<fs::path> all = {folder};
  for (const auto& entry : fs::directory_iterator(folder)) all.push_back(entry.path());
  for (const fs::path& one : all) fs::permissions(one, mode);
}

TEST(Starved, AReadOnlyFolderOfBlobsIsRefusedAndTheRunGoesOnWhenItIsWritable) {
  const AsOrdinaryUser user;
  if (::access(HEDDLE_BINARY_DIR "/bin/heddle-coordinator", X_OK) != 0) {
    GTEST_SKIP() << "the programs are in a folder that only root sees";
  }
  Keeper keeper(LongRun());
  ASSERT_OK(StartAndCommitOne(keeper));
  const fs::path blobs = fs::path(keeper.world().fleet().config().state_dir) / "blobs";
  SetMode(blobs, fs::perms(0555));
  ASSERT_LT(keeper.CommittedRounds(), 12U) << "too late to disturb anything";
  const Status refused = keeper.TendUntil([&] { return Refusals(keeper) >= 3; }, "requests are refused");
  ExpectOnlyTemporaryRefusals(keeper);
  SetMode(blobs, fs::perms(0755));
  ASSERT_OK(refused);
  ASSERT_OK(keeper.Finish());
  ExpectNothingThrownAway(keeper);
}

}  // namespace
}  // namespace heddle
