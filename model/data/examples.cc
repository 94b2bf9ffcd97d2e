#include "model/data/examples.h"

#include <algorithm>
#include <numeric>

#include "common/assert.h"

namespace heddle::model {
namespace {

constexpr int64_t kExamplesLookedAt = 1000;  // for what a file is

// How the tokenizer begins and ends a text that a causal model is to continue; an end is always learned.
CausalEncoding CausalEncodingOf(const Tokenizer& tokenizer) {
  CausalEncoding encoding;
  const Result<Encoding> empty = tokenizer.EncodeText("");
  encoding.add_bos =
      empty.ok() && !empty->ids.empty() && tokenizer.bos_id() >= 0 && empty->ids[0] == tokenizer.bos_id();
  return encoding;
}

// A tokenizer's file may number types that the model has no embedding for.
Status CheckTypes(const std::vector<int32_t>& types, int64_t type_vocab_size) {
  const auto largest = std::max_element(types.begin(), types.end());
  if (largest == types.end() || *largest < type_vocab_size) return OkStatus();
  return InvalidArgument("the tokenizer gives token type " + std::to_string(*largest) +
                         ", but the model's type_vocab_size is " + std::to_string(type_vocab_size) +
                         ": use the tokenizer that belongs to this model");
}

bool IsUsualName(const std::string& name, size_t id) { return name == "LABEL_" + std::to_string(id); }

}  // namespace

int64_t Batch::NumTokens() const { return std::accumulate(tokens.mask.begin(), tokens.mask.end(), int64_t{0}); }

Result<bool> IsRunningText(const std::filesystem::path& data) {
  const std::string ending = data.extension().string();
  if (ending != ".jsonl") return ending == ".txt";
  TextOptions first_ones;
  first_ones.max_examples = kExamplesLookedAt;
  HEDDLE_ASSIGN_OR_RETURN(const TextRecords records, TextRecords::Open(data, first_ones));
  for (int64_t i = 0; i < records.size(); ++i) {
    const Result<TextExample> example = records.Read(i);
    if (!example.ok()) return example.status();
    if (example->spans.size() != 1 || !example->spans[0].learned) return false;
  }
  return true;
}

LabelMap LabelsOf(const ModelSpec& spec) {
  if (spec.num_labels == 1 && spec.head.task == Task::kSequenceClassification) return LabelMap::Numbers();
  bool own_names = false;
  for (size_t i = 0; i < spec.label_names.size(); ++i) own_names |= !IsUsualName(spec.label_names[i], i);
  if (own_names) {
    // Names that cannot be told apart are no names.
    if (Result<LabelMap> named = LabelMap::Named(spec.label_names); named.ok()) return *std::move(named);
  }
  return LabelMap::Classes(std::max<int64_t>(spec.num_labels, 1));
}

Result<std::shared_ptr<const Examples>> Examples::Open(const ModelSpec& spec,
                                                       std::shared_ptr<const Tokenizer> tokenizer,
                                                       const std::filesystem::path& model_folder,
                                                       const std::filesystem::path& data, Options options) {
  auto examples = std::shared_ptr<Examples>(new Examples());
  Examples& e = *examples;
  e.spec_ = spec;
  e.tokenizer_ = std::move(tokenizer);
  e.options_ = std::move(options);
  HEDDLE_ASSERT(e.options_.max_tokens >= 1, "a row has tokens");
  if (spec.head.task == Task::kNone) {
    return InvalidArgument(spec.architecture + " has no head to train or evaluate: take a model with one, such as " +
                           spec.architecture.substr(0, spec.architecture.rfind("Model")) + "ForSequenceClassification");
  }
  if (spec.TakesImages()) {
    HEDDLE_ASSIGN_OR_RETURN(e.preprocessing_, ReadImagePreprocessing(model_folder, spec));
    HEDDLE_ASSIGN_OR_RETURN(e.images_, ImageRecords::Open(data, e.preprocessing_.Takes(spec.patches), LabelsOf(spec)));
    return std::shared_ptr<const Examples>(std::move(examples));
  }
  HEDDLE_ASSERT(e.tokenizer_ != nullptr, "texts need a tokenizer");
  if (spec.head.task == Task::kMaskedLm && !e.options_.prompt) {
    const Tokenizer& t = *e.tokenizer_;
    if (t.special().mask < 0) {
      return InvalidArgument(model_folder.string() + ": the tokenizer has no mask token, which " + spec.architecture +
                             " needs");
    }
    e.masking_.mask_id = t.special().mask;
    e.masking_.vocab_size = std::min(t.vocab_size(), spec.vocab_size);
    for (int32_t id = 0; id < t.vocab_size(); ++id) {
      if (t.IsSpecial(id)) e.masking_.special_ids.push_back(id);
    }
  }
  if (spec.head.task == Task::kCausalLm) e.causal_ = CausalEncodingOf(*e.tokenizer_);
  if (spec.head.task == Task::kSequenceClassification) e.options_.text.labels = LabelsOf(spec);
  HEDDLE_ASSIGN_OR_RETURN(e.texts_, TextRecords::Open(data, e.options_.text));
  return std::shared_ptr<const Examples>(std::move(examples));
}

int64_t Examples::size() const { return images_ ? images_->size() : texts_->size(); }

Result<EncodedExample> Examples::Encode(int64_t index) const {
  HEDDLE_ASSERT(texts_.has_value(), "images are not encoded");
  HEDDLE_ASSIGN_OR_RETURN(const TextExample example, texts_->Read(index));
  if (options_.prompt) {
    Result<EncodedExample> encoded = options_.prompt->Encode(example, options_.max_tokens);
    return encoded.ok() ? std::move(encoded)
                        : encoded.status().Annotate(texts_->path().string() + ": line " + std::to_string(example.line));
  }
  if (spec_.head.task == Task::kCausalLm) return EncodeCausal(example, *tokenizer_, causal_);
  EncodeOptions cut;
  cut.max_length = options_.max_tokens;
  Result<Encoding> encoding = example.pair ? tokenizer_->EncodePair(example.text(), *example.pair, cut)
                                           : tokenizer_->EncodeText(example.text(), cut);
  if (encoding.ok() && encoding->ids.empty()) encoding = InvalidArgument("the text has no tokens");
  if (encoding.ok() && spec_.type_vocab_size > 1) {
    const Status fits = CheckTypes(encoding->type_ids, spec_.type_vocab_size);
    if (!fits.ok()) encoding = fits;
  }
  if (!encoding.ok()) {
    return encoding.status().Annotate(texts_->path().string() + ": line " + std::to_string(example.line));
  }
  EncodedExample encoded;
  encoded.ids = std::move(encoding->ids);
  if (spec_.type_vocab_size > 1) encoded.token_types = std::move(encoding->type_ids);
  encoded.label = example.label.value_or(0);
  return encoded;
}

Result<Batch> Examples::Rows(std::span<const int64_t> indices, uint64_t seed, uint64_t draw) const {
  HEDDLE_ASSERT(!indices.empty() && (spec_.head.task != Task::kCausalLm || options_.prompt),
                "rows of a model that takes rows");
  if (images_) return ImageRows(indices);
  std::vector<EncodedExample> encoded;
  for (const int64_t index : indices) {
    HEDDLE_ASSIGN_OR_RETURN(EncodedExample one, Encode(index));
    encoded.push_back(std::move(one));
  }
  Batch batch;
  batch.rows = static_cast<int64_t>(indices.size());
  // RoBERTa counts positions over what is not the model's padding.
  const bool given = spec_.pad_token_id >= 0;
  batch.tokens = PadRows(
      encoded, {.length = 0, .pad_id = given ? static_cast<int32_t>(spec_.pad_token_id) : tokenizer_->pad_id()});
  if (options_.prompt) {
    for (const EncodedExample& one : encoded) batch.answers.push_back(options_.prompt->AnswerOf(one));
    batch.words.assign(options_.prompt->words().begin(), options_.prompt->words().end());
  }
  if (spec_.head.task == Task::kMaskedLm && !options_.prompt) {
    MaskTokens(masking_, seed, draw, &batch.tokens);
  } else {
    batch.labels = batch.tokens.labels;
  }
  return batch;
}

Result<std::optional<double>> Examples::Label(int64_t index) const {
  if (images_) {
    HEDDLE_ASSIGN_OR_RETURN(const ImageExample image, images_->Read(index));
    return std::optional<double>(static_cast<double>(image.label));
  }
  HEDDLE_ASSIGN_OR_RETURN(const TextExample example, texts_->Read(index));
  return example.label;
}

int64_t Examples::num_classes() const {
  return images_ ? std::max<int64_t>(spec_.num_labels, 1) : options_.text.labels.num_classes();
}

Result<Batch> Examples::ImageRows(std::span<const int64_t> indices) const {
  Batch batch;
  batch.rows = static_cast<int64_t>(indices.size());
  const PatchSpec& p = spec_.patches;
  const auto values = static_cast<size_t>(p.channels * p.image_size * p.image_size);
  batch.pixels.resize(indices.size() * values);
  for (size_t row = 0; row < indices.size(); ++row) {
    HEDDLE_ASSIGN_OR_RETURN(ImageExample example, images_->Read(indices[row]));
    Result<Image> image = preprocessing_.Resized(std::move(example.image));
    if (!image.ok()) return image.status().Annotate("image " + std::to_string(indices[row] + 1) + " of the data");
    NormalizeImage(*image, preprocessing_.mean, preprocessing_.std,
                   std::span(batch.pixels).subspan(row * values, values));
    batch.labels.push_back(static_cast<double>(example.label));
  }
  return batch;
}

BatchStream::BatchStream(std::shared_ptr<const Examples> examples, int64_t rows, uint64_t seed, bool endless)
    : examples_(std::move(examples)), rows_(rows), seed_(seed), endless_(endless), order_(examples_->size(), seed) {
  HEDDLE_ASSERT(rows >= 1, "a batch has rows");
  if (examples_->spec().head.task == Task::kCausalLm && !examples_->prompt())
    packer_.emplace(rows, examples_->max_tokens());
}

BatchStream BatchStream::Training(std::shared_ptr<const Examples> examples, int64_t rows, uint64_t seed) {
  return {std::move(examples), rows, seed, true};
}

BatchStream BatchStream::Pass(std::shared_ptr<const Examples> examples, int64_t rows) {
  return {std::move(examples), rows, 0, false};
}

std::optional<int64_t> BatchStream::NextIndex() {
  if (endless_) return order_.At(position_++);
  if (position_ >= static_cast<uint64_t>(examples_->size())) return std::nullopt;
  return static_cast<int64_t>(position_++);
}

Result<std::optional<Batch>> BatchStream::NextPacked() {
  int64_t read = 0;
  while (!packer_->full()) {
    const std::optional<int64_t> index = NextIndex();
    if (!index) break;
    HEDDLE_ASSIGN_OR_RETURN(const EncodedExample document, examples_->Encode(*index));
    packer_->Add(document);
    document_tokens_ += document.ids.size();
    if (++read >= examples_->size() && packer_->empty()) {
      return InvalidArgument(
          "no example of the data has anything to learn: each needs two tokens, one of them learned");
    }
  }
  if (packer_->empty()) {
    if (batches_ > 0) return std::optional<Batch>();
    return InvalidArgument("no example of the data has anything to learn: each needs two tokens, one of them learned");
  }
  ++batches_;
  Batch batch;
  batch.tokens = packer_->Take();
  batch.rows = batch.tokens.rows;
  return std::optional<Batch>(std::move(batch));
}

Result<std::optional<Batch>> BatchStream::Next() {
  if (packer_) return NextPacked();
  std::vector<int64_t> indices;
  while (static_cast<int64_t>(indices.size()) < rows_) {
    const std::optional<int64_t> index = NextIndex();
    if (!index) break;
    indices.push_back(*index);
  }
  if (indices.empty()) return std::optional<Batch>();
  HEDDLE_ASSIGN_OR_RETURN(Batch batch, examples_->Rows(indices, seed_, batches_++));
  return std::optional<Batch>(std::move(batch));
}

}  // namespace heddle::model
