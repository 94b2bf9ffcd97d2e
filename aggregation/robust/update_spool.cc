#include "aggregation/robust/update_spool.h"

#include <algorithm>
#include <string_view>

#include "aggregation/file_io.h"
#include "common/assert.h"

namespace heddle::aggregation {
namespace {

constexpr size_t kPiece = size_t{1} << 20;  // bytes of one write, so that many small tensors are not many calls

constexpr std::string_view kName = "the file of a round's updates";

}  // namespace

Result<UpdateSpool> UpdateSpool::Make(const std::filesystem::path& folder, const StateDictSpec& spec) {
  size_t columns = 0;
  for (const auto& [name, tensor] : spec) {
    HEDDLE_ASSIGN_OR_RETURN(const int64_t elements, NumElements(tensor.shape));
    columns += static_cast<size_t>(elements);
  }
  HEDDLE_ASSIGN_OR_RETURN(UniqueFd file, OpenNamelessFile(folder));
  return UpdateSpool(std::move(file), columns);
}

Status UpdateSpool::Append(const StateDict& update) {
  HEDDLE_ASSERT(TotalBytes(update) == columns_ * sizeof(float), "a spool's updates have its spec");
  std::vector<std::byte> piece;
  piece.reserve(std::min(kPiece, columns_ * sizeof(float)));
  size_t offset = rows_ * columns_ * sizeof(float);
  for (const auto& [name, tensor] : update) {
    std::span<const std::byte> bytes = tensor.bytes();
    while (!bytes.empty()) {
      const size_t taken = std::min(bytes.size(), kPiece - piece.size());
      piece.insert(piece.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken));
      bytes = bytes.subspan(taken);
      if (piece.size() < kPiece) continue;
      HEDDLE_RETURN_IF_ERROR(WriteAt(file_.get(), piece, offset, kName));
      offset += piece.size();
      piece.clear();
    }
  }
  HEDDLE_RETURN_IF_ERROR(WriteAt(file_.get(), piece, offset, kName));
  ++rows_;
  return OkStatus();
}

Status UpdateSpool::Read(std::span<const size_t> rows, size_t begin, size_t count, std::span<float> out) const {
  HEDDLE_ASSERT(begin <= columns_ && count <= columns_ - begin && out.size() == rows.size() * count,
                "what is read of a spool is in it");
  for (size_t k = 0; k < rows.size(); ++k) {
    HEDDLE_ASSERT(rows[k] < rows_, "what is read of a spool is in it");
    const auto part = std::as_writable_bytes(out.subspan(k * count, count));
    HEDDLE_RETURN_IF_ERROR(ReadAt(file_.get(), part, (rows[k] * columns_ + begin) * sizeof(float), kName));
  }
  return OkStatus();
}

}  // namespace heddle::aggregation
