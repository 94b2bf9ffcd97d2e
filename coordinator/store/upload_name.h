// An unfinished upload's file name holds all that is known of it:
//   <id>~<size>~<digest hex>~<assignment>~<device>.part
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "coordinator/store/blob_store.h"

namespace heddle::coordinator {

// Errors: kInvalidArgument when a field is malformed: an assignment that is not 32 lower-case hex digits, a device that
// is not a device's name, size 0.
Status CheckUploadSpec(const UploadSpec& spec);

// `spec` has passed CheckUploadSpec.
std::string UploadFileName(const UploadSpec& spec);

// Nothing when the name is not one that UploadFileName made (the id is checked against the other fields).
std::optional<UploadSpec> ParseUploadFileName(std::string_view name);

}  // namespace heddle::coordinator
