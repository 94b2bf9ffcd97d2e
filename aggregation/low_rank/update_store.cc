#include "aggregation/low_rank/update_store.h"

#include <algorithm>
#include <tuple>

#include "common/assert.h"

namespace heddle::aggregation::low_rank {

Result<UpdateStore> UpdateStore::Make(const std::vector<FactorPair>& pairs, const std::filesystem::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(ScratchFile file, ScratchFile::Make(folder));
  return UpdateStore(pairs, std::move(file));
}

Status UpdateStore::Append(const StateDict& update, const UpdateInfo& info) {
  Row row{info.device, info.num_examples, file_.size(), {}, {}};
  row.ranks.reserve(pairs_->size());
  for (const FactorPair& pair : *pairs_) {
    const Tensor &a = update.at(pair.a_key), &b = update.at(pair.b_key);
    const auto rank = static_cast<size_t>(a.shape()[0]);
    HEDDLE_ASSERT(rank >= 1 && rank <= pair.rank && static_cast<size_t>(b.shape()[1]) == rank,
                  "updates are checked before they are kept");
    row.ranks.push_back(static_cast<uint32_t>(rank));
    for (const Tensor* factor : {&a, &b}) HEDDLE_RETURN_IF_ERROR(file_.Append(factor->bytes()).status());
  }
  rows_.push_back(std::move(row));
  return OkStatus();
}

Status UpdateStore::Sort() {
  const auto order = [](const Row& a, const Row& b) {
    return std::tie(a.device, a.num_examples, a.ranks, a.digest) <
           std::tie(b.device, b.num_examples, b.ranks, b.digest);
  };
  std::sort(rows_.begin(), rows_.end(), order);
  for (size_t i = 0; i < rows_.size(); ++i) {
    const bool shared = (i > 0 && rows_[i - 1].device == rows_[i].device) ||
                        (i + 1 < rows_.size() && rows_[i + 1].device == rows_[i].device);
    if (!shared) continue;
    HEDDLE_ASSIGN_OR_RETURN(rows_[i].digest, DigestOf(rows_[i]));
  }
  std::sort(rows_.begin(), rows_.end(), order);
  return OkStatus();
}

uint64_t UpdateStore::BytesBefore(const Row& row, size_t pair) const {
  uint64_t bytes = 0;
  for (size_t i = 0; i < pair; ++i) bytes += uint64_t{row.ranks[i]} * ((*pairs_)[i].d + (*pairs_)[i].k) * sizeof(float);
  return bytes;
}

Result<Sha256Digest> UpdateStore::DigestOf(const Row& row) const {
  Sha256Hasher hasher;
  std::vector<std::byte> piece(size_t{1} << 20);
  uint64_t left = BytesBefore(row, pairs_->size()), at = row.offset;
  while (left > 0) {
    const std::span<std::byte> part = std::span(piece).first(std::min<uint64_t>(left, piece.size()));
    HEDDLE_RETURN_IF_ERROR(file_.Read(at, part));
    hasher.Update(part);
    at += part.size();
    left -= part.size();
  }
  return hasher.Finish();
}

Status UpdateStore::Load(size_t row_index, size_t pair_index, size_t at, Product* into) const {
  const Row& row = rows_[row_index];
  const uint64_t offset = row.offset + BytesBefore(row, pair_index);
  const FactorPair& pair = (*pairs_)[pair_index];
  const size_t rank = row.ranks[pair_index];
  HEDDLE_ASSERT(into->left.rows() == pair.d && into->right.rows() == pair.k && at + rank <= into->rank(),
                "there is room for the factors");
  std::vector<float> update(rank * (pair.d + pair.k));
  HEDDLE_RETURN_IF_ERROR(file_.Read(offset, std::as_writable_bytes(std::span(update))));
  const std::span<const float> a = pair.a.values<float>(), b = pair.b.values<float>();
  double* right = into->right.data() + at * pair.k;
  for (size_t i = 0; i < rank * pair.k; ++i) right[i] = static_cast<double>(a[i]) + static_cast<double>(update[i]);
  const float* of_b = update.data() + rank * pair.k;
  for (size_t i = 0; i < pair.d; ++i) {
    for (size_t n = 0; n < rank; ++n) {
      into->left(i, at + n) = static_cast<double>(b[i * pair.rank + n]) + static_cast<double>(of_b[i * rank + n]);
    }
  }
  return OkStatus();
}

}  // namespace heddle::aggregation::low_rank
