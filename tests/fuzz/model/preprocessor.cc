// Any bytes as preprocessor_config.json: refused with a reason, or means and deviations that can be used.
#include <cmath>

#include "model/data/image_preprocessing.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const int64_t channels : {1, 3}) {
    const auto parsed = heddle::model::ParseImagePreprocessing({reinterpret_cast<const char*>(data), size}, channels);
    if (!parsed.ok()) {
      Require(!parsed.status().message().empty(), "a refusal says why");
      continue;
    }
    Require(parsed->mean.size() == static_cast<size_t>(channels), "a mean a channel");
    Require(parsed->std.size() == static_cast<size_t>(channels), "a deviation a channel");
    for (const double mean : parsed->mean) Require(std::isfinite(mean), "means are finite");
    for (const double std : parsed->std) Require(std::isfinite(std) && std > 0, "deviations are positive");
  }
  return 0;
}
