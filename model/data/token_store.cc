#include "model/data/token_store.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "common/assert.h"

namespace heddle::model {
namespace {

Status Told(const Status& status) {
  return status.Annotate("the temporary file for a long text's tokens (TMPDIR chooses its folder)");
}

}  // namespace

TokenStore::~TokenStore() {
  if (mapping_ != nullptr) ::munmap(mapping_, ids_.size_bytes());
}

TokenStoreWriter::TokenStoreWriter(size_t max_in_memory) : max_in_memory_(max_in_memory) {
  HEDDLE_ASSERT(max_in_memory >= 1, "a buffer has room");
}

Status TokenStoreWriter::Append(std::span<const int32_t> ids) {
  while (!ids.empty()) {
    if (buffer_.size() == max_in_memory_) HEDDLE_RETURN_IF_ERROR(Flush());
    const auto part = ids.first(std::min(ids.size(), max_in_memory_ - buffer_.size()));
    buffer_.insert(buffer_.end(), part.begin(), part.end());
    ids = ids.subspan(part.size());
  }
  return OkStatus();
}

Status TokenStoreWriter::Flush() {
  if (!fd_.valid()) {
    Result<UniqueFd> fd = OpenNamelessFile();
    if (!fd.ok()) return Told(fd.status());
    fd_ = *std::move(fd);
  }
  const std::string_view bytes(reinterpret_cast<const char*>(buffer_.data()), buffer_.size() * sizeof(int32_t));
  if (Status status = WriteAll(fd_.get(), bytes, "writing"); !status.ok()) return Told(status);
  written_ += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
  return OkStatus();
}

Result<std::shared_ptr<const TokenStore>> TokenStoreWriter::Finish() {
  auto store = std::shared_ptr<TokenStore>(new TokenStore());
  if (!fd_.valid()) {
    store->memory_ = std::move(buffer_);
    store->memory_.shrink_to_fit();
    store->ids_ = store->memory_;
    return std::shared_ptr<const TokenStore>(std::move(store));
  }
  HEDDLE_RETURN_IF_ERROR(Flush());
  const auto count = static_cast<size_t>(written_);
  void* mapping = ::mmap(nullptr, count * sizeof(int32_t), PROT_READ, MAP_SHARED, fd_.get(), 0);
  if (mapping == MAP_FAILED) return Told(ErrnoStatus(errno, "mapping"));
  store->mapping_ = mapping;
  store->ids_ = {static_cast<const int32_t*>(mapping), count};
  return std::shared_ptr<const TokenStore>(std::move(store));
}

}  // namespace heddle::model
