#include "simulator/partition/labelled_data.h"

#include <algorithm>
#include <boost/json.hpp>
#include <map>
#include <set>

#include "common/assert.h"
#include "model/data/labels.h"

namespace heddle::simulator {
namespace {

namespace json = boost::json;

model::TextOptions OptionsOf(const LabelledSource& source, bool labels) {
  model::TextOptions options;
  options.columns = source.columns;
  options.text_fields = source.text_fields;
  options.label_field = source.label_field;
  if (labels) options.other_fields.push_back(source.label_field);
  if (!source.group_field.empty()) options.other_fields.push_back(source.group_field);
  return options;
}

// Whether the first example of the first file has a label. A file that cannot be read is for Open to complain of.
bool HasLabels(const LabelledSource& source) {
  auto records = model::TextRecords::Open(source.files.front(), OptionsOf(source, true));
  return records.ok() && records->Read(0).ok();
}

// Names in the order of their numbers: whole numbers as numbers, before anything else.
std::vector<std::string> SortedNames(const std::set<std::string>& names) {
  const model::LabelMap any = model::LabelMap::Numbers();
  std::vector<std::string> sorted(names.begin(), names.end());
  const bool numbers =
      std::all_of(sorted.begin(), sorted.end(), [&](const auto& name) { return any.FromText(name).ok(); });
  if (numbers) {
    std::stable_sort(sorted.begin(), sorted.end(),
                     [&](const auto& a, const auto& b) { return *any.FromText(a) < *any.FromText(b); });
  }
  return sorted;
}

// All labels are numbers and some of them is no whole one.
bool AreNumbers(const std::vector<std::string>& texts) {
  const model::LabelMap any = model::LabelMap::Numbers();
  bool fraction = false;
  for (const std::string& text : texts) {
    const auto value = any.FromText(text);
    if (!value.ok()) return false;
    fraction = fraction || *value != static_cast<double>(static_cast<int64_t>(*value));
  }
  return fraction;
}

}  // namespace

Result<LabelledData> LabelledData::Open(LabelledSource source) {
  if (source.files.empty()) return InvalidArgument("there is no file of examples");
  LabelledData data;
  HEDDLE_RETURN_IF_ERROR(data.OpenPictures(source));
  if (data.has_pictures()) return data;
  const bool labels = source.needs_labels || HasLabels(source);
  for (const std::filesystem::path& path : source.files) {
    HEDDLE_ASSIGN_OR_RETURN(model::TextRecords records, model::TextRecords::Open(path, OptionsOf(source, labels)));
    File file{std::move(records), nullptr};
    if (path.extension() == ".jsonl" && !labels && source.text_fields.empty()) {
      HEDDLE_ASSIGN_OR_RETURN(file.raw, model::RecordFile::Open(path, {model::RecordFormat::Kind::kLines}));
    }
    data.files_.push_back(std::move(file));
  }
  source.needs_labels = labels;
  HEDDLE_RETURN_IF_ERROR(data.ReadFields(source));
  return data;
}

Status LabelledData::OpenPictures(const LabelledSource& source) {
  std::vector<std::filesystem::path> found;
  for (const std::filesystem::path& path : source.files) {
    std::error_code error;
    HEDDLE_ASSIGN_OR_RETURN(found.emplace_back(), model::FindIdxImages(path, model::IdxPart::kTrain));
    if (found.back().empty() && std::filesystem::is_directory(path, error))
      return InvalidArgument(path.string() + ": of folders only those with an IDX pair of pictures can be dealt");
  }
  const auto text = std::find(found.begin(), found.end(), std::filesystem::path());
  if (text != found.end()) {
    if (std::all_of(found.begin(), found.end(), [](const auto& path) { return path.empty(); })) return OkStatus();
    return InvalidArgument(source.files[static_cast<size_t>(text - found.begin())].string() +
                           ": texts and pictures cannot be dealt together");
  }
  if (!source.group_field.empty() || !source.columns.empty() || !source.text_fields.empty())
    return InvalidArgument(source.files.front().string() + ": pictures have no fields");
  label_names_ = source.label_names;
  for (const std::filesystem::path& images : found) HEDDLE_RETURN_IF_ERROR(AddPictures(images, source.label_names));
  if (where_.empty()) {
    return InvalidArgument(source.files.front().string() + ": it is an empty data set: it needs at least one example");
  }
  return OkStatus();
}

Status LabelledData::AddPictures(const std::filesystem::path& images, const std::vector<std::string>& names) {
  const auto check = [this](std::span<const int64_t> shape) {
    if (shape[1] > 0 && shape[2] > model::kMaxImagePixels / shape[1])
      return InvalidArgument("its pictures are too large");
    if (pictures_.empty()) return OkStatus();
    const std::vector<int64_t>& before = pictures_.front().images->shape();
    return shape[1] == before[1] && shape[2] == before[2]
               ? OkStatus()
               : InvalidArgument("its pictures are of another size than those of the files before it");
  };
  HEDDLE_ASSIGN_OR_RETURN(const model::IdxPair pair, model::OpenIdxPair(images, check));
  for (int64_t i = 0; i < pair.images->size(); ++i) {
    uint8_t label = 0;
    HEDDLE_RETURN_IF_ERROR(pair.labels->ReadItem(i, {&label, 1}));
    if (!names.empty() && label >= names.size()) {
      return InvalidArgument(pair.labels->path().string() + ": label " + std::to_string(i + 1) + " is " +
                             std::to_string(label) + ", but there are names for " + std::to_string(names.size()) +
                             " classes only");
    }
    while (label_names_.size() <= label) label_names_.push_back(std::to_string(label_names_.size()));
    where_.emplace_back(static_cast<uint32_t>(pictures_.size()), i);
    labels_.push_back(label);
  }
  pictures_.push_back(pair);
  return OkStatus();
}

Status LabelledData::ReadFields(const LabelledSource& source) {
  std::vector<std::string> labels, groups;
  for (uint32_t f = 0; f < files_.size(); ++f) {
    for (int64_t i = 0; i < files_[f].records.size(); ++i) {
      HEDDLE_ASSIGN_OR_RETURN(model::TextExample example, files_[f].records.Read(i));
      where_.emplace_back(f, i);
      if (source.needs_labels) labels.push_back(std::move(example.others.front()));
      if (!source.group_field.empty()) groups.push_back(std::move(example.others.back()));
    }
  }
  if (!groups.empty()) {
    const std::set<std::string> names(groups.begin(), groups.end());
    group_names_.assign(names.begin(), names.end());
    for (const std::string& group : groups) {
      const auto at = std::lower_bound(group_names_.begin(), group_names_.end(), group);
      groups_.push_back(static_cast<int32_t>(at - group_names_.begin()));
    }
  }
  return source.needs_labels ? NumberLabels(source, std::move(labels)) : OkStatus();
}

Status LabelledData::NumberLabels(const LabelledSource& source, std::vector<std::string> texts) {
  if (source.label_names.empty() && AreNumbers(texts)) {
    const model::LabelMap any = model::LabelMap::Numbers();
    for (const std::string& text : texts) {
      HEDDLE_ASSIGN_OR_RETURN(const double value, any.FromText(text));
      numbers_.push_back(value);
    }
    return OkStatus();
  }
  label_names_ = source.label_names;
  if (label_names_.empty()) label_names_ = SortedNames(std::set<std::string>(texts.begin(), texts.end()));
  if (label_names_.size() > kMaxLabels) {
    return InvalidArgument("\"" + source.label_field + "\" has more than " + std::to_string(kMaxLabels) +
                           " different labels; is it the right field?");
  }
  std::map<std::string, int32_t> numbers;
  for (size_t i = 0; i < label_names_.size(); ++i) numbers.emplace(label_names_[i], static_cast<int32_t>(i));
  HEDDLE_ASSIGN_OR_RETURN(const model::LabelMap names, model::LabelMap::Named(label_names_));
  for (size_t i = 0; i < texts.size(); ++i) {
    if (const auto found = numbers.find(texts[i]); found != numbers.end()) {
      labels_.push_back(found->second);
      continue;
    }
    const auto value = names.FromText(texts[i]);
    if (!value.ok()) return value.status().Annotate(files_[where_[i].first].records.path().string());
    labels_.push_back(static_cast<int32_t>(*value));
  }
  return OkStatus();
}

Result<std::unique_ptr<ExampleFile>> LabelledData::NewFile(const std::filesystem::path& stem) const {
  if (!has_pictures()) return NewLineFile(stem);
  const std::vector<int64_t>& shape = pictures_.front().images->shape();
  return NewPictureFile(stem, shape[1], shape[2]);
}

Result<std::string> LabelledData::Example(int64_t index) const {
  HEDDLE_ASSERT(index >= 0 && index < size(), "no such example");
  const auto [f, i] = where_[static_cast<size_t>(index)];
  if (has_pictures()) {
    const model::IdxFile& images = *pictures_[f].images;
    std::vector<uint8_t> pixels(images.item_bytes());
    HEDDLE_RETURN_IF_ERROR(images.ReadItem(i, pixels));
    pixels.push_back(static_cast<uint8_t>(labels_[static_cast<size_t>(index)]));
    return std::string(pixels.begin(), pixels.end());
  }
  if (files_[f].raw != nullptr) {
    HEDDLE_ASSIGN_OR_RETURN(model::Record record, files_[f].raw->Read(i));
    return std::move(record.text);
  }
  HEDDLE_ASSIGN_OR_RETURN(const model::TextExample example, files_[f].records.Read(i));
  json::object line;
  if (example.spans.size() == 1) {
    line[example.pair ? "sentence1" : "text"] = example.spans[0].text;
    if (example.pair) line["sentence2"] = *example.pair;
  } else if (example.spans.size() == 2 && !example.spans[0].learned && example.spans[1].learned) {
    line["prompt"] = example.spans[0].text;
    line["completion"] = example.spans[1].text;
  } else {
    return InvalidArgument(files_[f].records.path().string() + ": line " + std::to_string(example.line) +
                           ": conversations cannot have labels");
  }
  if (!labels_.empty()) line["label"] = labels_[static_cast<size_t>(index)];
  if (!numbers_.empty()) line["label"] = numbers_[static_cast<size_t>(index)];
  return json::serialize(line);
}

Result<std::string> LabelledData::Text(int64_t index) const {
  HEDDLE_ASSERT(index >= 0 && index < size(), "no such example");
  if (has_pictures()) return InvalidArgument("pictures have no texts");
  const auto [f, i] = where_[static_cast<size_t>(index)];
  HEDDLE_ASSIGN_OR_RETURN(const model::TextExample example, files_[f].records.Read(i));
  return example.pair ? example.text() + "\n" + *example.pair : example.text();
}

}  // namespace heddle::simulator
