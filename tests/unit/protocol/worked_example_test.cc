// The bytes that docs/protocol.md shows: if a message changes on the wire, these tests fail and the page must follow.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>

#include "protocol/refusal.h"
#include "protocol/validate.h"

namespace heddle::protocol {
namespace {

// As the page has them: 16 bytes a line.
std::string HexDump(std::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i > 0) out += i % 16 == 0 ? '\n' : ' ';
    const auto byte = static_cast<unsigned char>(bytes[i]);
    out += {kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return out;
}

std::string Page() {
  std::ifstream in(std::string(HEDDLE_SOURCE_DIR) + "/docs/protocol.md");
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

template <typename Message>
void ExpectOnPage(const Message& message, const std::string& expected) {
  ASSERT_TRUE(Validate(message).ok()) << Validate(message);
  const std::string bytes = message.SerializeAsString();
  EXPECT_EQ(HexDump(bytes), expected);
  EXPECT_NE(Page().find(expected), std::string::npos) << "docs/protocol.md must show:\n" << expected;
  const auto parsed = ParseMessage<Message>(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->SerializeAsString(), bytes);
}

TEST(WorkedExample, CheckinRequest) {
  v1::CheckinRequest request;
  request.set_protocol_version(1);
  request.set_software_version("0.1.0");
  request.add_local_tasks("lora_sft");
  request.set_memory_bytes(uint64_t{512} << 20);
  ExpectOnPage(request,
               "08 01 12 05 30 2e 31 2e 30 1a 08 6c 6f 72 61 5f\n"
               "73 66 74 20 80 80 80 80 02");
}

TEST(WorkedExample, CheckinResponseWithARejection) {
  v1::CheckinResponse response;
  response.mutable_rejection()->set_reason(v1::REJECTION_REASON_POLL_AGAIN);
  response.mutable_rejection()->set_retry_after_ms(1500);
  ExpectOnPage(response, "12 05 08 06 10 dc 0b");
}

TEST(WorkedExample, CheckinResponseWithAnAssignment) {
  v1::CheckinResponse response;
  v1::TaskAssignment* assignment = response.mutable_assignment();
  assignment->set_assignment_id("0123456789abcdef0123456789abcdef");
  assignment->set_run_id("demo-00c0ffee");
  assignment->set_round(3);
  assignment->set_attempt(1);
  assignment->set_deadline_unix_us(1'764'000'000'000'000);
  v1::TaskPlan* plan = assignment->mutable_plan();
  plan->set_local_task("lora_sft");
  *plan->add_base_model() = MakeBlobRef(Sha256(std::string_view("base")), 4096, "config.json");
  *plan->add_adapter() = MakeBlobRef(Sha256(std::string_view("adapter")), 2048, "adapter_model.safetensors");
  v1::TrainPlan* train = plan->mutable_train();
  train->set_local_steps(20);
  train->set_batch_size(4);
  train->set_sequence_length(64);
  train->set_learning_rate(0.5);
  train->set_threads(1);
  plan->set_seed(7);
  plan->set_max_update_bytes(65536);
  plan->set_max_num_examples(1000);
  ExpectOnPage(response,
               "0a dd 01 0a 20 30 31 32 33 34 35 36 37 38 39 61\n"
               "62 63 64 65 66 30 31 32 33 34 35 36 37 38 39 61\n"
               "62 63 64 65 66 12 0d 64 65 6d 6f 2d 30 30 63 30\n"
               "66 66 65 65 18 03 20 01 28 80 80 89 8b 94 8b 91\n"
               "03 32 9c 01 0a 08 6c 6f 72 61 5f 73 66 74 12 32\n"
               "0a 20 ca e6 62 17 2f d4 50 bb 0c d7 10 a7 69 07\n"
               "9c 05 bf c5 d8 e3 5e fa 65 76 ed c7 d0 37 7a fd\n"
               "d4 a2 10 80 20 1a 0b 63 6f 6e 66 69 67 2e 6a 73\n"
               "6f 6e 1a 40 0a 20 ae 1e ae 1d 76 e5 b7 c8 65 c4\n"
               "12 2c e3 66 a0 80 25 84 25 66 d2 d9 6c 75 cc 13\n"
               "e6 35 3a 73 db 0d 10 80 10 1a 19 61 64 61 70 74\n"
               "65 72 5f 6d 6f 64 65 6c 2e 73 61 66 65 74 65 6e\n"
               "73 6f 72 73 22 11 08 14 10 04 18 40 21 00 00 00\n"
               "00 00 00 e0 3f 58 01 28 07 30 80 80 04 38 e8 07");
}

// The frame that the worker's pipe carries: docs/protocol.md, "The worker's pipe".
TEST(WorkedExample, WorkerEvent) {
  v1::WorkerEvent event;
  event.mutable_progress()->set_step(3);
  event.mutable_progress()->set_total_steps(10);
  event.mutable_progress()->set_loss(2.5);
  ExpectOnPage(event, "12 0d 08 03 10 0a 19 00 00 00 00 00 00 04 40");
}

TEST(ProtocolPage, HasEveryReasonWithItsStatus) {
  const std::string page = Page();
  for (int reason = v1::REFUSAL_REASON_MALFORMED; reason <= v1::RefusalReason_MAX; ++reason) {
    const auto typed = static_cast<v1::RefusalReason>(reason);
    const std::string row =
        "| `" + std::string(ReasonName(typed)) + "` | " + std::to_string(HttpStatusOf(typed)) + " | ";
    EXPECT_NE(page.find(row), std::string::npos) << row;
  }
}

// The bounds as protocol/limits.h has them, so that a new one is missed on the page. What is written there is computed
// from left to right: numbers, digits' separators, suffixes, `type{n}`, earlier bounds, + - * <<.
std::map<std::string, uint64_t> LimitsOfTheHeader() {
  std::map<std::string, uint64_t> limits;
  std::ifstream in(std::string(HEDDLE_SOURCE_DIR) + "/protocol/limits.h");
  const std::regex definition(R"(inline constexpr \w+ (kMax\w+) = ([^;]+);)");
  const std::regex part(R"((\+|-|\*|<<) *|(?:\w+\{)?\b([\d']+)[uU]?\}?|(kMax\w+))");
  for (std::string line; std::getline(in, line);) {
    std::smatch found;
    if (!std::regex_search(line, found, definition)) {
      EXPECT_EQ(line.find(" kMax"), std::string::npos) << "the test does not understand: " << line;
      continue;
    }
    const std::string text = found[2];
    uint64_t value = 0;
    std::string sign = "+";
    for (std::sregex_iterator it(text.begin(), text.end(), part), end; it != end; ++it) {
      if ((*it)[1].matched) {
        sign = (*it)[1];
        continue;
      }
      std::string digits = (*it)[2];
      std::erase(digits, '\'');
      const uint64_t next = digits.empty() ? limits.at((*it)[3]) : std::stoull(digits);
      if (sign == "+") value += next;
      if (sign == "-") value -= next;
      if (sign == "*") value *= next;
      if (sign == "<<") value <<= next;
    }
    limits[found[1]] = value;
  }
  return limits;
}

TEST(ProtocolPage, HasTheLimits) {
  std::map<std::string, uint64_t> limits = LimitsOfTheHeader();
  EXPECT_EQ(limits["kMaxTargetBytes"], kMaxTargetBytes);  // each way of writing one is understood
  EXPECT_EQ(limits["kMaxBlobBytes"], kMaxBlobBytes);
  EXPECT_EQ(limits["kMaxRetryAfterMs"], kMaxRetryAfterMs);
  EXPECT_EQ(limits["kMaxRounds"], kMaxRounds);
  EXPECT_EQ(limits["kMaxKeptFrontMb"], kMaxKeptFrontMb);
  EXPECT_EQ(limits["kMaxSeedRef"], kMaxSeedRef);
  std::string page = Page();
  page = page.substr(page.find("## Limits"), page.find("## A worked example") - page.find("## Limits"));
  for (const auto& [name, value] : limits) {
    const std::string row = "| `" + name + "` | " + std::to_string(value) + " | ";
    EXPECT_NE(page.find(row), std::string::npos) << row;
  }
  for (size_t at = page.find("| `k"); at != std::string::npos; at = page.find("| `k", at + 1)) {
    const std::string name = page.substr(at + 3, page.find('`', at + 3) - at - 3);
    EXPECT_TRUE(limits.contains(name)) << "protocol/limits.h has no " << name;
  }
}

}  // namespace
}  // namespace heddle::protocol
