// Any bytes as a line of the audit log and as its head: refused, or the one spelling of what was read. And any fields
// as a record: written as one line, and read as what was written.
#include "coordinator/audit/audit_record.h"

#include "coordinator/audit/audit_head.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle::coordinator;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto record = ParseRecord(text); record.ok()) {
    const heddle::Sha256Digest hash = record->hash;
    Require(FormatRecord(&*record) == text, "what is read is written the same");
    Require(record->hash == hash, "and has the same hash");
  } else {
    Require(record.status().code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument");
  }
  if (const auto head = ParseHead(text)) {
    Require(text.find(FormatSlot(*head)) != std::string_view::npos, "a head that is read stands in the bytes");
  }
  heddle::fuzz::Input input(data, size);
  AuditRecord made;
  made.sequence = input.TakeNumber(8);
  made.time = heddle::FromUnixMicros(static_cast<int64_t>(input.TakeNumber(8)));
  made.event.since = heddle::FromUnixMicros(static_cast<int64_t>(input.TakeNumber(8)));
  made.event.kind = static_cast<AuditKind>(input.TakeByte() % 9);
  made.event.count = input.TakeNumber(8);
  made.event.actor = input.TakeLine();
  made.event.from = input.TakeLine();
  made.event.object = input.TakeLine();
  made.event.outcome = input.TakeLine();
  made.event.detail = input.rest();
  made.previous = heddle::Sha256(text);
  const std::string line = FormatRecord(&made);
  Require(line.size() <= kMaxAuditLine, "a line is not too long", line);
  Require(line.find('\n') == std::string::npos, "a line is one line", line);
  const auto read = ParseRecord(line);
  Require(read.ok(), "what is written can be read", line);
  Require(read->event.detail == made.event.detail && read->event.actor == made.event.actor && read->time == made.time,
          "as what it was", line);
  return 0;
}
