#include "model/data/text_dataset.h"

#include <algorithm>
#include <boost/json.hpp>
#include <limits>
#include <numeric>
#include <optional>
#include <string>

#include "common/assert.h"
#include "common/random.h"
#include "model/data/record_file.h"
#include "model/data/utf8.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

using Format = TextDataset::Format;

std::string_view NextLine(std::string_view* text) {
  const size_t end = text->find('\n');
  std::string_view line = text->substr(0, end);
  text->remove_prefix(end == std::string_view::npos ? text->size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

bool IsBlank(std::string_view line) { return line.find_first_not_of(" \t\r\f\v") == std::string_view::npos; }

// The "text" of a line, or what stands for it.
Result<std::string> JsonlDocument(std::string_view line, int64_t number) {
  const std::string where = "line " + std::to_string(number);
  json::error_code error;
  const json::value value = json::parse(line, error);
  if (error) return InvalidArgument(where + " is not valid JSON: " + error.message());
  const json::object* object = value.if_object();
  const auto text = [object](std::string_view key) -> const json::string* {
    const json::value* member = object == nullptr ? nullptr : object->if_contains(key);
    return member == nullptr ? nullptr : member->if_string();
  };
  if (const json::string* whole = text("text"); whole != nullptr) return std::string(*whole);
  const json::string *prompt = text("prompt"), *completion = text("completion");
  if (prompt != nullptr && completion != nullptr) return std::string(*prompt) + std::string(*completion);
  for (const char* key : {"sentence", "sentence1"}) {
    if (const json::string* whole = text(key); whole != nullptr) return std::string(*whole);
  }
  return InvalidArgument(where +
                         " must be a JSON object with the string \"text\" (or \"sentence\", \"sentence1\"), or "
                         "\"prompt\" and \"completion\"");
}

// Collects the documents' ids into one stream.
class Stream {
 public:
  Stream(Format format, const Tokenizer& tokenizer, const TextLimits& limits)
      : format_(format),
        tokenizer_(tokenizer),
        separator_(tokenizer.eos_id() >= 0 ? tokenizer.eos_id() : tokenizer.bos_id()),
        max_tokens_(limits.tokens),
        ids_(limits.tokens_in_memory) {}

  // A paragraph of text or a line of JSON, which begins at this line of the file.
  Status Add(std::string_view record, int64_t line) {
    HEDDLE_RETURN_IF_ERROR(CheckUtf8(record, line));
    if (format_ == Format::kText) return AddDocument(record, line);
    HEDDLE_ASSIGN_OR_RETURN(const std::string document, JsonlDocument(record, line));
    return AddDocument(document, line);
  }

  Result<std::shared_ptr<const TokenStore>> Finish(int64_t sequence_length, LastWindow last) {
    if (last == LastWindow::kShort && ids_.size() < 2) {
      return InvalidArgument("the data has " + std::string(ids_.size() == 0 ? "no token" : "1 token") +
                             ", but a prediction takes two: add text");
    }
    if (last == LastWindow::kLeftOut && ids_.size() <= sequence_length) {
      return InvalidArgument("the data has " + std::to_string(ids_.size()) +
                             " tokens, but one sequence needs sequence_length + 1 = " +
                             std::to_string(sequence_length + 1) + ": add text or lower sequence_length");
    }
    return ids_.Finish();
  }

 private:
  Status AddDocument(std::string_view document, int64_t line) {
    if (document.empty()) return OkStatus();
    if (ids_.size() > 0 && separator_ >= 0) HEDDLE_RETURN_IF_ERROR(ids_.Append({&separator_, 1}));
    HEDDLE_RETURN_IF_ERROR(ids_.Append(tokenizer_.Encode(document)));
    if (ids_.size() <= max_tokens_) return OkStatus();
    return InvalidArgument("the data up to the document at line " + std::to_string(line) + " have " +
                           std::to_string(ids_.size()) + " tokens, at most " + std::to_string(max_tokens_) +
                           " are taken: split the file");
  }

  Format format_;
  const Tokenizer& tokenizer_;
  int32_t separator_;
  int64_t max_tokens_;
  TokenStoreWriter ids_;
};

Status AddText(std::string_view text, Stream* stream) {
  const char* begin = nullptr;  // of the present document
  const char* end = nullptr;
  int64_t first = 0;  // its line
  const auto flush = [&] {
    const std::string_view document(begin, begin == nullptr ? 0 : static_cast<size_t>(end - begin));
    begin = nullptr;
    return document.empty() ? OkStatus() : stream->Add(document, first);
  };
  for (int64_t number = 1; !text.empty(); ++number) {
    const std::string_view line = NextLine(&text);
    if (IsBlank(line)) {
      HEDDLE_RETURN_IF_ERROR(flush());
      continue;
    }
    if (begin == nullptr) begin = line.data(), first = number;
    end = line.data() + line.size();
  }
  return flush();
}

Status AddJsonl(std::string_view text, Stream* stream) {
  for (int64_t number = 1; !text.empty(); ++number) {
    const std::string_view line = NextLine(&text);
    if (!IsBlank(line)) HEDDLE_RETURN_IF_ERROR(stream->Add(line, number));
  }
  return OkStatus();
}

Status AddFile(RecordReader reader, Stream* stream) {
  while (true) {
    HEDDLE_ASSIGN_OR_RETURN(const std::optional<Record> record, reader.Next());
    if (!record) return OkStatus();
    HEDDLE_RETURN_IF_ERROR(stream->Add(record->text, record->line));
  }
}

}  // namespace

Result<TextDataset> TextDataset::FromText(std::string_view text, Format format, const Tokenizer& tokenizer,
                                          int64_t sequence_length, LastWindow last) {
  if (sequence_length < 1) return InvalidArgument("sequence_length must be at least 1");
  Stream stream(format, tokenizer, {});
  HEDDLE_RETURN_IF_ERROR(format == Format::kJsonl ? AddJsonl(text, &stream) : AddText(text, &stream));
  HEDDLE_ASSIGN_OR_RETURN(std::shared_ptr<const TokenStore> store, stream.Finish(sequence_length, last));
  return TextDataset(std::move(store), sequence_length, last);
}

Result<TextDataset> TextDataset::Read(const std::filesystem::path& path, const Tokenizer& tokenizer,
                                      int64_t sequence_length, const TextLimits& limits, LastWindow last) {
  std::error_code error;
  if (!std::filesystem::exists(path, error))
    return NotFound("there is no " + path.string() + "; check the data's path");
  const std::string ending = path.extension().string();
  if (ending != ".txt" && ending != ".jsonl") {
    return InvalidArgument(path.string() + ": text must be a .txt or a .jsonl file, or of rows a .csv or a .tsv");
  }
  if (sequence_length < 1) return InvalidArgument("sequence_length must be at least 1");
  const bool text = ending == ".txt";
  RecordFormat framing;
  framing.kind = text ? RecordFormat::Kind::kParagraphs : RecordFormat::Kind::kLines;
  framing.max_bytes = limits.document_bytes;
  framing.skip_mark = !text;  // of a text it is a character like any other
  HEDDLE_ASSIGN_OR_RETURN(RecordReader reader, RecordReader::Open(path, framing));
  Stream stream(text ? Format::kText : Format::kJsonl, tokenizer, limits);
  if (const Status added = AddFile(std::move(reader), &stream); !added.ok()) return added.Annotate(path.string());
  Result<std::shared_ptr<const TokenStore>> store = stream.Finish(sequence_length, last);
  if (!store.ok()) return store.status().Annotate(path.string());
  return TextDataset(*std::move(store), sequence_length, last);
}

int64_t TextDataset::num_sequences() const {
  const int64_t predicted = num_tokens() - 1;
  const bool rest = last_ == LastWindow::kShort && predicted % sequence_length_ != 0;
  return predicted / sequence_length_ + (rest ? 1 : 0);
}

std::span<const int32_t> TextDataset::Sequence(int64_t index) const {
  HEDDLE_ASSERT(index >= 0 && index < num_sequences(), "no such sequence");
  const int64_t begin = index * sequence_length_;
  const int64_t predicted = std::min(sequence_length_, num_tokens() - 1 - begin);
  return ids().subspan(static_cast<size_t>(begin), static_cast<size_t>(predicted) + 1);
}

SampleOrder::SampleOrder(int64_t num_sequences, uint64_t seed) : seed_(seed) {
  HEDDLE_ASSERT(num_sequences > 0 && num_sequences <= std::numeric_limits<uint32_t>::max(), "sequences to choose from");
  order_.resize(static_cast<size_t>(num_sequences));
  Shuffle();
}

int64_t SampleOrder::Next() {
  if (position_ == order_.size()) {
    ++epoch_;
    Shuffle();
  }
  return order_[position_++];
}

void SampleOrder::Shuffle() {
  std::iota(order_.begin(), order_.end(), 0U);
  PhiloxStream random(seed_, epoch_);
  for (size_t i = order_.size() - 1; i > 0; --i) {
    std::swap(order_[i], order_[random.NextBelow(static_cast<uint32_t>(i + 1))]);
  }
  position_ = 0;
}

}  // namespace heddle::model
