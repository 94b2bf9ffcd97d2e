#include "common/subprocess.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <thread>

namespace heddle {
namespace {

struct Pipe {
  UniqueFd read_end, write_end;
};

// The same file under a descriptor that the child's dup2 onto 0, 1 and 2 cannot run over. A service that was started
// without standard streams gets those numbers for its own files.
Result<UniqueFd> AboveStandard(int raw_fd, const std::string& what) {
  UniqueFd fd(raw_fd);
  if (fd.valid() && fd.get() > 2) return fd;
  if (fd.valid()) fd = UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!fd.valid()) return ErrnoStatus(errno, what);
  return fd;
}

Result<Pipe> MakePipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return ErrnoStatus(errno, "cannot make a pipe");
  Result<UniqueFd> read_end = AboveStandard(fds[0], "cannot make a pipe");
  Result<UniqueFd> write_end = AboveStandard(fds[1], "cannot make a pipe");
  if (!read_end.ok()) return read_end.status();
  if (!write_end.ok()) return write_end.status();
  return Pipe{*std::move(read_end), *std::move(write_end)};
}

// What the child needs, all made before the fork: after it only async-signal-safe calls are allowed.
struct ChildPlan {
  std::vector<char*> argv, environment;
  int stdin_fd = -1, stdout_fd = -1, stderr_fd = -1, error_fd = -1;
  bool die_with_parent = true, own_group = false;
  pid_t parent = 0;
};

[[noreturn]] void ReportAndExit(int error_fd) {
  int error = errno;
  [[maybe_unused]] ssize_t n = ::write(error_fd, &error, sizeof error);
  ::_exit(127);
}

[[noreturn]] void RunChild(const ChildPlan& plan) {
  if (plan.die_with_parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != plan.parent) ::_exit(127);  // the parent died before prctl
  }
  if (plan.own_group) ::setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  if (::dup2(plan.stdin_fd, 0) < 0) ReportAndExit(plan.error_fd);
  if (plan.stdout_fd >= 0 && ::dup2(plan.stdout_fd, 1) < 0) ReportAndExit(plan.error_fd);
  if (plan.stderr_fd >= 0 && ::dup2(plan.stderr_fd, 2) < 0) ReportAndExit(plan.error_fd);
  ::execvpe(plan.argv[0], plan.argv.data(), plan.environment.data());
  ReportAndExit(plan.error_fd);
}

Result<UniqueFd> OpenForAppend(const std::filesystem::path& path) {
  return AboveStandard(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644),
                       "cannot open " + path.string());
}

int ExitCode(int wait_status) {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

Status CannotRun(int error, const std::string& program) {
  Status status = ErrnoStatus(error, "cannot run " + program);
  bool is_not_a_program = error == EACCES || error == EPERM || error == EISDIR || error == ELOOP || error == ENOEXEC;
  return is_not_a_program ? NotFound(status.message()) : status;
}

std::vector<std::string> EnvironmentWith(const std::vector<std::string>& extra) {
  std::vector<std::string> all = extra;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    std::string_view name(*entry, std::strcspn(*entry, "=") + 1);
    bool replaced = false;
    for (const std::string& e : extra) replaced = replaced || e.starts_with(name);
    if (!replaced) all.emplace_back(*entry);
  }
  return all;
}

}  // namespace

Result<Subprocess> Subprocess::Start(const SubprocessOptions& options) {
  if (options.argv.empty()) return InvalidArgument("no program to start");
  ChildPlan plan;
  std::vector<std::string> environment = EnvironmentWith(options.extra_environment);
  for (const std::string& a : options.argv) plan.argv.push_back(const_cast<char*>(a.c_str()));
  for (const std::string& e : environment) {
    plan.environment.push_back(const_cast<char*>(e.c_str()));
  }
  plan.argv.push_back(nullptr);
  plan.environment.push_back(nullptr);
  plan.die_with_parent = options.die_with_parent;
  plan.own_group = options.own_group;
  plan.parent = ::getpid();

  HEDDLE_ASSIGN_OR_RETURN(Pipe error_pipe, MakePipe());
  Pipe in, out;
  UniqueFd null_in, out_file, err_file;
  if (options.pipe_stdin) {
    HEDDLE_ASSIGN_OR_RETURN(in, MakePipe());
    plan.stdin_fd = in.read_end.get();
  } else {
    HEDDLE_ASSIGN_OR_RETURN(null_in, AboveStandard(::open("/dev/null", O_RDONLY | O_CLOEXEC), "cannot open /dev/null"));
    plan.stdin_fd = null_in.get();
  }
  if (options.pipe_stdout) {
    HEDDLE_ASSIGN_OR_RETURN(out, MakePipe());
    plan.stdout_fd = out.write_end.get();
  } else if (!options.stdout_file.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(out_file, OpenForAppend(options.stdout_file));
    plan.stdout_fd = out_file.get();
  }
  if (!options.stderr_file.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(err_file, OpenForAppend(options.stderr_file));
    plan.stderr_fd = err_file.get();
  }
  plan.error_fd = error_pipe.write_end.get();

  pid_t pid = ::fork();
  if (pid < 0) return ResourceExhausted("cannot start " + options.argv[0] + ": " + std::strerror(errno));
  if (pid == 0) RunChild(plan);

  error_pipe.write_end.Reset();
  int child_error = 0;
  ssize_t n;
  do {
    n = ::read(error_pipe.read_end.get(), &child_error, sizeof child_error);
  } while (n < 0 && errno == EINTR);
  Subprocess process;
  process.pid_ = pid;
  process.own_group_ = options.own_group;
  process.stdin_ = std::move(in.write_end);
  process.stdout_ = std::move(out.read_end);
  if (n == sizeof child_error) {
    process.Wait();
    return CannotRun(child_error, options.argv[0]);
  }
  return process;
}

Subprocess::Subprocess(Subprocess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      own_group_(other.own_group_),
      exit_(other.exit_),
      stdin_(std::move(other.stdin_)),
      stdout_(std::move(other.stdout_)) {}

Subprocess& Subprocess::operator=(Subprocess&& other) noexcept {
  if (this != &other) {
    this->~Subprocess();
    new (this) Subprocess(std::move(other));
  }
  return *this;
}

Subprocess::~Subprocess() {
  Signal(SIGKILL);
  Wait();
}

void Subprocess::Signal(int signal_number) {
  if (pid_ > 0 && !exit_) ::kill(own_group_ ? -pid_ : pid_, signal_number);
}

std::optional<int> Subprocess::Poll() {
  if (exit_ || pid_ <= 0) return exit_;
  int status = 0;
  pid_t r = ::waitpid(pid_, &status, WNOHANG);
  if (r == pid_) exit_ = ExitCode(status);
  if (r < 0 && errno != EINTR) exit_ = 255;  // somebody else reaped it
  return exit_;
}

int Subprocess::Wait() {
  while (!exit_ && pid_ > 0) {
    int status = 0;
    pid_t r = ::waitpid(pid_, &status, 0);
    if (r == pid_) exit_ = ExitCode(status);
    if (r < 0 && errno != EINTR) exit_ = 255;
  }
  return exit_.value_or(255);
}

std::optional<int> Subprocess::WaitFor(Duration timeout) {
  auto end = std::chrono::steady_clock::now() + timeout;
  auto pause = std::chrono::milliseconds(1);
  while (!Poll()) {
    auto now = std::chrono::steady_clock::now();
    if (now >= end) return std::nullopt;
    std::this_thread::sleep_for(std::min<std::chrono::steady_clock::duration>(pause, end - now));
    pause = std::min(pause * 2, std::chrono::milliseconds(20));
  }
  return exit_;
}

Result<ProcessMemory> ReadProcessMemory(pid_t pid) {
  HEDDLE_ASSIGN_OR_RETURN(std::string text, ReadFile("/proc/" + std::to_string(pid) + "/status"));
  ProcessMemory memory;
  auto field = [&](std::string_view name) -> uint64_t {
    size_t at = text.find(name);
    if (at == std::string::npos) return 0;
    at = text.find_first_of("0123456789", at);
    uint64_t kib = 0;
    if (at != std::string::npos) std::from_chars(text.data() + at, text.data() + text.size(), kib);
    return kib * 1024;
  };
  memory.rss_bytes = field("VmRSS:");
  memory.peak_rss_bytes = field("VmHWM:");
  return memory;
}

}  // namespace heddle
