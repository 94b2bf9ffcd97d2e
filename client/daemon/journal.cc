#include "client/daemon/journal.h"

#include "common/digest.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/test_hooks.h"
#include "protocol/limits.h"
#include "protocol/validate.h"

namespace heddle::client {

Status Journal::Check(const v1::ReportRequest& report) const {
  if (!report.has_update()) return OkStatus();
  std::error_code error;
  const uint64_t size = std::filesystem::file_size(update_file_, error);
  if (error || size != report.update().size_bytes()) return DataLoss("the update it names is gone");
  HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest expected, protocol::DigestOf(report.update()));
  HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, Sha256File(update_file_));
  return digest == expected ? OkStatus() : DataLoss("the update it names has changed");
}

std::optional<v1::ReportRequest> Journal::Read() const {
  const Result<std::string> bytes = ReadFile(file_, protocol::kMaxMessageBytes);
  if (bytes.status().code() == Code::kNotFound) return std::nullopt;
  Status status = bytes.status();
  if (bytes.ok()) {
    Result<v1::ReportRequest> report = protocol::ParseMessage<v1::ReportRequest>(*bytes);
    status = report.ok() ? Check(*report) : report.status();
    if (status.ok()) return *std::move(report);
  }
  Log(Severity::kWarning, "the journal cannot be used and is dropped: " + status.message(), {{"path", file_.string()}});
  Clear();
  return std::nullopt;
}

Status Journal::Write(const v1::ReportRequest& report) const {
  HEDDLE_FAILPOINT(kClientJournalUnwritten);
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(file_, report.SerializeAsString(), 0600));
  HEDDLE_FAILPOINT(kClientJournalWritten);
  return OkStatus();
}

void Journal::Clear() const {
  // The journal first: an update without one is only a file too many.
  std::error_code ignored;
  std::filesystem::remove(file_, ignored);
  HEDDLE_FAILPOINT(kClientJournalHalfCleared);
  std::filesystem::remove(update_file_, ignored);
  HEDDLE_FAILPOINT(kClientTaskEnded);
}

}  // namespace heddle::client
