// The journal: the report of a task that has ended and was not answered yet, so that a restart goes on with it. One
// file, written atomically; the update it names lies in the work folder.
#pragma once

#include <filesystem>
#include <optional>

#include "common/status.h"
#include "protocol/v1/device.pb.h"

namespace heddle::client {

class Journal {
 public:
  Journal(std::filesystem::path file, std::filesystem::path update_file)
      : file_(std::move(file)), update_file_(std::move(update_file)) {}

  // Nothing when there is none, or when it or its update is not what was written: then both are deleted, with a
  // warning.
  std::optional<v1::ReportRequest> Read() const;
  // Durable when it returns ok.
  Status Write(const v1::ReportRequest& report) const;
  // Deletes journal and update.
  void Clear() const;

  const std::filesystem::path& update_file() const { return update_file_; }

 private:
  Status Check(const v1::ReportRequest& report) const;
  std::filesystem::path file_, update_file_;
};

}  // namespace heddle::client
