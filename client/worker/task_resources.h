// What tasks share (see local_task.h): each base model, tokenizer and tokenized data set is loaded once and kept.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>

#include "client/worker/local_task.h"
#include "model/data/text_dataset.h"
#include "model/llama/llama.h"
#include "model/tokenizer/tokenizer.h"

namespace heddle::client {

// Thread-safe. A base model is known by its folder and its files' sizes and times, so a folder that changes is read
// again.
class TaskResources {
 public:
  struct Base {
    std::shared_ptr<const model::BaseWeights> weights;
    std::shared_ptr<const model::Tokenizer> tokenizer;
  };
  // Errors: those of BaseWeights::Load and Tokenizer::Read; kInvalidArgument when they do not fit together.
  Result<Base> GetBase(const std::filesystem::path& folder);
  // Errors: those of TextDataset::Read.
  Result<std::shared_ptr<const model::TextDataset>> GetData(const std::filesystem::path& path,
                                                            const model::Tokenizer& tokenizer,
                                                            uint32_t sequence_length);

 private:
  std::mutex mutex_;
  std::map<std::string, Base> bases_;                                      // by identity of the folder
  std::map<std::string, std::shared_ptr<const model::TextDataset>> data_;  // by identity of file, tokenizer and length
};

// Identity of a file: path, size, time of change. Empty when there is none.
std::string FileIdentity(const std::filesystem::path& path);

}  // namespace heddle::client
