// A line of the audit log: one spelling only, and the bytes that docs/formats.md shows.
#include "coordinator/audit/audit_record.h"

#include <gmock/gmock.h>

#include <limits>
#include <utility>
#include <vector>

#include "common/file.h"
#include "coordinator/audit/audit_head.h"

namespace heddle::coordinator {
namespace {

using ::testing::HasSubstr;

AuditRecord Example() {
  AuditRecord record;
  record.sequence = 1;
  record.time = FromUnixMicros(1'764'000'000'123'456);
  record.event = {.kind = AuditKind::kDeviceRevoked,
                  .actor = "admin",
                  .from = "127.0.0.1",
                  .object = "phone-17",
                  .outcome = "done",
                  .detail = "",
                  .count = 1,
                  .since = record.time};
  return record;
}

TEST(AuditRecord, IsWrittenAsTheFormatsPageShows) {
  const std::string page = *ReadFile(HEDDLE_SOURCE_DIR "/docs/formats.md");
  AuditRecord record = Example();
  const std::string line = FormatRecord(&record);
  EXPECT_THAT(page, HasSubstr("\n" + line + "\n")) << line;
  AuditRecord next;
  next.sequence = 2;
  next.time = record.time + Seconds(10);
  next.event = {.kind = AuditKind::kRefusal,
                .actor = "",
                .from = "192.0.2.0/24",
                .object = "/v1/enroll",
                .outcome = "BAD_TOKEN",
                .detail = "the token is \"unknown\", used or expired",
                .count = 37,
                .since = record.time + Seconds(1)};
  next.previous = record.hash;
  const std::string second = FormatRecord(&next);
  EXPECT_THAT(page, HasSubstr("\n" + second + "\n")) << second;
  const std::string slot = FormatSlot({.write = 4, .sequence = 2, .hash = next.hash});
  EXPECT_THAT(page, HasSubstr("\n" + slot.substr(0, slot.find('}') + 1) + "\n")) << slot;
}

TEST(AuditRecord, IsReadAsWhatWasWritten) {
  AuditRecord record = Example();
  record.sequence = ~uint64_t{0};
  record.event.count = ~uint64_t{0};
  record.event.kind = AuditKind::kRefusal;
  record.event.detail.clear();
  for (int byte = 0; byte < 256; ++byte) record.event.detail += static_cast<char>(byte);
  record.event.object = "\"\\\n{}";
  record.previous = Sha256("before");
  const std::string line = FormatRecord(&record);
  for (const char c : line) EXPECT_TRUE(c >= 0x20 && c <= 0x7e) << line;
  const auto read = ParseRecord(line);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->sequence, record.sequence);
  EXPECT_EQ(read->time, record.time);
  EXPECT_EQ(read->event.since, record.event.since);
  EXPECT_EQ(read->event.kind, record.event.kind);
  EXPECT_EQ(read->event.actor, "admin");
  EXPECT_EQ(read->event.from, "127.0.0.1");
  EXPECT_EQ(read->event.object, record.event.object);
  EXPECT_EQ(read->event.outcome, "done");
  EXPECT_EQ(read->event.detail, record.event.detail);
  EXPECT_EQ(read->event.count, record.event.count);
  EXPECT_EQ(read->previous, record.previous);
  EXPECT_EQ(read->hash, record.hash);
}

TEST(AuditRecord, KeepsLongTextsAndStrangeTimesWithinItsLimits) {
  AuditRecord record = Example();
  for (std::string* text :
       {&record.event.actor, &record.event.from, &record.event.object, &record.event.outcome, &record.event.detail}) {
    *text = std::string(100'000, '\xff');
  }
  for (const int64_t micros : {std::numeric_limits<int64_t>::min(), int64_t{-1}, std::numeric_limits<int64_t>::max()}) {
    record.time = FromUnixMicros(micros);
    record.event.since = FromUnixMicros(micros);
    const std::string line = FormatRecord(&record);
    EXPECT_LE(line.size(), kMaxAuditLine);
    const auto read = ParseRecord(line);
    ASSERT_TRUE(read.ok()) << read.status() << line;
    EXPECT_EQ(read->event.actor.size(), kMaxAuditText);
    EXPECT_EQ(ToUnixMicros(read->time), micros > 0 ? kMaxAuditMicros : 0);
  }
}

TEST(AuditRecord, WithAnyByteChangedAddedOrTakenIsRefused) {
  AuditRecord record = Example();
  const std::string line = FormatRecord(&record);
  for (size_t i = 0; i < line.size(); ++i) {
    for (const char change : {'\x01', '\x20', '\x80'}) {
      std::string other = line;
      other[i] = static_cast<char>(other[i] ^ change);
      EXPECT_EQ(ParseRecord(other).status().code(), Code::kInvalidArgument) << other;
    }
    std::string shorter = line, longer = line;
    shorter.erase(i, 1);
    longer.insert(i, 1, ' ');
    EXPECT_FALSE(ParseRecord(shorter).ok()) << shorter;
    EXPECT_FALSE(ParseRecord(longer).ok()) << longer;
    EXPECT_FALSE(ParseRecord(line.substr(0, i)).ok());
  }
  EXPECT_FALSE(ParseRecord(line + " ").ok());
  EXPECT_FALSE(ParseRecord("").ok());
}

// A spelling that means the same to a JSON reader is another spelling, also with a hash that fits it.
TEST(AuditRecord, InAnotherSpellingIsRefused) {
  AuditRecord record = Example();
  const std::string line = FormatRecord(&record);
  const auto respelt = [&](const std::string& from, const std::string& to) {
    std::string other = line.substr(0, line.find(",\"hash\":\""));
    other.replace(other.find(from), from.size(), to);
    return other + ",\"hash\":\"" + Sha256(other).ToHex() + "\"}";
  };
  EXPECT_TRUE(ParseRecord(respelt("phone-17", "phone-18")).ok());  // what a forger can do; the chain finds it
  for (const auto& [from, to] :
       std::vector<std::pair<std::string, std::string>>{{"phone", "\\u0070hone"},
                                                        {"\"seq\":1", "\"seq\":01"},
                                                        {"\"seq\":1", "\"seq\": 1"},
                                                        {"\"count\":1", "\"count\":1.0"},
                                                        {"device_revoked", "no_such_kind"},
                                                        {"2025-11-24", "2025-13-24"},
                                                        {"2025-11-24", "2025-11-4 "},
                                                        {"2025-11-24T", "2025-11-24T-"},
                                                        {"2025-11-24T16", "2025-11-24T-6"},
                                                        {"2025-11-24T16:", "2025-11-24T24:"},
                                                        {"2025-11-24T16:", "2025-11-24T16:-"}}) {
    EXPECT_FALSE(ParseRecord(respelt(from, to)).ok()) << to;
  }
}

TEST(AuditHead, IsTheNewestGoodSlot) {
  const AuditHead older{.write = 6, .sequence = 41, .hash = Sha256("41")};
  const AuditHead newer{.write = 7, .sequence = 44, .hash = Sha256("44")};
  const std::string content = FormatSlot(older) + FormatSlot(newer);
  EXPECT_EQ(SlotOffset(older), 0U);
  EXPECT_EQ(SlotOffset(newer), kSlotBytes);
  EXPECT_EQ(ParseHead(content)->sequence, 44U);
  for (size_t i = 0; i < content.size(); ++i) {
    std::string damaged = content;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    const auto head = ParseHead(damaged);
    ASSERT_TRUE(head);
    EXPECT_EQ(head->sequence, i < kSlotBytes ? 44U : 41U) << i;
    EXPECT_EQ(head->hash, Sha256(std::to_string(head->sequence)));
  }
  EXPECT_FALSE(ParseHead(""));
  EXPECT_FALSE(ParseHead(content.substr(1)));
  EXPECT_EQ(ParseHead(content.substr(0, content.size() - 1))->sequence, 41U);
  const AuditHead largest{.write = ~uint64_t{0}, .sequence = ~uint64_t{0}, .hash = Sha256("")};
  EXPECT_EQ(FormatSlot(largest).size(), kSlotBytes);
  EXPECT_EQ(ParseHead(FormatSlot(largest))->sequence, ~uint64_t{0});
}

}  // namespace
}  // namespace heddle::coordinator
