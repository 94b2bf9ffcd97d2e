// What tasks share (see local_task.h): each base model and tokenizer is loaded once and kept, tokenized data sets as
// long as there is room.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <filesystem>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "client/worker/front_memory.h"
#include "client/worker/ledger_replay.h"
#include "client/worker/local_task.h"
#include "model/data/examples.h"
#include "model/data/text_dataset.h"
#include "model/tokenizer/tokenizer.h"
#include "model/weights/base_weights.h"

namespace heddle::client {

// How examples are read, beside the names of their fields.
struct ReadingForm {
  bool some_unlabelled = false;          // examples may be without a label
  std::optional<PromptSettings> prompt;  // a language model answers for the classes
};

// Thread-safe. A base model is known by its folder and its files' sizes and times, a text by its file's, so what
// changes on disk is read again.
class TaskResources {
 public:
  // Data sets are kept until they hold more than `max_kept_tokens` together (4 bytes a token); those that were not used
  // for the longest time go first, and the latest always stays.
  explicit TaskResources(uint64_t max_kept_tokens = uint64_t{1} << 26) : max_kept_tokens_(max_kept_tokens) {}

  struct Base {
    std::shared_ptr<const model::BaseWeights> weights;
    std::shared_ptr<const model::Tokenizer> tokenizer;  // null for a model of images
    std::filesystem::path folder;
    uint64_t serial = 0;  // of the folder as it was read: another for each that was
  };
  // One folder is kept at a time, in each form that it was asked for. Errors: those of BaseWeights::Load and
  // Tokenizer::Read; kInvalidArgument when they do not fit together.
  Result<Base> GetBase(const std::filesystem::path& folder, const model::WeightOptions& options = {});
  // The file in ids of the base's tokenizer. Errors: those of TextDataset::Read.
  Result<std::shared_ptr<const model::TextDataset>> GetData(const std::filesystem::path& path, const Base& base,
                                                            uint32_t sequence_length,
                                                            model::LastWindow last = model::LastWindow::kLeftOut);
  // The file or folder as examples for the base's head, with these names of its fields. Kept are the latest
  // kMaxExamples of them (the index of one takes at most 8 MiB). Errors: those of model::Examples::Open;
  // kInvalidArgument for a sequence_length the model does not take; those of model::Prompt::Make.
  Result<std::shared_ptr<const model::Examples>> GetExamples(const std::filesystem::path& path, const Base& base,
                                                             uint32_t sequence_length, const DataFields& fields = {},
                                                             const ReadingForm& form = {});

  // Of runs with shared seeds.
  LedgerCache& ledgers() { return ledgers_; }
  // Of frozen layers; no more than the latest task allows.
  FrontMemory& fronts() { return fronts_; }

 private:
  static constexpr size_t kMaxExamples = 64;
  struct Data {
    std::string identity;                               // of file, tokenizer, length and last window
    std::shared_ptr<const model::Tokenizer> tokenizer;  // kept, so that no other can have its address
    std::shared_ptr<const model::TextDataset> dataset;
  };
  std::shared_ptr<const model::TextDataset> FindData(const std::string& identity);

  const uint64_t max_kept_tokens_;
  std::mutex mutex_;
  std::string folder_;                 // identity of the folder that bases_ are of
  std::map<std::string, Base> bases_;  // by the form of the weights; all with one tokenizer
  uint64_t serial_ = 0;                // of folder_
  std::list<Data> data_;               // the latest used first
  // By identity of file, folder and length; the latest used first.
  std::list<std::pair<std::string, std::shared_ptr<const model::Examples>>> examples_;
  uint64_t kept_tokens_ = 0;
  LedgerCache ledgers_;
  FrontMemory fronts_;
};

// Identity of a file: path, size, time of change. Empty when there is none.
std::string FileIdentity(const std::filesystem::path& path);

}  // namespace heddle::client
