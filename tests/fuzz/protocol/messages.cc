// Any bytes as each of the protocol's messages; the first byte says which. A message is refused, or it passes again
// after it was written out, and then the bytes stay the same.
#include "protocol/refusal.h"
#include "protocol/validate.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::Code;
using heddle::fuzz::Require;
using namespace heddle::protocol;
namespace v1 = heddle::v1;

namespace {

template <typename Message>
void Check(std::string_view bytes) {
  const auto first = ParseMessage<Message>(bytes);
  if (!first.ok()) {
    const Code code = first.status().code();
    Require(code == Code::kInvalidArgument || code == Code::kFailedPrecondition || code == Code::kResourceExhausted,
            "a refusal is about the message", first.status().message());
    return;
  }
  const std::string written = first->SerializeAsString();
  const auto second = ParseMessage<Message>(written);
  Require(second.ok(), "what is written can be read", second.status().message());
  Require(second->SerializeAsString() == written, "and is the same");
  if constexpr (std::is_same_v<Message, v1::Refusal>) {
    Require(!StatusOf(*first).ok(), "a refusal is never a success");
    Require(HttpStatusOf(first->reason()) >= 400, "nor in HTTP");
    Require(RetryAfterValue(*first).empty() == (first->retry_after_ms() == 0), "Retry-After says when");
  }
  if constexpr (std::is_same_v<Message, v1::BlobRef>) {
    const auto digest = DigestOf(*first);
    Require(digest.ok(), "a good reference has a digest");
    Require(MakeBlobRef(*digest, first->size_bytes(), first->name()).sha256() == first->sha256(), "the same");
  }
}

constexpr void (*kChecks[])(std::string_view) = {
    Check<v1::CheckinRequest>, Check<v1::CheckinResponse>, Check<v1::EnrollRequest>,  Check<v1::EnrollResponse>,
    Check<v1::ReportRequest>,  Check<v1::ReportResponse>,  Check<v1::Refusal>,        Check<v1::Rejection>,
    Check<v1::TaskAssignment>, Check<v1::TaskPlan>,        Check<v1::TrainPlan>,      Check<v1::TaskMetrics>,
    Check<v1::BlobRef>,        Check<v1::WorkerCommand>,   Check<v1::WorkerEvent>,    Check<v1::WorkerRun>,
    Check<v1::WorkerCancel>,   Check<v1::WorkerReady>,     Check<v1::WorkerProgress>, Check<v1::WorkerDone>,
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  heddle::fuzz::Input input(data, size);
  const uint8_t which = input.TakeByte();
  kChecks[which % std::size(kChecks)](input.rest());
  return 0;
}
