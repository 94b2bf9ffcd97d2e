// The low-rank factors of a round's updates, on disk until the round is merged, module by module: a merge that needs
// all of them at once holds those of one module in memory, not those of 64 devices' whole adapters.
//
// Devices may have factors of fewer columns than the model's; what they do not have counts as zero. Thread-safety:
// Append from one thread at a time; all else beside itself.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "aggregation/aggregator.h"
#include "aggregation/low_rank/layout.h"
#include "aggregation/low_rank/scratch_file.h"
#include "common/digest.h"

namespace heddle::aggregation::low_rank {

class UpdateStore {
 public:
  // `pairs` must outlive the store. Errors: those of ScratchFile::Make.
  static Result<UpdateStore> Make(const std::vector<FactorPair>& pairs, const std::filesystem::path& folder);

  size_t size() const { return rows_.size(); }

  // Keeps the factors of an update that has all of them, lora_A [rank, k] and lora_B [d, rank] with 1 <= rank <= the
  // pair's (asserted). Errors: those of ScratchFile::Append; nothing has then changed.
  Status Append(const StateDict& update, const UpdateInfo& info);
  // Forgets the last one.
  void DropLast() { rows_.pop_back(); }

  // The rows in the order of their devices' names, whatever order they came in; of the same name (nobody named them) in
  // the order of their digests. Called once, before the rest. Errors: those of ScratchFile::Read.
  Status Sort();
  uint64_t num_examples(size_t row) const { return rows_[row].num_examples; }
  size_t rank(size_t row, size_t pair) const { return rows_[row].ranks[pair]; }

  // The factors that the device had after training, parent plus update: columns `at` .. `at` + rank of `into`, which
  // has the pair's d and k. Errors: those of ScratchFile::Read. May throw std::bad_alloc.
  Status Load(size_t row, size_t pair, size_t at, Product* into) const;

 private:
  struct Row {
    std::string device;
    uint64_t num_examples;
    uint64_t offset;              // of its first factor in the file
    std::vector<uint32_t> ranks;  // of each pair
    Sha256Digest digest;          // only of those whose name is not their own, and in Sort only
  };
  // Bytes of a row's factors of the pairs before this one.
  uint64_t BytesBefore(const Row& row, size_t pair) const;
  Result<Sha256Digest> DigestOf(const Row& row) const;
  UpdateStore(const std::vector<FactorPair>& pairs, ScratchFile file) : pairs_(&pairs), file_(std::move(file)) {}

  const std::vector<FactorPair>* pairs_;
  ScratchFile file_;
  std::vector<Row> rows_;
};

}  // namespace heddle::aggregation::low_rank
