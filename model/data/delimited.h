// One row of a CSV or TSV file as fields. Pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle::model {

struct Dialect {
  char delimiter = ',';
  // RFC 4180: a field that begins with a double quote ends at the next single one; "" inside stands for one. Without,
  // quotes are ordinary characters (the TSV of GLUE).
  bool quoted = true;
};

// At least one field. Errors: kInvalidArgument: something stands between a closing quote and the delimiter, or a quote
// is not closed; the message names the field by number.
Result<std::vector<std::string>> ParseRow(std::string_view row, Dialect dialect);

// The inverse: quotes where they are needed. A dialect without quotes cannot hold delimiters or line breaks: they
// become spaces.
std::string FormatRow(const std::vector<std::string>& fields, Dialect dialect);

}  // namespace heddle::model
