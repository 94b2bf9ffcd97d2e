// What frozen fronts (frozen_front.h) have made of examples, kept in a process for the tasks to come.
//
// Thread-safe. The tensors are shared and must not be changed. Include only from translation units of targets with
// TORCH.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <list>
#include <mutex>
#include <string>
#include <unordered_map>

#include "common/digest.h"

namespace heddle::client {

class FrontMemory {
 public:
  // Undefined when it is not there. A front that is asked for counts as used.
  torch::Tensor Find(const std::string& front, const Sha256Digest& example);
  // Keeps it if there is room for it in `limit` bytes together with the rest, from which fronts that were not used for
  // the longest time go first. Of the front itself nothing goes: of examples that come in turn, those that have just
  // gone would be the next to be asked for.
  void Keep(const std::string& front, const Sha256Digest& example, const torch::Tensor& stream, uint64_t limit);
  // Lets whole fronts go until no more than so many bytes are kept.
  void Shrink(uint64_t limit);

  uint64_t bytes() const;
  uint64_t found() const;  // that Find has given, so far

 private:
  struct Front {
    std::string identity;
    std::unordered_map<Sha256Digest, torch::Tensor> examples;
    uint64_t bytes = 0;
  };
  Front* Use(const std::string& identity);

  mutable std::mutex mutex_;
  std::list<Front> fronts_;  // the latest used first
  uint64_t bytes_ = 0, found_ = 0;
};

}  // namespace heddle::client
