// What the subcommands of `heddle` do. Each prints to `out` (text, or JSON with format json) and returns why it failed.
// Thread-safety: none.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <ostream>
#include <string>

#include "common/status.h"
#include "coordinator/service/config.h"

namespace heddle::coordinator {

struct CommandContext {
  CoordinatorConfig config;
  bool json = false;
  std::ostream* out = nullptr;
};

Status CoordinatorInit(const CommandContext& context);

// Prints the token once; only its hash is kept.
Status DeviceToken(const CommandContext& context, const std::string& device, std::optional<double> hours);
Status DeviceList(const CommandContext& context);
// At once when the coordinator runs, else in the database for its next start.
Status DeviceRevoke(const CommandContext& context, const std::string& device);

Status RunSubmit(const CommandContext& context, const std::filesystem::path& recipe,
                 const std::map<std::string, std::string>& overrides, bool wait);
Status RunList(const CommandContext& context);
Status RunShow(const CommandContext& context, const std::string& run);
Status RunStop(const CommandContext& context, const std::string& run);
// Until the run has ended; kAborted when it did not complete, kDeadlineExceeded after `timeout_s` (0: no limit).
Status RunWait(const CommandContext& context, const std::string& run, double timeout_s);
// Copies a checkpoint (the newest without `round`) to a new folder in PEFT's layout.
Status RunExport(const CommandContext& context, const std::string& run, std::optional<uint32_t> round,
                 const std::filesystem::path& out);

// Whether the chain of the audit log is whole; kDataLoss names the first line that is wrong. `expected`: the head that
// an earlier verify printed; empty: none.
Status AuditVerify(const CommandContext& context, const std::string& expected);
// The newest lines.
Status AuditShow(const CommandContext& context, size_t last);

Status ConfigShow(const CommandContext& context);
// Reads and checks a recipe and its base model without running it.
Status RecipeCheck(const CommandContext& context, const std::filesystem::path& recipe,
                   const std::map<std::string, std::string>& overrides);

}  // namespace heddle::coordinator
