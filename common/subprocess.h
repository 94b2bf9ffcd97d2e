// Child processes with pipes, as the client daemon (its worker), the demo and the tests need them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/file.h"
#include "common/status.h"

namespace heddle {

struct SubprocessOptions {
  std::vector<std::string> argv;               // argv[0] is a path, or a name looked up in PATH
  std::vector<std::string> extra_environment;  // "NAME=value"
  bool pipe_stdin = false;                     // else /dev/null
  bool pipe_stdout = false;                    // else inherited
  std::filesystem::path stderr_file;           // empty: inherited; else appended to
  std::filesystem::path stdout_file;           // as above; not with pipe_stdout
  // PR_SET_PDEATHSIG(SIGKILL): no orphans. Linux means the parent *thread*: a child started on a thread that ends dies
  // with it, so start it on one that lives as long.
  bool die_with_parent = true;
  // A process group of its own, which Signal and the destructor reach whole: for a shell, whose children would else
  // live on.
  bool own_group = false;
};

// Owns the child: the destructor kills (SIGKILL) and reaps one that still runs. Not thread-safe. Movable.
class Subprocess {
 public:
  // Errors: kNotFound when argv[0] is missing or not executable (reported by the parent, not by a dying child),
  // kInvalidArgument without argv, kResourceExhausted (processes, descriptors, memory), those of opening the output
  // files.
  static Result<Subprocess> Start(const SubprocessOptions& options);
  Subprocess(Subprocess&&) noexcept;
  Subprocess& operator=(Subprocess&&) noexcept;
  ~Subprocess();

  pid_t pid() const { return pid_; }
  int stdin_fd() const { return stdin_.get(); }  // -1 unless piped; blocking
  int stdout_fd() const { return stdout_.get(); }
  void CloseStdin() { stdin_.Reset(); }
  UniqueFd TakeStdin() { return std::move(stdin_); }
  UniqueFd TakeStdout() { return std::move(stdout_); }

  void Signal(int signal_number);  // no effect once it has been reaped
  // Exit status as a shell gives it (128 + signal for a killed child), or nothing while it runs.
  std::optional<int> Poll();
  int Wait();
  // Nothing when the time ran out.
  std::optional<int> WaitFor(Duration timeout);

 private:
  Subprocess() = default;
  pid_t pid_ = -1;
  bool own_group_ = false;
  std::optional<int> exit_;
  UniqueFd stdin_, stdout_;
};

// Resident set size of a process in bytes, now and at its peak, from /proc. Errors: kNotFound.
struct ProcessMemory {
  uint64_t rss_bytes = 0;
  uint64_t peak_rss_bytes = 0;
};
Result<ProcessMemory> ReadProcessMemory(pid_t pid);

}  // namespace heddle
