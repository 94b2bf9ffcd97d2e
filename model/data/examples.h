// A device's data as a model's head takes it: which file format is read and what becomes of an example follows from the
// head.
//
//   head                      data                                             batch
//   causal language model     texts, completions, conversations                packed rows, targets of the next token
//   masked language model     texts                                            padded rows, masked tokens
//   sequence classification   texts or pairs with labels                       padded rows, labels
//   image classification      an IDX pair, or a folder of classes              pixels, labels
//   language model, prompted  texts or pairs with labels                       padded rows, labels, where the answer is
//
// Free of LibTorch. Examples are immutable and thread-safe; a BatchStream belongs to one thread.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/status.h"
#include "model/config/model_spec.h"
#include "model/data/batch.h"
#include "model/data/image_preprocessing.h"
#include "model/data/image_records.h"
#include "model/data/prompt.h"
#include "model/data/record_order.h"
#include "model/data/text_records.h"
#include "model/tokenizer/tokenizer.h"

namespace heddle::model {

struct Batch {
  int64_t rows = 0;
  TokenBatch tokens;             // of texts
  std::vector<float> pixels;     // of images: [rows, channels, height, width]
  std::vector<double> labels;    // of classifiers: class numbers, or numbers where the model has one label
  std::vector<int64_t> answers;  // with a prompt: the column of each row that answers
  std::vector<int64_t> words;    // with a prompt: the token of each class
  int64_t NumTokens() const;     // without padding; of images 0
};

class Examples {
 public:
  struct Options {
    // Of a row of text: longer ones are cut (causal models: go on in another row). From 1 to what the model takes.
    int64_t max_tokens = 128;
    // How fields are called, and so on; its labels are set from the model, or are those of the prompt.
    TextOptions text;
    // Makes a classifier of a language model, with text.labels as its classes.
    std::optional<Prompt> prompt;
  };
  // `tokenizer` may be null for models of images. `model_folder` says how images are resized and normalised. Errors:
  // those of TextRecords::Open, ImageRecords::Open and ReadImagePreprocessing; kInvalidArgument: the model has no head,
  // the tokenizer no mask token where one is needed.
  static Result<std::shared_ptr<const Examples>> Open(const ModelSpec& spec, std::shared_ptr<const Tokenizer> tokenizer,
                                                      const std::filesystem::path& model_folder,
                                                      const std::filesystem::path& data, Options options);

  int64_t size() const;
  const ModelSpec& spec() const { return spec_; }
  int64_t max_tokens() const { return options_.max_tokens; }
  // The text of one example, encoded for the head. Not for images. Errors: those of TextRecords::Read and of the
  // tokenizer, with file and line; kInvalidArgument: a token type that the model does not have.
  Result<EncodedExample> Encode(int64_t index) const;
  // These examples as a batch, in this order; `draw` says which tokens are masked, with the seed. Not for causal
  // models, whose examples are packed by BatchStream. Errors: those of Encode and ImageRecords::Read.
  Result<Batch> Rows(std::span<const int64_t> indices, uint64_t seed, uint64_t draw) const;
  // The label that the data give an example; none where the options allow that. Not for models of words without a
  // prompt. Errors: those of TextRecords::Read and ImageRecords::Read.
  Result<std::optional<double>> Label(int64_t index) const;
  // Classes that there are to choose from; 0 where the labels are numbers or words.
  int64_t num_classes() const;
  const std::optional<Prompt>& prompt() const { return options_.prompt; }

 private:
  Examples() = default;
  Result<Batch> ImageRows(std::span<const int64_t> indices) const;

  ModelSpec spec_;
  Options options_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<TextRecords> texts_;
  std::shared_ptr<const ImageRecords> images_;
  ImagePreprocessing preprocessing_;
  CausalEncoding causal_;
  TokenMasking masking_;
};

// Whether a file is texts all of which are to be learned (.txt, or .jsonl each of whose first 1000 examples is one
// text): what TextDataset reads as one stream. Errors: those of TextRecords::Open.
Result<bool> IsRunningText(const std::filesystem::path& data);

// What the labels of a model's data mean: its label_names, unless they are Hugging Face's "LABEL_0" and so on; numbers
// from 0; or, with one label, any real number.
LabelMap LabelsOf(const ModelSpec& spec);

// Batches of examples, one after the other.
class BatchStream {
 public:
  // For training: without end, each epoch in an order of its own that depends on the seed and on how many examples
  // there are. rows: at least 1.
  static BatchStream Training(std::shared_ptr<const Examples> examples, int64_t rows, uint64_t seed);
  // For evaluation: once, in the file's order; the last batch may have fewer rows.
  static BatchStream Pass(std::shared_ptr<const Examples> examples, int64_t rows);

  // Nothing after the last batch of a pass. Errors: those of Examples; kInvalidArgument when no example of the data has
  // anything to learn.
  Result<std::optional<Batch>> Next();
  // Of causal models: the tokens of the examples that Next has read so far, special ones and those that nothing
  // predicts included. Else 0.
  uint64_t document_tokens() const { return document_tokens_; }

 private:
  BatchStream(std::shared_ptr<const Examples> examples, int64_t rows, uint64_t seed, bool endless);
  std::optional<int64_t> NextIndex();
  Result<std::optional<Batch>> NextPacked();

  std::shared_ptr<const Examples> examples_;
  int64_t rows_;
  uint64_t seed_;
  bool endless_;
  RecordOrder order_;
  uint64_t position_ = 0, batches_ = 0, document_tokens_ = 0;
  std::optional<SequencePacker> packer_;  // of causal models
};

}  // namespace heddle::model
