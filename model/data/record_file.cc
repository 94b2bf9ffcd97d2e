#include "model/data/record_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "common/assert.h"

namespace heddle::model {
namespace {

constexpr size_t kReadBytes = size_t{1} << 18;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool IsBlank(std::string_view line) { return line.find_first_not_of(" \t\r\f\v") == std::string_view::npos; }

// Whether a quoted field is open at the end of `line`, when `inside` says whether one was at its beginning.
bool QuoteIsOpen(std::string_view line, char delimiter, bool inside) {
  size_t at = 0;
  while (true) {
    if (!inside) {
      if (at >= line.size() || line[at] != '"') {
        at = line.find(delimiter, at);
        if (at == std::string_view::npos) return false;
        ++at;
        continue;
      }
      inside = true;
      ++at;
    }
    at = line.find('"', at);
    if (at == std::string_view::npos) return true;
    if (at + 1 < line.size() && line[at + 1] == '"') {
      at += 2;
      continue;
    }
    inside = false;
    at = line.find(delimiter, at + 1);  // what stands between is the parser's to refuse
    if (at == std::string_view::npos) return false;
    ++at;
  }
}

Result<UniqueFd> OpenRegular(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, path.string());
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, path.string());
  if (!S_ISREG(info.st_mode)) return InvalidArgument(path.string() + " is not a regular file");
  return fd;
}

}  // namespace

// Reads records one after the other from an offset on.
class RecordScanner {
 public:
  RecordScanner(int fd, RecordFormat format, uint64_t offset, int64_t line, size_t first_read)
      : fd_(fd), format_(format), offset_(offset), line_(line), read_bytes_(first_read) {}

  // False at the end. After true, record() and its offset() in the file.
  Result<bool> Next() {
    record_.text.clear();
    bool begun = false, open = false;
    while (true) {
      const uint64_t line_offset = offset_;
      const size_t size_before = record_.text.size();
      if (begun) record_.text.push_back('\n');
      HEDDLE_ASSIGN_OR_RETURN(const bool more, AppendLine());
      const std::string_view line = std::string_view(record_.text).substr(begun ? size_before + 1 : size_before);
      const bool blank = IsBlank(line) && !open;
      if (!more || blank) {
        record_.text.resize(size_before);
        if (!more && open) {
          return InvalidArgument("line " + std::to_string(record_.line) +
                                 ": a quote is not closed by the end of the file: close it or double it");
        }
        if (more) ++line_;
        if (begun) break;  // the end of a paragraph
        if (!more) return false;
        continue;
      }
      if (!begun) {
        record_.line = line_;
        record_offset_ = line_offset;
      }
      ++line_;
      if (format_.kind == RecordFormat::Kind::kQuotedRows) open = QuoteIsOpen(line, format_.delimiter, open);
      begun = true;
      if (!open && format_.kind != RecordFormat::Kind::kParagraphs) break;
    }
    if (record_.text.ends_with('\r')) record_.text.pop_back();
    return true;
  }

  Record& record() { return record_; }
  uint64_t offset() const { return record_offset_; }

 private:
  // Appends the next line without its break. False when there is none.
  Result<bool> AppendLine() {
    bool any = false;
    while (true) {
      if (at_ == buffer_.size()) {
        HEDDLE_RETURN_IF_ERROR(Fill());
        if (buffer_.empty()) return any;
      }
      any = true;
      const std::string_view rest = std::string_view(buffer_).substr(at_);
      const size_t end = rest.find('\n');
      const std::string_view piece = rest.substr(0, end);
      if (record_.text.size() + piece.size() > format_.max_bytes) {
        const bool paragraph = format_.kind == RecordFormat::Kind::kParagraphs;
        return InvalidArgument("line " + std::to_string(line_) + ": a record may have at most " +
                               std::to_string(format_.max_bytes) + " bytes: split it" +
                               (paragraph ? " by a blank line" : ""));
      }
      record_.text.append(piece);
      const size_t taken = end == std::string_view::npos ? rest.size() : end + 1;
      at_ += taken;
      offset_ += taken;
      if (end != std::string_view::npos) return true;
    }
  }

  Status Fill() {
    buffer_.resize(read_bytes_);
    read_bytes_ = std::min(read_bytes_ * 4, kReadBytes);
    ssize_t got = 0;
    do {
      got = ::pread(fd_, buffer_.data(), buffer_.size(), static_cast<off_t>(offset_));
    } while (got < 0 && errno == EINTR);
    if (got < 0) return ErrnoStatus(errno, "reading");
    buffer_.resize(static_cast<size_t>(got));
    at_ = offset_ == 0 && format_.skip_mark && buffer_.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0;
    offset_ += at_;
    if (at_ > 0 && at_ == buffer_.size()) buffer_.clear(), at_ = 0;
    return OkStatus();
  }

  int fd_;
  RecordFormat format_;
  uint64_t offset_;  // of the next byte to take
  int64_t line_;     // of the next line
  size_t read_bytes_;
  std::string buffer_;
  size_t at_ = 0;
  Record record_;
  uint64_t record_offset_ = 0;
};

RecordReader::RecordReader(UniqueFd fd, std::unique_ptr<RecordScanner> scanner)
    : fd_(std::move(fd)), scanner_(std::move(scanner)) {}
RecordReader::RecordReader(RecordReader&&) noexcept = default;
RecordReader& RecordReader::operator=(RecordReader&&) noexcept = default;
RecordReader::~RecordReader() = default;

Result<RecordReader> RecordReader::Open(const std::filesystem::path& path, RecordFormat format) {
  HEDDLE_ASSIGN_OR_RETURN(UniqueFd fd, OpenRegular(path));
  auto scanner = std::make_unique<RecordScanner>(fd.get(), format, 0, 1, kReadBytes);
  return RecordReader(std::move(fd), std::move(scanner));
}

Result<std::optional<Record>> RecordReader::Next() {
  HEDDLE_ASSIGN_OR_RETURN(const bool more, scanner_->Next());
  if (!more) return std::optional<Record>();
  return std::optional<Record>(std::move(scanner_->record()));
}

Result<std::shared_ptr<const RecordFile>> RecordFile::Open(const std::filesystem::path& path, RecordFormat format,
                                                           size_t max_marks, int64_t max_records) {
  HEDDLE_ASSERT(max_marks >= 2, "an index needs marks");
  HEDDLE_ASSIGN_OR_RETURN(UniqueFd fd, OpenRegular(path));
  auto file = std::shared_ptr<RecordFile>(new RecordFile(path, format, std::move(fd)));
  if (const Status status = file->BuildIndex(max_marks, max_records); !status.ok())
    return status.Annotate(path.string());
  return std::shared_ptr<const RecordFile>(std::move(file));
}

Status RecordFile::BuildIndex(size_t max_marks, int64_t max_records) {
  RecordScanner scanner(fd_.get(), format_, 0, 1, kReadBytes);
  while (size_ < max_records) {
    HEDDLE_ASSIGN_OR_RETURN(const bool more, scanner.Next());
    if (!more) break;
    if (size_++ % stride_ != 0) continue;
    if (marks_.size() == max_marks) {
      // Every second mark goes.
      for (size_t i = 1; 2 * i < marks_.size(); ++i) marks_[i] = marks_[2 * i];
      marks_.resize((marks_.size() + 1) / 2);
      stride_ *= 2;
      if ((size_ - 1) % stride_ != 0) continue;
    }
    marks_.push_back({scanner.offset(), scanner.record().line});
  }
  marks_.shrink_to_fit();
  return OkStatus();
}

Result<Record> RecordFile::Read(int64_t index) const {
  HEDDLE_ASSERT(index >= 0 && index < size_, "no such record");
  const Mark& mark = marks_[static_cast<size_t>(index / stride_)];
  RecordScanner scanner(fd_.get(), format_, mark.offset, mark.line, 4096);
  for (int64_t left = index % stride_; left >= 0; --left) {
    Result<bool> more = scanner.Next();
    if (!more.ok() && more.status().code() != Code::kInvalidArgument) return more.status().Annotate(path_.string());
    if (!more.ok() || !*more) {
      return DataLoss(path_.string() + " was changed while it was read: start again when it is complete");
    }
  }
  return std::move(scanner.record());
}

}  // namespace heddle::model
