// A name found in the folder of uploads, and the fields that a device gives for one: what is read is what was written,
// and no field can break out of the name.
#include "coordinator/store/upload_name.h"

#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle::coordinator;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto spec = ParseUploadFileName(text)) {
    Require(CheckUploadSpec(*spec).ok(), "a name that is read holds a good upload");
    Require(UploadFileName(*spec) == text, "and is the name of that upload");
  }
  heddle::fuzz::Input input(data, size);
  UploadSpec spec;
  spec.size_bytes = input.TakeNumber(8);
  spec.digest = heddle::Sha256(input.TakeLine());
  spec.assignment = heddle::AssignmentId(std::string(input.TakeLine()));
  spec.device = heddle::DeviceId(std::string(input.rest()));
  if (!CheckUploadSpec(spec).ok()) return 0;
  const std::string name = UploadFileName(spec);
  Require(name.find('/') == std::string::npos && name.find('\0') == std::string::npos && name.size() < 256,
          "an upload's name is one path component", name);
  const auto read = ParseUploadFileName(name);
  Require(read && *read == spec, "a name is read as what it was made of", name);
  return 0;
}
