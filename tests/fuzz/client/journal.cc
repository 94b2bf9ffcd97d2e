// Any bytes as the journal and the update that a device finds after a restart: dropped, both files with it, or a report
// that may be sent as it is and whose update is the one on disk.
#include "client/daemon/journal.h"

#include "common/digest.h"
#include "protocol/validate.h"
#include "tests/fuzz/scratch.h"

using heddle::fuzz::Require;
namespace fs = std::filesystem;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const heddle::fuzz::Scratch scratch;
  heddle::fuzz::Input input(data, size);
  const size_t update_bytes = input.TakeNumber(2);
  const std::string_view rest = input.rest();
  const std::string_view update = rest.substr(0, update_bytes);
  const fs::path journal_file = scratch.Write("journal", rest.substr(update.size()));
  const fs::path update_file = scratch.Write("update", update);
  const heddle::client::Journal journal(journal_file, update_file);
  const auto report = journal.Read();
  if (!report) {
    Require(!fs::exists(journal_file) && !fs::exists(update_file), "what cannot be used is dropped");
    return 0;
  }
  Require(heddle::protocol::Validate(*report).ok(), "a report that is read may be sent");
  if (report->has_update()) {
    Require(report->update().size_bytes() == update.size(), "its update is there");
    Require(report->update().sha256() == heddle::Sha256(update).raw(), "and is the one it names");
  }
  Require(journal.Write(*report).ok(), "it can be written again");
  const auto again = journal.Read();
  Require(again && again->SerializeAsString() == report->SerializeAsString(), "and is read as the same");
  return 0;
}
