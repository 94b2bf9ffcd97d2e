#include "model/data/text_dataset.h"

#include <boost/json.hpp>
#include <limits>
#include <numeric>
#include <string>

#include "common/assert.h"
#include "common/file.h"
#include "common/random.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr size_t kMaxFileBytes = size_t{1} << 30;

// Collects the documents' ids into one stream.
class Stream {
 public:
  explicit Stream(const Tokenizer& tokenizer)
      : tokenizer_(tokenizer), separator_(tokenizer.eos_id() >= 0 ? tokenizer.eos_id() : tokenizer.bos_id()) {}
  void Add(std::string_view document) {
    if (document.empty()) return;
    if (!ids_.empty() && separator_ >= 0) ids_.push_back(separator_);
    const std::vector<int32_t> ids = tokenizer_.Encode(document);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }
  std::vector<int32_t> Take() { return std::move(ids_); }

 private:
  const Tokenizer& tokenizer_;
  int32_t separator_;
  std::vector<int32_t> ids_;
};

std::string_view NextLine(std::string_view* text) {
  const size_t end = text->find('\n');
  std::string_view line = text->substr(0, end);
  text->remove_prefix(end == std::string_view::npos ? text->size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

bool IsBlank(std::string_view line) { return line.find_first_not_of(" \t\r\f\v") == std::string_view::npos; }

void AddTextDocuments(std::string_view text, Stream* stream) {
  const char* begin = nullptr;  // of the present document
  const char* end = nullptr;
  while (!text.empty()) {
    const std::string_view line = NextLine(&text);
    if (!IsBlank(line)) {
      if (begin == nullptr) begin = line.data();
      end = line.data() + line.size();
    } else if (begin != nullptr) {
      stream->Add({begin, static_cast<size_t>(end - begin)});
      begin = nullptr;
    }
  }
  if (begin != nullptr) stream->Add({begin, static_cast<size_t>(end - begin)});
}

Result<std::string> JsonlDocument(std::string_view line, size_t number) {
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
  if (prompt == nullptr || completion == nullptr) {
    return InvalidArgument(where + " must be a JSON object with the string \"text\", or \"prompt\" and \"completion\"");
  }
  return std::string(*prompt) + std::string(*completion);
}

Status AddJsonlDocuments(std::string_view text, Stream* stream) {
  for (size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = NextLine(&text);
    if (IsBlank(line)) continue;
    HEDDLE_ASSIGN_OR_RETURN(const std::string document, JsonlDocument(line, number));
    stream->Add(document);
  }
  return OkStatus();
}

}  // namespace

Result<TextDataset> TextDataset::FromText(std::string_view text, Format format, const Tokenizer& tokenizer,
                                          int64_t sequence_length) {
  if (sequence_length < 1) return InvalidArgument("sequence_length must be at least 1");
  Stream stream(tokenizer);
  if (format == Format::kJsonl) {
    HEDDLE_RETURN_IF_ERROR(AddJsonlDocuments(text, &stream));
  } else {
    AddTextDocuments(text, &stream);
  }
  TextDataset dataset;
  dataset.sequence_length_ = sequence_length;
  dataset.ids_ = stream.Take();
  if (dataset.num_tokens() <= sequence_length) {
    return InvalidArgument("the data has " + std::to_string(dataset.num_tokens()) +
                           " tokens, but one sequence needs sequence_length + 1 = " +
                           std::to_string(sequence_length + 1) + ": add text or lower sequence_length");
  }
  return dataset;
}

Result<TextDataset> TextDataset::Read(const std::filesystem::path& path, const Tokenizer& tokenizer,
                                      int64_t sequence_length) {
  const std::string ending = path.extension().string();
  if (ending != ".txt" && ending != ".jsonl") {
    return InvalidArgument(path.string() + ": training data must be a .txt or a .jsonl file");
  }
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  Result<TextDataset> dataset =
      FromText(text, ending == ".txt" ? Format::kText : Format::kJsonl, tokenizer, sequence_length);
  if (!dataset.ok()) return dataset.status().Annotate(path.string());
  return dataset;
}

int64_t TextDataset::num_sequences() const { return (num_tokens() - 1) / sequence_length_; }

std::span<const int32_t> TextDataset::Sequence(int64_t index) const {
  HEDDLE_ASSERT(index >= 0 && index < num_sequences(), "no such sequence");
  return std::span(ids_).subspan(static_cast<size_t>(index * sequence_length_),
                                 static_cast<size_t>(sequence_length_) + 1);
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
  std::iota(order_.begin(), order_.end(), int64_t{0});
  PhiloxStream random(seed_, epoch_);
  for (size_t i = order_.size() - 1; i > 0; --i) {
    std::swap(order_[i], order_[random.NextBelow(static_cast<uint32_t>(i + 1))]);
  }
  position_ = 0;
}

}  // namespace heddle::model
