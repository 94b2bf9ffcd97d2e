#include "model/data/text_records.h"

#include <algorithm>
#include <boost/json.hpp>

#include "common/assert.h"
#include "model/data/delimited.h"
#include "model/data/utf8.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr std::string_view kUsualTextFields[] = {"text", "sentence", "sentence1", "content"};

Result<TextFormat> FormatByEnding(const std::filesystem::path& path) {
  const std::string ending = path.extension().string();
  if (ending == ".txt") return TextFormat::kText;
  if (ending == ".jsonl") return TextFormat::kJsonl;
  if (ending == ".csv") return TextFormat::kCsv;
  if (ending == ".tsv") return TextFormat::kTsv;
  return InvalidArgument(path.string() + ": the name must end with .txt, .jsonl, .csv or .tsv");
}

Dialect DialectOf(TextFormat format) { return format == TextFormat::kTsv ? Dialect{'\t', false} : Dialect{',', true}; }

RecordFormat FramingOf(TextFormat format) {
  switch (format) {
    case TextFormat::kText:
      return {RecordFormat::Kind::kParagraphs};
    case TextFormat::kCsv:
      return {RecordFormat::Kind::kQuotedRows, ','};
    default:
      return {RecordFormat::Kind::kLines};
  }
}

std::string Quoted(std::string_view name) { return "\"" + std::string(name) + "\""; }

// The string member `key`: null when it is not there. Errors: it is no string.
Result<const json::string*> TextMember(const json::object& object, std::string_view key) {
  const json::value* member = object.if_contains(key);
  if (member == nullptr || member->is_null()) return static_cast<const json::string*>(nullptr);
  if (!member->is_string()) return InvalidArgument(Quoted(key) + " must be a string");
  return &member->get_string();
}

Result<double> LabelMember(const json::object& object, const std::string& key, const LabelMap& labels) {
  const json::value* member = object.if_contains(key);
  if (member == nullptr) return InvalidArgument("there is no " + Quoted(key));
  switch (member->kind()) {
    case json::kind::string:
      return labels.FromText(std::string_view(member->get_string()));
    case json::kind::int64:
      return labels.FromInteger(member->get_int64());
    case json::kind::uint64:
      return labels.FromReal(static_cast<double>(member->get_uint64()));
    case json::kind::double_:
      return labels.FromReal(member->get_double());
    case json::kind::bool_:
      return labels.FromInteger(member->get_bool() ? 1 : 0);
    default:
      return InvalidArgument(Quoted(key) + " must be a number or a string");
  }
}

bool IsUnlabelled(const json::object& object, const std::string& key) {
  const json::value* member = object.if_contains(key);
  return member == nullptr || member->is_null() || (member->is_string() && member->get_string().empty());
}

Result<std::string> OtherMember(const json::object& object, const std::string& key) {
  const json::value* member = object.if_contains(key);
  if (member == nullptr) return InvalidArgument("there is no " + Quoted(key));
  if (member->is_string()) return std::string(member->get_string());
  if (member->is_structured() || member->is_null()) {
    return InvalidArgument(Quoted(key) + " must be a string or a number");
  }
  return json::serialize(*member);
}

Result<std::vector<TextSpan>> Conversation(const json::value& messages) {
  const json::array* list = messages.if_array();
  if (list == nullptr) return InvalidArgument("\"messages\" must be a list of objects");
  std::vector<TextSpan> spans;
  bool any_learned = false;
  for (const json::value& message : *list) {
    if (!message.is_object()) return InvalidArgument("\"messages\" must be a list of objects");
    HEDDLE_ASSIGN_OR_RETURN(const json::string* role, TextMember(message.get_object(), "role"));
    HEDDLE_ASSIGN_OR_RETURN(const json::string* content, TextMember(message.get_object(), "content"));
    if (role == nullptr || content == nullptr || role->empty()) {
      return InvalidArgument("each of \"messages\" needs a \"role\" and a \"content\"");
    }
    const std::string prefix = std::string(*role) + ": ";
    const std::string body = std::string(*content) + "\n";
    const bool learned = *role == "assistant";
    any_learned = any_learned || learned;
    if (spans.empty() || spans.back().learned) spans.push_back({"", false});
    spans.back().text += learned ? prefix : prefix + body;
    if (learned) spans.push_back({body, true});
  }
  if (!any_learned) return InvalidArgument("\"messages\" has none of the role \"assistant\", so nothing to learn");
  return spans;
}

}  // namespace

std::string TextExample::text() const {
  std::string all;
  for (const TextSpan& span : spans) all += span.text;
  return all;
}

Result<TextRecords> TextRecords::Open(const std::filesystem::path& path, TextOptions options) {
  TextRecords records;
  if (options.format == TextFormat::kByEnding) {
    HEDDLE_ASSIGN_OR_RETURN(options.format, FormatByEnding(path));
  }
  records.options_ = std::move(options);
  const TextFormat format = records.options_.format;
  const bool table = format == TextFormat::kCsv || format == TextFormat::kTsv;
  const int64_t header_rows = table && records.options_.columns.empty() ? 1 : 0;
  const int64_t most = std::numeric_limits<int64_t>::max() - 1;
  HEDDLE_ASSIGN_OR_RETURN(records.file_, RecordFile::Open(path, FramingOf(format), RecordFile::kMaxMarks,
                                                          std::min(records.options_.max_examples, most) + header_rows));
  if (format == TextFormat::kText && records.options_.labels.kind() != LabelMap::Kind::kNone) {
    return InvalidArgument(path.string() + ": a text file has no labels: use JSONL, CSV or TSV");
  }
  if (format == TextFormat::kText && !records.options_.other_fields.empty()) {
    return InvalidArgument(path.string() + ": a text file has no field " + Quoted(records.options_.other_fields[0]) +
                           ": use JSONL, CSV or TSV");
  }
  if (table) {
    std::vector<std::string> header = records.options_.columns;
    if (header.empty() && records.file_->size() > 0) {
      HEDDLE_ASSIGN_OR_RETURN(const Record first, records.file_->Read(0));
      if (const Status status = CheckUtf8(first.text, first.line); !status.ok()) return status.Annotate(path.string());
      Result<std::vector<std::string>> names = ParseRow(first.text, DialectOf(format));
      if (!names.ok()) return names.status().Annotate(path.string() + ": the header");
      header = *std::move(names);
      records.first_ = 1;
    }
    if (records.size() > 0) {
      if (const Status status = records.ChooseColumns(header); !status.ok()) return status.Annotate(path.string());
    }
  }
  if (records.size() == 0)
    return InvalidArgument(path.string() + " is an empty data set: it needs at least one example");
  return records;
}

Status TextRecords::ChooseColumns(const std::vector<std::string>& header) {
  num_columns_ = header.size();
  std::string all;
  for (size_t i = 0; i < header.size(); ++i) {
    all += (i == 0 ? "" : ", ") + header[i];
    if (!header[i].empty() && std::find(header.begin(), header.begin() + static_cast<std::ptrdiff_t>(i), header[i]) !=
                                  header.begin() + static_cast<std::ptrdiff_t>(i)) {
      return InvalidArgument("two columns are called " + Quoted(header[i]));
    }
  }
  const auto column = [&](std::string_view name) -> int64_t {
    const auto it = std::find(header.begin(), header.end(), name);
    return it == header.end() || name.empty() ? -1 : it - header.begin();
  };
  prompt_column_ = column(options_.prompt_field);
  completion_column_ = column(options_.completion_field);
  if (prompt_column_ < 0 || completion_column_ < 0 || !options_.text_fields.empty()) {
    prompt_column_ = completion_column_ = -1;
    if (options_.text_fields.empty()) {
      const auto* usual = std::find_if(std::begin(kUsualTextFields), std::end(kUsualTextFields),
                                       [&](std::string_view name) { return column(name) >= 0; });
      if (usual == std::end(kUsualTextFields)) {
        return InvalidArgument(
            "there is no column text, sentence, sentence1 or content, nor prompt and completion; there are: " +
            all.substr(0, 500));
      }
      text_columns_ = {static_cast<size_t>(column(*usual))};
    }
    for (const std::string& name : options_.text_fields) {
      if (column(name) < 0)
        return InvalidArgument("there is no column " + Quoted(name) + "; there are: " + all.substr(0, 500));
      text_columns_.push_back(static_cast<size_t>(column(name)));
    }
    pair_column_ = column(options_.pair_field);
  }
  label_column_ = column(options_.label_field);
  if (label_column_ < 0 && options_.labels.kind() != LabelMap::Kind::kNone && !options_.some_unlabelled) {
    return InvalidArgument("there is no column " + Quoted(options_.label_field) + "; there are: " + all.substr(0, 500));
  }
  for (const std::string& name : options_.other_fields) {
    if (column(name) < 0) {
      return InvalidArgument("there is no column " + Quoted(name) + "; there are: " + all.substr(0, 500));
    }
    other_columns_.push_back(static_cast<size_t>(column(name)));
  }
  return OkStatus();
}

namespace {

Result<TextExample> FromObject(const json::object& object, const TextOptions& options) {
  TextExample example;
  HEDDLE_ASSIGN_OR_RETURN(const json::string* prompt, TextMember(object, options.prompt_field));
  HEDDLE_ASSIGN_OR_RETURN(const json::string* completion, TextMember(object, options.completion_field));
  const json::value* messages = object.if_contains("messages");
  std::vector<std::string> fields = options.text_fields;
  if (fields.empty()) {
    for (std::string_view name : kUsualTextFields) {
      if (fields.empty() && object.contains(name)) fields.emplace_back(name);
    }
  }
  if (!fields.empty()) {
    std::string text;
    for (size_t i = 0; i < fields.size(); ++i) {
      HEDDLE_ASSIGN_OR_RETURN(const json::string* piece, TextMember(object, fields[i]));
      if (piece == nullptr) return InvalidArgument("there is no " + Quoted(fields[i]));
      if (i > 0) text += ' ';
      text.append(piece->data(), piece->size());
    }
    example.spans.push_back({std::move(text)});
    HEDDLE_ASSIGN_OR_RETURN(const json::string* pair, TextMember(object, options.pair_field));
    if (pair != nullptr) example.pair = std::string(*pair);
  } else if (prompt != nullptr && completion != nullptr) {
    example.spans = {{std::string(*prompt), false}, {std::string(*completion), true}};
  } else if (messages != nullptr) {
    HEDDLE_ASSIGN_OR_RETURN(example.spans, Conversation(*messages));
  } else {
    return InvalidArgument("the object needs \"text\", \"sentence1\", \"prompt\" and \"completion\", or \"messages\"");
  }
  if (options.labels.kind() != LabelMap::Kind::kNone &&
      !(options.some_unlabelled && IsUnlabelled(object, options.label_field))) {
    HEDDLE_ASSIGN_OR_RETURN(example.label, LabelMember(object, options.label_field, options.labels));
  }
  for (const std::string& name : options.other_fields) {
    HEDDLE_ASSIGN_OR_RETURN(std::string other, OtherMember(object, name));
    example.others.push_back(std::move(other));
  }
  return example;
}

}  // namespace

Result<TextExample> TextRecords::Parse(const Record& record) const {
  TextExample example;
  if (options_.format == TextFormat::kText) {
    example.spans.push_back({record.text});
    return example;
  }
  if (options_.format == TextFormat::kJsonl) {
    json::error_code error;
    const json::value value = json::parse(record.text, error);
    if (error) return InvalidArgument("it is not valid JSON: " + error.message());
    if (!value.is_object()) return InvalidArgument("it must be a JSON object");
    return FromObject(value.get_object(), options_);
  }
  HEDDLE_ASSIGN_OR_RETURN(std::vector<std::string> fields, ParseRow(record.text, DialectOf(options_.format)));
  if (fields.size() != num_columns_) {
    return InvalidArgument("it has " + std::to_string(fields.size()) + " fields, but there are " +
                           std::to_string(num_columns_) + " columns");
  }
  if (prompt_column_ >= 0) {
    example.spans = {{fields[static_cast<size_t>(prompt_column_)], false},
                     {fields[static_cast<size_t>(completion_column_)], true}};
  } else {
    std::string text;
    for (size_t i = 0; i < text_columns_.size(); ++i) text += (i == 0 ? "" : " ") + fields[text_columns_[i]];
    example.spans.push_back({std::move(text)});
    if (pair_column_ >= 0) example.pair = fields[static_cast<size_t>(pair_column_)];
  }
  const bool labelled =
      label_column_ >= 0 && !(options_.some_unlabelled && fields[static_cast<size_t>(label_column_)].empty());
  if (options_.labels.kind() != LabelMap::Kind::kNone && labelled) {
    HEDDLE_ASSIGN_OR_RETURN(example.label, options_.labels.FromText(fields[static_cast<size_t>(label_column_)]));
  }
  for (const size_t column : other_columns_) example.others.push_back(fields[column]);
  return example;
}

Result<TextExample> TextRecords::Read(int64_t index) const {
  HEDDLE_ASSERT(index >= 0 && index < size(), "no such example");
  HEDDLE_ASSIGN_OR_RETURN(const Record record, file_->Read(index + first_));
  if (const Status status = CheckUtf8(record.text, record.line); !status.ok()) return status.Annotate(path().string());
  Result<TextExample> example = Parse(record);
  if (!example.ok()) {
    return example.status().Annotate(path().string() + ": line " + std::to_string(record.line));
  }
  example->line = record.line;
  return example;
}

}  // namespace heddle::model
