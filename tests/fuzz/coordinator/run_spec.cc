// Any bytes as the stored settings of a run: refused as damaged, or settings that are stored and read back the same.
#include <cmath>

#include "coordinator/store/run_spec_json.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto first = heddle::coordinator::RunSpecFromJson({reinterpret_cast<const char*>(data), size});
  if (!first.ok()) {
    Require(first.status().code() == heddle::Code::kDataLoss, "a refusal is a data loss");
    return 0;
  }
  const std::string written = heddle::coordinator::RunSpecToJson(*first);
  const auto second = heddle::coordinator::RunSpecFromJson(written);
  Require(second.ok(), "what is written can be read", second.status().message());
  Require(heddle::coordinator::RunSpecToJson(*second) == written, "and is the same", written);
  Require(second->over_selection == first->over_selection || std::isnan(first->over_selection),
          "real numbers survive to the last bit", written);
  return 0;
}
