// Examples of text for fine-tuning and evaluation, read one at a time from a JSONL, CSV, TSV or text file of any size.
//
//   file                    an example is
//   .txt                    a paragraph: lines up to the next blank one
//   .jsonl                  a line: an object with one of
//                             "text", "label"?                        "sentence1", "sentence2"?, "label"?
//                             "prompt", "completion"                  "messages": [{"role", "content"}, …]
//   .csv, .tsv              a row under a header with such columns (no "messages"). CSV: quotes as in RFC 4180; TSV:
//   none
//
// A conversation becomes plain text, since a chat template belongs to one model: each message is its role, ": ", its
// content, and a newline. What the model is to learn of it is the content and newline of the role "assistant".
//
// Bytes that are not UTF-8, labels out of range and fields that are not there are refused with file and line. Labels
// are looked at only when the options say what they mean. Unknown fields are ignored. Thread-safety: immutable after
// Open; Read from any thread. Memory: see record_file.h, and one example.
#pragma once

#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "model/data/labels.h"
#include "model/data/record_file.h"

namespace heddle::model {

// A piece of text, and whether its tokens count in the loss of a causal language model.
struct TextSpan {
  std::string text;
  bool learned = true;
  bool operator==(const TextSpan&) const = default;
};

struct TextExample {
  std::vector<TextSpan> spans;      // one; prompt and completion; or pieces of a conversation
  std::optional<std::string> pair;  // sentence2
  std::optional<double> label;      // a class's number, or a number; set when the options ask for labels
  std::vector<std::string> others;  // what the options' other_fields say, in their order
  int64_t line = 0;                 // in the file, from 1

  std::string text() const;  // the spans together
};

enum class TextFormat { kByEnding, kText, kJsonl, kCsv, kTsv };

struct TextOptions {
  TextFormat format = TextFormat::kByEnding;
  // Of a CSV or TSV file without a header: its columns in order. Empty: the first row names them.
  std::vector<std::string> columns;
  // The fields that make up the text, joined by a space. Empty: "text", else "sentence", "sentence1", or "content".
  std::vector<std::string> text_fields;
  std::string pair_field = "sentence2", label_field = "label";
  std::string prompt_field = "prompt", completion_field = "completion";
  int64_t max_examples = std::numeric_limits<int64_t>::max();  // those after the first so many are left out; at least 1
  LabelMap labels;                                             // asks for labels unless of kind kNone
  bool some_unlabelled = false;  // a label that is missing, null or empty is no mistake: the example then has none
  // Further fields to be read as they are (numbers of JSONL as it writes them); each must be there. Not of text files.
  std::vector<std::string> other_fields;
};

class TextRecords {
 public:
  // Errors: those of RecordFile::Open; kInvalidArgument: an ending that is not known, an empty data set, a header that
  // is not UTF-8, names a column twice, or lacks what is needed. Records are looked at when they are read.
  static Result<TextRecords> Open(const std::filesystem::path& path, TextOptions options);

  int64_t size() const { return file_->size() - first_; }
  const std::filesystem::path& path() const { return file_->path(); }
  // index from 0 to size() - 1, in the file's order. Errors: kInvalidArgument with file, line, what is wrong and what
  // to do; kDataLoss.
  Result<TextExample> Read(int64_t index) const;

 private:
  TextRecords() = default;
  Result<TextExample> Parse(const Record& record) const;
  Status ChooseColumns(const std::vector<std::string>& header);

  TextOptions options_;
  std::shared_ptr<const RecordFile> file_;
  int64_t first_ = 0;  // 1 with a header
  // Of delimited files: where things stand. -1: not there.
  size_t num_columns_ = 0;
  std::vector<size_t> text_columns_, other_columns_;
  int64_t pair_column_ = -1, label_column_ = -1, prompt_column_ = -1, completion_column_ = -1;
};

}  // namespace heddle::model
