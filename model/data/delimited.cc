#include "model/data/delimited.h"

#include <algorithm>

namespace heddle::model {
namespace {

// Takes a quoted field, whose opening quote is at the front, and leaves `rest` at the delimiter or the end.
Status TakeQuoted(std::string_view* rest, char delimiter, size_t number, std::string* field) {
  rest->remove_prefix(1);
  while (true) {
    const size_t quote = rest->find('"');
    if (quote == std::string_view::npos) {
      return InvalidArgument("field " + std::to_string(number) + " has a quote that is not closed");
    }
    field->append(rest->substr(0, quote));
    rest->remove_prefix(quote + 1);
    if (!rest->starts_with('"')) break;
    field->push_back('"');
    rest->remove_prefix(1);
  }
  if (!rest->empty() && rest->front() != delimiter) {
    return InvalidArgument("field " + std::to_string(number) +
                           " goes on after its closing quote: double the quotes inside a field");
  }
  return OkStatus();
}

}  // namespace

Result<std::vector<std::string>> ParseRow(std::string_view row, Dialect dialect) {
  std::vector<std::string> fields;
  while (true) {
    std::string& field = fields.emplace_back();
    if (dialect.quoted && row.starts_with('"')) {
      HEDDLE_RETURN_IF_ERROR(TakeQuoted(&row, dialect.delimiter, fields.size(), &field));
    } else {
      const size_t end = std::min(row.find(dialect.delimiter), row.size());
      field.assign(row.substr(0, end));
      row.remove_prefix(end);
    }
    if (row.empty()) return fields;
    row.remove_prefix(1);
  }
}

std::string FormatRow(const std::vector<std::string>& fields, Dialect dialect) {
  const std::string special = std::string("\"\r\n") + dialect.delimiter;
  std::string row;
  for (size_t i = 0; i < fields.size(); ++i) {
    if (i > 0) row += dialect.delimiter;
    if (!dialect.quoted) {
      for (const char c : fields[i]) row += c == dialect.delimiter || c == '\n' || c == '\r' ? ' ' : c;
    } else if (fields[i].find_first_of(special) == std::string::npos) {
      row += fields[i];
    } else {
      row += '"';
      for (const char c : fields[i]) row.append(c == '"' ? 2 : 1, c);
      row += '"';
    }
  }
  return row;
}

}  // namespace heddle::model
