// Progress on standard error: a line that is redrawn on a terminal, one line a step elsewhere.
// Thread-safety: every method from any thread.
#pragma once

#include <chrono>
#include <mutex>
#include <string>

namespace heddle::simulator {

class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  // Replaces the line. `milestone`: also worth a line where there is no terminal.
  void Show(const std::string& text, bool milestone);
  // Ends the line, so that other output starts on its own.
  void End();

 private:
  std::mutex mutex_;
  bool terminal_;
  bool open_ = false;
};

// "3:07" of so many seconds; "-" when not known.
std::string Minutes(double seconds);
std::string Bytes(double bytes);  // "4.2 MB"
// "[#####-----]" of a share in 0 .. 1.
std::string BarText(double share, int width);

// Seconds left, from when the work began and how much of it is done.
class TimeLeft {
 public:
  double Left(double done) const;

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace heddle::simulator
