// Refusals on their way into the audit log. What a stranger can cause must cost little: refusals of the same reason,
// device and network within a window become one line with a count; the table is bounded, and what does not fit is
// counted by reason; and the lines a day are bounded, so that an attack of months cannot fill the disk. No refusal goes
// uncounted, but the counts of the last window are lost when the process is killed.
//
// Use: Note() for each; from time to time Take(), and append what it gives to the log; when that fails, GiveBack().
// Thread-safety: any thread.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "common/clock.h"
#include "coordinator/audit/audit_record.h"

namespace heddle::coordinator {

struct RefusalLimits {
  size_t max_rows = 64;                // rows of one reason, device and network; beside them one for each reason
  Duration window = Seconds(10);       // refusals are gathered for so long
  double lines_a_day = 1000;           // and as many at once when nothing was written for a day
  Duration slow_window = Seconds(60);  // beyond: one line for all of them, this often
};

// "192.0.2.0/24" or "2001:db8:1::/48" of "192.0.2.7:4711" or "[2001:db8:1::7]:4711"; the text without the port when it
// is no address.
std::string NetworkOf(std::string_view address);

class RefusalTable {
 public:
  explicit RefusalTable(RefusalLimits limits = {}) : limits_(limits), tokens_(limits.lines_a_day) {}

  // `reason`: one of a fixed set. `device`: the authenticated one; empty: a stranger. `object`: what was asked for, one
  // of a fixed set. `detail` of the first of a row is kept.
  void Note(std::string_view reason, std::string_view device, std::string_view address, std::string_view object,
            std::string_view detail, Time now, uint64_t count = 1);

  // The lines that are due; nothing when the window has not passed. `all`: whatever there is (at the end of the
  // process).
  std::vector<AuditEvent> Take(Time now, bool all = false);
  void GiveBack(std::vector<AuditEvent> events);

 private:
  using Key = std::tuple<std::string, std::string, std::string>;  // reason, device, network
  void Add(const AuditEvent& event);

  const RefusalLimits limits_;
  std::mutex mutex_;
  std::map<Key, AuditEvent> rows_;
  double tokens_;  // lines that may be written now
  Time refilled_;
};

}  // namespace heddle::coordinator
