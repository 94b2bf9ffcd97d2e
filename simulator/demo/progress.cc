#include "simulator/demo/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace heddle::simulator {

ProgressLine::ProgressLine() : terminal_(::isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() { End(); }

void ProgressLine::Show(const std::string& text, bool milestone) {
  std::lock_guard lock(mutex_);
  if (terminal_) {
    std::fprintf(stderr, "\r\033[K%s", text.c_str());
    std::fflush(stderr);
    open_ = true;
  } else if (milestone) {
    std::fprintf(stderr, "%s\n", text.c_str());
  }
}

void ProgressLine::End() {
  std::lock_guard lock(mutex_);
  if (open_) std::fputc('\n', stderr);
  open_ = false;
}

std::string Minutes(double seconds) {
  if (!std::isfinite(seconds)) return "-";
  const int whole = static_cast<int>(std::lround(std::max(0.0, seconds)));
  char text[32];
  std::snprintf(text, sizeof text, "%d:%02d", whole / 60, whole % 60);
  return text;
}

std::string Bytes(double bytes) {
  char text[32];
  if (bytes >= 1e9) {
    std::snprintf(text, sizeof text, "%.2f GB", bytes / 1e9);
  } else {
    std::snprintf(text, sizeof text, "%.1f MB", bytes / 1e6);
  }
  return text;
}

std::string BarText(double share, int width) {
  const int full = static_cast<int>(std::lround(std::clamp(share, 0.0, 1.0) * width));
  return "[" + std::string(static_cast<size_t>(full), '#') + std::string(static_cast<size_t>(width - full), '-') + "]";
}

double TimeLeft::Left(double done) const {
  const double passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  return done > 0 ? passed * (1 - done) / done : NAN;
}

}  // namespace heddle::simulator
