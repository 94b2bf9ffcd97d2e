// A byte that says how, then any bytes as a data file: each record is refused with its line, or an example in valid
// UTF-8 with a label in range; an index with few marks finds the same records as one with many; and as running text the
// file gives the ids, or the refusal, that its bytes in memory give.
#include "model/data/text_records.h"

#include <algorithm>

#include "model/data/text_dataset.h"
#include "model/data/utf8.h"
#include "model/tokenizer/bpe_trainer.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/scratch.h"

using heddle::fuzz::Require;
using namespace heddle::model;

namespace {

void CheckIndex(const std::filesystem::path& path, RecordFormat format) {
  const auto many = RecordFile::Open(path, format, 4096);
  const auto few = RecordFile::Open(path, format, 2);
  Require(many.ok() == few.ok(), "marks do not change what is legal");
  if (!many.ok()) return;
  Require((*many)->size() == (*few)->size(), "nor how many records there are");
  int64_t line = 0;
  for (int64_t i = 0; i < std::min<int64_t>((*many)->size(), 64); ++i) {
    const auto a = (*many)->Read(i), b = (*few)->Read(i);
    Require(a.ok() && b.ok(), "what was indexed can be read");
    Require(a->text == b->text && a->line == b->line, "it is the same record");
    Require(a->line > line, "lines go up");
    line = a->line;
  }
}

void CheckExample(const TextExample& example, const TextOptions& options) {
  Require(!example.spans.empty(), "an example has text");
  for (const TextSpan& span : example.spans) {
    Require(FirstInvalidUtf8(span.text) == span.text.size(), "texts are UTF-8", span.text);
  }
  Require(example.label.has_value() == (options.labels.kind() != LabelMap::Kind::kNone), "labels when asked for");
  if (options.labels.kind() == LabelMap::Kind::kClass) {
    Require(*example.label >= 0 && *example.label < static_cast<double>(options.labels.num_classes()), "in range");
  }
}

void CheckRunningText(const heddle::fuzz::Scratch& scratch, std::string_view bytes, bool text) {
  static const std::shared_ptr<const Tokenizer> tokenizer = *Tokenizer::FromJson(*BpeTrainer().Train({}));
  if (!text && bytes.starts_with("\xEF\xBB\xBF")) return;  // a file of JSON may begin with a mark
  const auto path = scratch.Write(text ? "data.txt" : "data.jsonl", bytes);
  TextLimits limits;
  limits.tokens_in_memory = 16;
  const auto file = TextDataset::Read(path, *tokenizer, 1, limits);
  const auto format = text ? TextDataset::Format::kText : TextDataset::Format::kJsonl;
  const auto memory = TextDataset::FromText(bytes, format, *tokenizer, 1);
  Require(file.ok() == memory.ok(), "a file is as legal as its bytes");
  if (file.ok()) {
    Require(std::ranges::equal(file->ids(), memory->ids()), "and has their ids");
  } else {
    Require(std::string(file.status().message()).ends_with(memory.status().message()), "or is refused alike");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const heddle::fuzz::Scratch scratch;
  heddle::fuzz::Input input(data, size);
  const uint8_t how = input.TakeByte();
  const std::filesystem::path path = scratch.Write("data", input.rest());
  constexpr TextFormat kFormats[] = {TextFormat::kText, TextFormat::kJsonl, TextFormat::kCsv, TextFormat::kTsv};
  constexpr RecordFormat::Kind kKinds[] = {RecordFormat::Kind::kParagraphs, RecordFormat::Kind::kLines,
                                           RecordFormat::Kind::kQuotedRows, RecordFormat::Kind::kLines};
  TextOptions options;
  options.format = kFormats[how & 3];
  if ((how & 12) == 4) options.labels = LabelMap::Classes(3);
  if ((how & 12) == 8) options.labels = *LabelMap::Named({"no", "yes"});
  if ((how & 12) == 12) options.labels = LabelMap::Numbers();
  if ((how & 16) != 0) options.columns = {"label", "title", "text"};
  if ((how & 32) != 0) options.text_fields = {"title", "text"};
  CheckIndex(path, {kKinds[how & 3], ','});
  if ((how & 3) < 2) CheckRunningText(scratch, input.rest(), (how & 3) == 0);
  const auto records = TextRecords::Open(path, options);
  if (!records.ok()) {
    Require(records.status().code() == heddle::Code::kInvalidArgument, "a bad file is an invalid argument");
    Require(records.status().message().find("data") != std::string::npos, "the file is named");
    return 0;
  }
  for (int64_t i = 0; i < std::min<int64_t>(records->size(), 64); ++i) {
    const auto example = records->Read(i);
    if (example.ok()) {
      CheckExample(*example, options);
    } else {
      Require(example.status().message().find("line ") != std::string::npos, "a bad record is told with its line");
    }
  }
  return 0;
}
