#include "simulator/partition/example_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "common/file.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;

// Bytes into a new file, a piece at a time.
class BufferedFile {
 public:
  static Result<BufferedFile> Create(fs::path path) {
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!fd.valid()) return ErrnoStatus(errno, "cannot write " + path.string());
    return BufferedFile(std::move(path), std::move(fd));
  }
  const fs::path& path() const { return path_; }
  Status Add(std::string_view bytes) {
    buffer_ += bytes;
    return buffer_.size() < kPiece ? OkStatus() : Flush();
  }
  Status Flush() {
    HEDDLE_RETURN_IF_ERROR(WriteAll(fd_.get(), buffer_, "cannot write " + path_.string()));
    buffer_.clear();
    return OkStatus();
  }
  // Over the first bytes of what was flushed.
  Status Rewrite(std::string_view head) {
    if (::lseek(fd_.get(), 0, SEEK_SET) != 0) return ErrnoStatus(errno, "cannot write " + path_.string());
    return WriteAll(fd_.get(), head, "cannot write " + path_.string());
  }

 private:
  static constexpr size_t kPiece = size_t{1} << 18;
  BufferedFile(fs::path path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  fs::path path_;
  UniqueFd fd_;
  std::string buffer_;
};

class LineFile final : public ExampleFile {
 public:
  explicit LineFile(BufferedFile file) : file_(std::move(file)) {}
  const fs::path& path() const override { return file_.path(); }
  Status Add(std::string_view example) override {
    HEDDLE_RETURN_IF_ERROR(file_.Add(example));
    return file_.Add("\n");
  }
  Status Finish() override { return file_.Flush(); }

 private:
  BufferedFile file_;
};

// Unsigned bytes, of so many dimensions; big-endian.
std::string IdxHead(std::initializer_list<int64_t> shape) {
  std::string head = {0, 0, 8, static_cast<char>(shape.size())};
  for (const int64_t extent : shape) {
    for (int shift = 24; shift >= 0; shift -= 8) head += static_cast<char>(extent >> shift & 0xFF);
  }
  return head;
}

class PictureFile final : public ExampleFile {
 public:
  PictureFile(BufferedFile pictures, BufferedFile labels, int64_t height, int64_t width)
      : pictures_(std::move(pictures)), labels_(std::move(labels)), height_(height), width_(width) {}
  const fs::path& path() const override { return pictures_.path(); }

  // How many there are is known at the end.
  Status Begin() {
    HEDDLE_RETURN_IF_ERROR(pictures_.Add(IdxHead({0, height_, width_})));
    return labels_.Add(IdxHead({0}));
  }
  Status Add(std::string_view example) override {
    const auto pixels = static_cast<size_t>(height_ * width_);
    if (example.size() != pixels + 1) {
      return InvalidArgument(path().string() + ": a picture of " + std::to_string(example.size()) +
                             " bytes is not of " + std::to_string(height_) + " x " + std::to_string(width_) +
                             " pixels and a class");
    }
    ++count_;
    HEDDLE_RETURN_IF_ERROR(pictures_.Add(example.substr(0, pixels)));
    return labels_.Add(example.substr(pixels));
  }
  Status Finish() override {
    HEDDLE_RETURN_IF_ERROR(pictures_.Flush());
    HEDDLE_RETURN_IF_ERROR(pictures_.Rewrite(IdxHead({count_, height_, width_})));
    HEDDLE_RETURN_IF_ERROR(labels_.Flush());
    return labels_.Rewrite(IdxHead({count_}));
  }

 private:
  BufferedFile pictures_, labels_;
  int64_t height_, width_, count_ = 0;
};

}  // namespace

Result<std::unique_ptr<ExampleFile>> NewLineFile(const fs::path& stem) {
  HEDDLE_ASSIGN_OR_RETURN(BufferedFile file, BufferedFile::Create(stem.string() + ".jsonl"));
  return std::unique_ptr<ExampleFile>(std::make_unique<LineFile>(std::move(file)));
}

Result<std::unique_ptr<ExampleFile>> NewPictureFile(const fs::path& stem, int64_t height, int64_t width) {
  HEDDLE_ASSIGN_OR_RETURN(BufferedFile pictures, BufferedFile::Create(stem.string() + "-images-idx3-ubyte"));
  HEDDLE_ASSIGN_OR_RETURN(BufferedFile labels, BufferedFile::Create(stem.string() + "-labels-idx1-ubyte"));
  auto file = std::make_unique<PictureFile>(std::move(pictures), std::move(labels), height, width);
  HEDDLE_RETURN_IF_ERROR(file->Begin());
  return std::unique_ptr<ExampleFile>(std::move(file));
}

}  // namespace heddle::simulator
