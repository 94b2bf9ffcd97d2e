#include "simulator/world/meter.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "common/file.h"

namespace heddle::simulator {

void DeviceCost::Add(const DeviceCost& other) {
  tasks += other.tasks;
  tokens += other.tokens;
  bytes_down += other.bytes_down;
  bytes_up += other.bytes_up;
  compute_seconds += other.compute_seconds;
  transfer_seconds += other.transfer_seconds;
  compute_joules += other.compute_joules;
  radio_joules += other.radio_joules;
  memory_bytes = std::max(memory_bytes, other.memory_bytes);
}

double DeviceCost::Granularity() const {
  return transfer_seconds > 0 ? compute_seconds / transfer_seconds : std::nan("");
}

double DeviceCost::TokensPerJoule() const {
  return compute_joules > 0 ? static_cast<double>(tokens) / compute_joules : std::nan("");
}

double TransferSeconds(uint64_t bytes, double bytes_per_s) {
  return bytes_per_s > 0 ? static_cast<double>(bytes) / bytes_per_s : 0;
}

DeviceCost CostOf(const coordinator::DeviceProfile& profile, double seconds, uint64_t tokens, uint64_t bytes_down,
                  uint64_t bytes_up) {
  DeviceCost cost;
  cost.tasks = 1;
  cost.tokens = tokens;
  cost.bytes_down = bytes_down;
  cost.bytes_up = bytes_up;
  cost.compute_seconds = seconds;
  cost.transfer_seconds =
      TransferSeconds(bytes_down, profile.download_bytes_per_s) + TransferSeconds(bytes_up, profile.upload_bytes_per_s);
  cost.compute_joules = seconds * profile.watts;
  cost.radio_joules = cost.transfer_seconds * profile.radio_watts;
  return cost;
}

std::string CostJson(const DeviceCost& cost) {
  std::string out;
  const auto add = [&](const char* name, double value) {
    if (!std::isfinite(value)) return;
    char text[64];
    std::snprintf(text, sizeof text, "%s\"%s\":%.9g", out.empty() ? "" : ",", name, value);
    out += text;
  };
  add("compute_seconds", cost.compute_seconds);
  add("transfer_seconds", cost.transfer_seconds);
  add("tokens", static_cast<double>(cost.tokens));
  if (cost.compute_joules > 0) add("compute_joules", cost.compute_joules);
  if (cost.radio_joules > 0) add("radio_joules", cost.radio_joules);
  if (cost.memory_bytes > 0) add("memory_bytes", static_cast<double>(cost.memory_bytes));
  add("granularity", cost.Granularity());
  add("tokens_per_joule", cost.TokensPerJoule());
  return out;
}

Status AddToLastLine(const std::string& history_path, const std::string& members) {
  if (members.empty()) return OkStatus();
  UniqueFd fd(::open(history_path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open " + history_path);
  const off_t size = ::lseek(fd.get(), 0, SEEK_END);
  char end[2] = {};
  if (size < 3 || ::pread(fd.get(), end, 2, size - 2) != 2 || end[0] != '}' || end[1] != '\n') {
    return FailedPrecondition(history_path + " does not end with the line of a round");
  }
  if (::lseek(fd.get(), size - 2, SEEK_SET) < 0) return ErrnoStatus(errno, "cannot write " + history_path);
  return WriteAll(fd.get(), "," + members + "}\n", "cannot write " + history_path);
}

}  // namespace heddle::simulator
