#include "common/subprocess.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "tests/unit/common/temp_dir.h"

namespace heddle {
namespace {

using namespace std::chrono_literals;

constexpr Duration kLong = 60s;

Subprocess Shell(const std::string& script, SubprocessOptions options = {}) {
  options.argv = {"/bin/sh", "-c", script};
  auto process = Subprocess::Start(options);
  EXPECT_TRUE(process.ok()) << process.status();
  return *std::move(process);
}

std::string ReadAll(int fd) {
  std::string out;
  char buffer[65536];
  for (ssize_t n; (n = ::read(fd, buffer, sizeof buffer)) != 0;) {
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;
    out.append(buffer, static_cast<size_t>(n));
  }
  return out;
}

// True when the process is gone or a zombie, within a generous time.
bool Dies(pid_t pid) {
  for (int i = 0; i < 6000; ++i) {
    std::string stat = Slurp("/proc/" + std::to_string(pid) + "/stat");
    size_t name_end = stat.rfind(')');
    if (name_end == std::string::npos || stat.substr(name_end + 2, 1) == "Z") return true;
    std::this_thread::sleep_for(10ms);
  }
  return false;
}

TEST(Subprocess, GivesTheExitStatusAsAShellDoes) {
  EXPECT_EQ(Shell("exit 0").Wait(), 0);
  EXPECT_EQ(Shell("exit 7").Wait(), 7);
  EXPECT_EQ(Shell("kill -TERM $$").Wait(), 128 + SIGTERM);
  EXPECT_EQ(Shell("kill -KILL $$").WaitFor(kLong), 128 + SIGKILL);
}

TEST(Subprocess, IsFoundInThePathAndGetsItsArgumentsAsTheyAre) {
  auto process = Subprocess::Start({.argv = {"printf", "%s|", "a b", "", "$x\"'"}, .pipe_stdout = true});
  ASSERT_TRUE(process.ok()) << process.status();
  EXPECT_EQ(ReadAll(process->stdout_fd()), "a b||$x\"'|");
  EXPECT_EQ(process->Wait(), 0);
}

TEST(Subprocess, WhatCannotBeExecutedIsNotFound) {
  TempDir dir;
  dir.Write("data", "not a program");
  ::chmod((dir / "data").c_str(), 0644);
  for (const std::string& program : {std::string("heddle-no-such-program"), (dir / "absent").string(),
                                     (dir / "data").string(), dir.path().string(), (dir / "data/below").string()}) {
    auto process = Subprocess::Start({.argv = {program}});
    EXPECT_EQ(process.status().code(), Code::kNotFound) << program;
    EXPECT_NE(process.status().message().find(program), std::string::npos);
  }
  EXPECT_EQ(Subprocess::Start({}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "a failed start leaves no zombie";
  EXPECT_EQ(errno, ECHILD);
}

TEST(Subprocess, MegabytesGoThroughThePipesUnharmed) {
  std::string sent(5'000'000, '\0');
  for (size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<char>(i * 7 % 251);
  auto process = Subprocess::Start({.argv = {"cat"}, .pipe_stdin = true, .pipe_stdout = true});
  ASSERT_TRUE(process.ok()) << process.status();
  std::jthread writer([&, in = process->TakeStdin()] {
    size_t done = 0;
    while (done < sent.size()) {
      ssize_t n = ::write(in.get(), sent.data() + done, sent.size() - done);
      ASSERT_GT(n, 0);
      done += static_cast<size_t>(n);
    }
  });
  std::string received;
  std::thread reader([&] { received = ReadAll(process->stdout_fd()); });
  writer.join();
  writer = {};  // closes the child's standard input
  reader.join();
  EXPECT_EQ(received, sent);
  EXPECT_EQ(process->Wait(), 0);
}

TEST(Subprocess, WithoutAPipeStandardInputIsEmpty) { EXPECT_EQ(Shell("! read line").Wait(), 0); }

TEST(Subprocess, ClosingStandardInputEndsIt) {
  SubprocessOptions options;
  options.pipe_stdin = true;
  Subprocess process = Shell("cat >/dev/null; exit 4", options);
  EXPECT_EQ(process.Poll(), std::nullopt);
  process.CloseStdin();
  EXPECT_EQ(process.WaitFor(kLong), 4);
}

TEST(Subprocess, OutputFilesAreAppendedTo) {
  TempDir dir;
  dir.Write("out", "old\n");
  SubprocessOptions options;
  options.stdout_file = dir / "out";
  options.stderr_file = dir / "err";
  EXPECT_EQ(Shell("echo new; echo wrong >&2", options).Wait(), 0);
  EXPECT_EQ(Slurp(dir / "out"), "old\nnew\n");
  EXPECT_EQ(Slurp(dir / "err"), "wrong\n");
  options.stderr_file = dir / "no/err";
  options.argv = {"true"};
  EXPECT_EQ(Subprocess::Start(options).status().code(), Code::kNotFound);
}

TEST(Subprocess, ExtraEnvironmentReplacesWhatIsThere) {
  ::setenv("HEDDLE_TEST_A", "old", 1);
  ::setenv("HEDDLE_TEST_AB", "kept", 1);
  SubprocessOptions options;
  options.pipe_stdout = true;
  options.extra_environment = {"HEDDLE_TEST_A=new", "HEDDLE_TEST_C=1=2"};
  Subprocess process =
      Shell("echo $HEDDLE_TEST_A $HEDDLE_TEST_AB $HEDDLE_TEST_C; env | grep -c ^HEDDLE_TEST_A=", options);
  EXPECT_EQ(ReadAll(process.stdout_fd()), "new kept 1=2\n1\n");
  ::unsetenv("HEDDLE_TEST_A");
  ::unsetenv("HEDDLE_TEST_AB");
}

TEST(Subprocess, WaitForReturnsNothingWhileItRuns) {
  Subprocess process = Shell("exec sleep 1000");
  EXPECT_EQ(process.WaitFor(20ms), std::nullopt);
  EXPECT_EQ(process.Poll(), std::nullopt);
  process.Signal(SIGTERM);
  EXPECT_EQ(process.WaitFor(kLong), 128 + SIGTERM);
  EXPECT_EQ(process.Poll(), 128 + SIGTERM) << "and keeps its answer";
  process.Signal(SIGTERM);
}

TEST(Subprocess, TheDestructorKillsAndReaps) {
  pid_t pid = -1;
  {
    Subprocess process = Shell("trap '' TERM; exec sleep 1000");
    pid = process.pid();
    EXPECT_EQ(::kill(pid, 0), 0);
  }
  EXPECT_EQ(::kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

TEST(Subprocess, MovingHandsOverTheChild) {
  Subprocess a = Shell("exec sleep 1000");
  Subprocess b = Shell("exec sleep 1000");
  pid_t pid_a = a.pid();
  pid_t pid_b = b.pid();
  b = std::move(a);
  EXPECT_EQ(b.pid(), pid_a);
  EXPECT_EQ(::kill(pid_a, 0), 0);
  EXPECT_EQ(::kill(pid_b, 0), -1) << "what it held is killed";
}

// A process in the middle starts a child and is killed; the child must not outlive it.
TEST(Subprocess, AChildDiesWithItsParent) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  pid_t middle = ::fork();
  ASSERT_GE(middle, 0);
  if (middle == 0) {
    auto child = Subprocess::Start({.argv = {"sleep", "1000"}});
    pid_t pid = child.ok() ? child->pid() : -1;
    [[maybe_unused]] ssize_t n = ::write(fds[1], &pid, sizeof pid);
    while (true) ::pause();
  }
  UniqueFd read_end(fds[0]);
  UniqueFd write_end(fds[1]);
  pid_t child = -1;
  ASSERT_EQ(::read(read_end.get(), &child, sizeof child), static_cast<ssize_t>(sizeof child));
  ASSERT_GT(child, 0);
  ::kill(middle, SIGKILL);
  ::waitpid(middle, nullptr, 0);
  EXPECT_TRUE(Dies(child));
}

TEST(Subprocess, TheChildStartsWithDefaultSignals) {
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &blocked, &before), 0);
  Subprocess process = Shell("exec sleep 1000");
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  process.Signal(SIGTERM);
  EXPECT_EQ(process.WaitFor(kLong), 128 + SIGTERM);
}

// A service that was started without standard streams: its pipes get the numbers 0 to 2.
TEST(Subprocess, PipesWorkWhenTheParentsStandardStreamsAreClosed) {
  pid_t middle = ::fork();
  ASSERT_GE(middle, 0);
  if (middle == 0) {
    for (int fd : {0, 1, 2}) ::close(fd);
    auto child = Subprocess::Start({.argv = {"cat"}, .pipe_stdin = true, .pipe_stdout = true});
    if (!child.ok() || ::write(child->stdin_fd(), "hello", 5) != 5) ::_exit(1);
    child->CloseStdin();
    ::_exit(ReadAll(child->stdout_fd()) == "hello" && child->Wait() == 0 ? 0 : 2);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(middle, &status, 0), middle);
  EXPECT_EQ(status, 0);
}

TEST(Subprocess, TheChildInheritsNoneOfOurDescriptors) {
  SubprocessOptions options;
  options.pipe_stdin = true;
  options.pipe_stdout = true;
  Subprocess first = Shell("exec sleep 1000", options);
  // Were the first one's pipe open in the second too, closing ours would not end the first.
  std::filesystem::path link = "/proc/self/fd/" + std::to_string(first.stdin_fd());
  std::string pipe = std::filesystem::read_symlink(link).string();
  ASSERT_TRUE(pipe.starts_with("pipe:")) << pipe;
  Subprocess second = Shell("ls -l /proc/self/fd", options);
  std::string listing = ReadAll(second.stdout_fd());
  EXPECT_NE(listing.find("pipe:"), std::string::npos) << listing;
  EXPECT_EQ(listing.find(pipe), std::string::npos) << listing;
}

TEST(ReadProcessMemory, ReadsOurOwnAndRefusesStrangers) {
  std::vector<char> block(50 << 20, 1);
  auto memory = ReadProcessMemory(::getpid());
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_GE(memory->rss_bytes, block.size());
  EXPECT_GE(memory->peak_rss_bytes, memory->rss_bytes);
  EXPECT_EQ(ReadProcessMemory(0x3FFFFFFF).status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace heddle
