// Any bytes as text from elsewhere that goes into a message: cleaned, it passes as a string of protobuf.
#include "protocol/refusal.h"
#include "protocol/validate.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle::protocol;
namespace v1 = heddle::v1;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  heddle::fuzz::Input input(data, size);
  const size_t limit = input.TakeNumber(2);
  const auto reason = static_cast<v1::RefusalReason>(input.TakeByte() % 19);
  const auto code = static_cast<heddle::Code>(input.TakeByte() % 17);
  const std::string_view text = input.rest();
  const std::string clean = CleanText(text, limit);
  Require(clean.size() <= limit, "the limit holds");
  Require(CleanText(clean, limit) == clean, "clean text stays as it is");
  if (text.size() <= limit) Require(clean.size() == text.size(), "text that fits is not cut");

  const v1::Refusal refusal = MakeRefusal(reason, text, heddle::Seconds(static_cast<double>(limit)));
  const auto read = ParseMessage<v1::Refusal>(SerializeRefusal(refusal));
  Require(read.ok(), "a refusal of ours can be read", read.status().message());
  Require(read->message() == refusal.message(), "with its message");
  if (code != heddle::Code::kOk)
    Require(HttpStatusOf(ReasonOf({code, std::string(text)})) >= 400, "every failure has a refusal");
  return 0;
}
