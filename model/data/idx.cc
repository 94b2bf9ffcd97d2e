#include "model/data/idx.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>

#include "common/assert.h"

namespace heddle::model {
namespace {

constexpr size_t kMaxDimensions = 4;
constexpr uint64_t kMaxBytes = uint64_t{16} << 30;
constexpr size_t kPiece = size_t{1} << 16;

// Fills `out` from `offset`; fewer bytes only at the end of the file.
Result<size_t> ReadAt(int fd, uint64_t offset, std::span<uint8_t> out) {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t got = ::pread(fd, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "reading");
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

// One gzip stream, piece by piece.
class Gunzip {
 public:
  explicit Gunzip(int fd) : fd_(fd), ready_(::inflateInit2(&stream_, 16 + MAX_WBITS) == Z_OK) {}
  ~Gunzip() {
    if (ready_) ::inflateEnd(&stream_);
  }
  Gunzip(const Gunzip&) = delete;
  Gunzip& operator=(const Gunzip&) = delete;

  // The next bytes, fewer than out.size() only at the stream's end.
  Result<size_t> Read(std::span<uint8_t> out) {
    if (!ready_) return ResourceExhausted("there is not enough memory to unpack it");
    stream_.next_out = out.data();
    stream_.avail_out = static_cast<uInt>(out.size());
    while (!ended_ && stream_.avail_out > 0) {
      if (stream_.avail_in == 0) {
        HEDDLE_ASSIGN_OR_RETURN(const size_t got, ReadAt(fd_, offset_, in_));
        if (got == 0) return InvalidArgument("the gzip data are cut short");
        offset_ += got;
        stream_.next_in = in_.data();
        stream_.avail_in = static_cast<uInt>(got);
      }
      const int result = ::inflate(&stream_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) {
        ended_ = true;
      } else if (result != Z_OK) {
        return InvalidArgument("the gzip data are damaged");
      }
    }
    return out.size() - stream_.avail_out;
  }

 private:
  int fd_;
  uint64_t offset_ = 0;
  std::array<uint8_t, kPiece> in_{};
  z_stream stream_{};
  bool ready_;
  bool ended_ = false;
};

// How many bytes came out; stops writing beyond `wanted`.
Result<uint64_t> UnpackInto(int fd, Gunzip& packed, uint64_t wanted) {
  std::vector<uint8_t> piece(kPiece);
  uint64_t total = 0;
  while (total <= wanted) {
    HEDDLE_ASSIGN_OR_RETURN(const size_t got, packed.Read(piece));
    total += got;
    if (total <= wanted) {
      const std::string_view bytes(reinterpret_cast<const char*>(piece.data()), got);
      HEDDLE_RETURN_IF_ERROR(WriteAll(fd, bytes, "unpacking into the folder for temporary files"));
    }
    if (got < piece.size()) break;
  }
  return total;
}

}  // namespace

Status IdxFile::CheckDataBytes(uint64_t found) const {
  if (found == static_cast<uint64_t>(size()) * item_bytes_) return OkStatus();
  return InvalidArgument("it is not as long as its header says: fetch it again");
}

Status IdxFile::ReadHeader(std::span<const uint8_t> head, size_t dimensions) {
  if (head.size() < 4 || head[0] != 0 || head[1] != 0 || head[2] != 8) {
    return InvalidArgument("it is no IDX file of unsigned bytes");
  }
  if (head[3] != dimensions || head.size() < 4 + 4 * dimensions) {
    return InvalidArgument("it has " + std::to_string(head[3]) + " dimensions, but must have " +
                           std::to_string(dimensions));
  }
  uint64_t items = 0, item_bytes = 1;
  for (size_t d = 0; d < dimensions; ++d) {
    uint64_t extent = 0;
    for (size_t i = 0; i < 4; ++i) extent = extent << 8 | head[4 + 4 * d + i];
    shape_.push_back(static_cast<int64_t>(extent));
    if (d == 0) {
      items = extent;
    } else if (extent > 0 && item_bytes > kMaxBytes / extent) {
      return InvalidArgument("its items are too large");
    } else {
      item_bytes *= extent;
    }
  }
  if (item_bytes > 0 && items > kMaxBytes / item_bytes) return InvalidArgument("it holds more than 16 GiB");
  item_bytes_ = item_bytes;
  data_offset_ = 4 + 4 * dimensions;
  return OkStatus();
}

Result<std::shared_ptr<const IdxFile>> IdxFile::Open(const std::filesystem::path& path, size_t dimensions,
                                                     const ShapeCheck& check) {
  HEDDLE_ASSERT(dimensions >= 1 && dimensions <= kMaxDimensions, "dimensions of an IDX file");
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, path.string());
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, path.string());
  if (!S_ISREG(info.st_mode)) return InvalidArgument(path.string() + " is not a regular file");
  auto file = std::shared_ptr<IdxFile>(new IdxFile(path, std::move(fd)));
  const auto read = [&]() -> Status {
    std::array<uint8_t, 4 + 4 * kMaxDimensions> room{};
    const std::span<uint8_t> head = std::span(room).first(4 + 4 * dimensions);
    HEDDLE_ASSIGN_OR_RETURN(size_t got, ReadAt(file->fd_.get(), 0, head));
    if (got < 2 || head[0] != 0x1F || head[1] != 0x8B) {
      HEDDLE_RETURN_IF_ERROR(file->ReadHeader(head.first(got), dimensions));
      if (check) HEDDLE_RETURN_IF_ERROR(check(file->shape_));
      return file->CheckDataBytes(static_cast<uint64_t>(info.st_size) - file->data_offset_);
    }
    const auto packed = std::make_unique<Gunzip>(file->fd_.get());
    HEDDLE_ASSIGN_OR_RETURN(got, packed->Read(head));
    HEDDLE_RETURN_IF_ERROR(file->ReadHeader(head.first(got), dimensions));
    if (check) HEDDLE_RETURN_IF_ERROR(check(file->shape_));
    const uint64_t wanted = static_cast<uint64_t>(file->size()) * file->item_bytes_;
    if (wanted > kMaxUnpackedBytes) {
      return InvalidArgument("it would unpack to " + std::to_string(wanted) + " bytes, but may to " +
                             std::to_string(kMaxUnpackedBytes) + " at most: unpack it with gunzip and name that file");
    }
    HEDDLE_ASSIGN_OR_RETURN(UniqueFd plain, OpenNamelessFile());
    HEDDLE_ASSIGN_OR_RETURN(const uint64_t unpacked, UnpackInto(plain.get(), *packed, wanted));
    file->fd_ = std::move(plain);
    file->data_offset_ = 0;
    return file->CheckDataBytes(unpacked);
  };
  if (const Status status = read(); !status.ok()) return status.Annotate(path.string());
  return std::shared_ptr<const IdxFile>(std::move(file));
}

Status IdxFile::ReadItem(int64_t index, std::span<uint8_t> out) const {
  HEDDLE_ASSERT(index >= 0 && index < size() && out.size() == item_bytes_, "an item of the file");
  const Result<size_t> got = ReadAt(fd_.get(), data_offset_ + static_cast<uint64_t>(index) * item_bytes_, out);
  if (!got.ok()) return got.status().Annotate(path_.string());
  if (*got != out.size()) {
    return DataLoss(path_.string() + " was changed while it was read: start again when it is complete");
  }
  return OkStatus();
}

}  // namespace heddle::model
