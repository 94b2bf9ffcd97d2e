// Any bytes as a run folder's run.json, history.jsonl and summary.json (separated by NUL): refused, or a whole page in
// which no text of the folder becomes markup.
#include "simulator/report/report.h"

#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string texts[3];
  size_t which = 0;
  for (size_t i = 0; i < size; ++i) {
    if (data[i] == 0 && which < 2) {
      ++which;
    } else {
      texts[which] += static_cast<char>(data[i]);
    }
  }
  const auto page = heddle::simulator::RenderReport(texts[0], texts[1], texts[2]);
  if (!page.ok()) {
    Require(page.status().code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument");
    return 0;
  }
  Require(page->starts_with("<!") && page->find("</html>") != std::string::npos, "the page is whole");
  // Elements that the page never has of its own.
  for (const char* foreign : {"<script", "<img", "<iframe", "<a "}) {
    Require(page->find(foreign) == std::string::npos, "no text becomes markup", foreign);
  }
  return 0;
}
