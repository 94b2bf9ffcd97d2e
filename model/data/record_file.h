// A text file as numbered records (lines, rows, paragraphs), any of which can be read at any time, in bounded memory
// whatever the file's size.
//
// Opening reads the file once and keeps an index of offsets: one mark every `stride` records, where the stride doubles
// whenever the marks would be more than max_marks (by default 2^19, 8 MiB). So a file of up to half a million records
// is indexed one by one, and a larger one costs a scan over at most stride - 1 neighbours a record, not more memory. An
// index and not a shuffle over blocks, because then any order is possible, one that depends on seed and file only.
//
// What is read once, in order, needs no index: RecordReader.
//
// Thread-safety of RecordFile: immutable after Open; Read may be called from any thread (each call reads with pread
// into memory of its own). The file is not mapped: one that is cut short while it is read gives an error and not a
// signal.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/status.h"

namespace heddle::model {

struct RecordFormat {
  enum class Kind {
    kLines,       // every line that is not blank
    kQuotedRows,  // RFC 4180: as lines, but a field in double quotes may hold line breaks
    kParagraphs,  // lines up to the next blank one
  };
  Kind kind = Kind::kLines;
  char delimiter = ',';                 // of kQuotedRows
  size_t max_bytes = size_t{16} << 20;  // of a record
  bool skip_mark = true;                // a byte order mark at the front
};

struct Record {
  std::string text;  // without the line break at its end
  int64_t line = 0;  // of its beginning, from 1
};

class RecordScanner;

// The records of a file one after the other, in the memory of one. For one thread.
class RecordReader {
 public:
  // Errors: kNotFound, kPermissionDenied; kInvalidArgument: no regular file.
  static Result<RecordReader> Open(const std::filesystem::path& path, RecordFormat format);
  RecordReader(RecordReader&&) noexcept;
  RecordReader& operator=(RecordReader&&) noexcept;
  ~RecordReader();

  // Nothing at the end. Errors: kInvalidArgument with the line: a record above format.max_bytes, a quote that is not
  // closed by the end; kDataLoss when the disk fails.
  Result<std::optional<Record>> Next();

 private:
  RecordReader(UniqueFd fd, std::unique_ptr<RecordScanner> scanner);
  UniqueFd fd_;
  std::unique_ptr<RecordScanner> scanner_;
};

class RecordFile {
 public:
  static constexpr size_t kMaxRecordBytes = RecordFormat{}.max_bytes;
  static constexpr size_t kMaxMarks = size_t{1} << 19;

  // Records beyond the first max_records are not looked at. A file without any record is legal here. Errors: kNotFound,
  // kPermissionDenied; kInvalidArgument: no regular file, a record above format.max_bytes (with its line), a quote that
  // is not closed by the end; kDataLoss when the disk fails.
  static Result<std::shared_ptr<const RecordFile>> Open(const std::filesystem::path& path, RecordFormat format,
                                                        size_t max_marks = kMaxMarks,
                                                        int64_t max_records = std::numeric_limits<int64_t>::max());

  int64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }
  int64_t stride() const { return stride_; }

  // index from 0 to size() - 1. Errors: kDataLoss when the disk fails or the file is no longer what was indexed.
  Result<Record> Read(int64_t index) const;

 private:
  struct Mark {
    uint64_t offset;
    int64_t line;  // as in Record
  };
  RecordFile(std::filesystem::path path, RecordFormat format, UniqueFd fd)
      : path_(std::move(path)), format_(format), fd_(std::move(fd)) {}
  Status BuildIndex(size_t max_marks, int64_t max_records);

  std::filesystem::path path_;
  RecordFormat format_;
  UniqueFd fd_;
  std::vector<Mark> marks_;
  int64_t stride_ = 1;
  int64_t size_ = 0;
};

}  // namespace heddle::model
