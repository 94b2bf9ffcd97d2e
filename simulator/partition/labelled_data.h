// Files of examples, with their labels and groups, as one numbered set that can be dealt to devices: any files that
// model/data reads as texts (text_records.h), or pictures in IDX pairs (image_records.h), one after the other. An
// example leaves in the form of example_file.h, which every device's local task reads: a text as one line of JSONL,
// whatever the file was that it came from.
//
// Thread-safety: immutable after Open; Example from any thread. Memory: 4 bytes an example for its label, as many for
// its group, and the indices of record_file.h; texts and pictures stay on the disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/status.h"
#include "model/data/image_records.h"
#include "model/data/text_records.h"
#include "simulator/partition/example_file.h"

namespace heddle::simulator {

struct LabelledSource {
  std::vector<std::filesystem::path> files;  // or folders with an IDX pair
  // Of CSV and TSV files without a header, and which fields are the text: as in model::TextOptions.
  std::vector<std::string> columns, text_fields;
  std::string label_field = "label";
  // The labels in the order of their numbers. Empty: those of the data, whole numbers in their order, names in that of
  // the alphabet. A label that is none of the names may be a class's number.
  std::vector<std::string> label_names;
  bool needs_labels = false;  // else labels are read where the first example has one
  std::string group_field;    // who an example is from; empty: nobody
};

class LabelledData {
 public:
  // Reads everything once. Errors: those of model::TextRecords; kInvalidArgument: no file, a label that is not among
  // label_names, more than kMaxLabels different ones, no label or group where one is needed; texts beside pictures,
  // pictures of different sizes, with groups or fields of texts.
  static Result<LabelledData> Open(LabelledSource source);

  static constexpr size_t kMaxLabels = 10'000;

  int64_t size() const { return static_cast<int64_t>(where_.size()); }
  // Class numbers and numbers of groups, one an example; empty where there are none. Labels that are not whole numbers
  // but all numbers belong to regression: then labels() is empty and has_numbers() true.
  const std::vector<int32_t>& labels() const { return labels_; }
  const std::vector<int32_t>& groups() const { return groups_; }
  const std::vector<std::string>& label_names() const { return label_names_; }
  const std::vector<std::string>& group_names() const { return group_names_; }
  bool has_numbers() const { return !numbers_.empty(); }

  bool has_pictures() const { return !pictures_.empty(); }

  // For files of NewFile. index from 0 to size() - 1. Errors: those of TextRecords::Read and IdxFile::ReadItem.
  Result<std::string> Example(int64_t index) const;
  // The text alone, of a pair both. Errors: those of TextRecords::Read, kInvalidArgument: it is a picture.
  Result<std::string> Text(int64_t index) const;
  // Of as many examples as are added; `stem`: its path without what says the form.
  Result<std::unique_ptr<ExampleFile>> NewFile(const std::filesystem::path& stem) const;

 private:
  struct File {
    model::TextRecords records;
    // Of JSONL whose lines can be handed on as they are.
    std::shared_ptr<const model::RecordFile> raw;
  };
  LabelledData() = default;
  // Either all of the files or none are pictures.
  Status OpenPictures(const LabelledSource& source);
  Status AddPictures(const std::filesystem::path& images, const std::vector<std::string>& names);
  Status ReadFields(const LabelledSource& source);
  Status NumberLabels(const LabelledSource& source, std::vector<std::string> texts);

  std::vector<File> files_;
  std::vector<model::IdxPair> pictures_;             // instead
  std::vector<std::pair<uint32_t, int64_t>> where_;  // file, index in it
  std::vector<int32_t> labels_, groups_;
  std::vector<double> numbers_;
  std::vector<std::string> label_names_, group_names_;
};

}  // namespace heddle::simulator
