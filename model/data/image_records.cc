#include "model/data/image_records.h"

#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>
#include <vector>

#include "common/assert.h"
#include "common/file.h"
#include "model/data/idx.h"

namespace heddle::model {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kImagesPart = "images-idx3-ubyte", kLabelsPart = "labels-idx1-ubyte";
constexpr size_t kMaxFileBytes = size_t{64} << 20;  // of one compressed image
constexpr size_t kMaxImages = size_t{1} << 24;      // of a folder

class IdxRecords final : public ImageRecords {
 public:
  static Result<std::shared_ptr<const ImageRecords>> Open(const fs::path& images_path, ImageShape shape,
                                                          LabelMap labels) {
    const auto check_images = [&shape](std::span<const int64_t> found) -> Status {
      if (found[0] == 0) return InvalidArgument("it is an empty data set: it needs at least one example");
      if (shape.channels != 1) {
        return InvalidArgument("images of an IDX file have 1 channel, but the model takes " +
                               std::to_string(shape.channels));
      }
      if (found[1] > 0 && found[2] > kMaxImagePixels / found[1]) return InvalidArgument("its images are too large");
      return CheckImage({found[1], found[2], 1, {}}, shape);
    };
    HEDDLE_ASSIGN_OR_RETURN(IdxPair pair, OpenIdxPair(images_path, check_images));
    return std::shared_ptr<const ImageRecords>(
        std::make_shared<IdxRecords>(std::move(pair.images), std::move(pair.labels), std::move(labels)));
  }

  IdxRecords(std::shared_ptr<const IdxFile> images, std::shared_ptr<const IdxFile> classes, LabelMap labels)
      : images_(std::move(images)), classes_(std::move(classes)), labels_(std::move(labels)) {}

  int64_t height() const { return images_->shape()[1]; }
  int64_t width() const { return images_->shape()[2]; }
  int64_t size() const override { return images_->size(); }

  Result<ImageExample> Read(int64_t index) const override {
    ImageExample example{{height(), width(), 1, std::vector<uint8_t>(images_->item_bytes())}, 0};
    HEDDLE_RETURN_IF_ERROR(images_->ReadItem(index, example.image.pixels));
    uint8_t label = 0;
    HEDDLE_RETURN_IF_ERROR(classes_->ReadItem(index, {&label, 1}));
    // The byte is the class's number, also where classes have names.
    if (label >= labels_.num_classes()) {
      return InvalidArgument(classes_->path().string() + ": label " + std::to_string(index + 1) + " is " +
                             std::to_string(label) + ", but must be from 0 to " +
                             std::to_string(labels_.num_classes() - 1));
    }
    example.label = label;
    return example;
  }

 private:
  std::shared_ptr<const IdxFile> images_, classes_;
  LabelMap labels_;
};

bool IsImageName(const fs::path& path) {
  std::string ending = path.extension().string();
  for (char& c : ending) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return ending == ".png" || ending == ".jpg" || ending == ".jpeg";
}

// Names of what is in a folder, sorted; hidden ones are left out.
Result<std::vector<std::string>> SortedNames(const fs::path& folder) {
  std::error_code error;
  std::vector<std::string> names;
  for (auto it = fs::directory_iterator(folder, error); !error && it != fs::directory_iterator(); it.increment(error)) {
    std::string name = it->path().filename().string();
    if (!name.starts_with('.')) names.push_back(std::move(name));
    if (names.size() > kMaxImages) return InvalidArgument(folder.string() + " has too many files");
  }
  if (error) return ErrnoStatus(error.value(), folder.string());
  std::sort(names.begin(), names.end());
  return names;
}

class FolderRecords final : public ImageRecords {
 public:
  static Result<std::shared_ptr<const ImageRecords>> Open(const fs::path& folder, const std::vector<std::string>& names,
                                                          ImageShape shape, const LabelMap& labels) {
    auto records = std::make_shared<FolderRecords>(folder, shape);
    for (const std::string& name : names) {
      std::error_code ignored;
      if (!fs::is_directory(folder / name, ignored)) continue;
      HEDDLE_ASSIGN_OR_RETURN(const std::vector<std::string> files, SortedNames(folder / name));
      Class& one = records->classes_.emplace_back();
      one.name = name;
      for (const std::string& file : files) {
        if (IsImageName(file)) one.files.push_back(file);
      }
      if (one.files.empty()) {
        records->classes_.pop_back();
        continue;
      }
      const Result<double> label = labels.FromText(name);
      if (!label.ok()) return label.status().Annotate((folder / name).string() + ": of a folder's name");
      one.label = static_cast<int64_t>(*label);
      one.first = records->size_;
      records->size_ += static_cast<int64_t>(one.files.size());
      if (records->size_ > static_cast<int64_t>(kMaxImages)) {
        return InvalidArgument(folder.string() + " has too many files");
      }
    }
    if (records->size_ == 0) {
      return InvalidArgument(folder.string() +
                             " is an empty data set: it needs a folder for each class, with .png or .jpg files in it");
    }
    return std::shared_ptr<const ImageRecords>(std::move(records));
  }

  FolderRecords(fs::path folder, ImageShape shape) : folder_(std::move(folder)), shape_(shape) {}

  int64_t size() const override { return size_; }

  Result<ImageExample> Read(int64_t index) const override {
    HEDDLE_ASSERT(index >= 0 && index < size_, "no such image");
    const auto after = std::upper_bound(classes_.begin(), classes_.end(), index,
                                        [](int64_t i, const Class& one) { return i < one.first; });
    const Class& one = *(after - 1);
    const fs::path path = folder_ / one.name / one.files[static_cast<size_t>(index - one.first)];
    HEDDLE_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMaxFileBytes));
    Result<Image> image = DecodeImage(bytes, shape_);
    if (!image.ok()) return image.status().Annotate(path.string());
    return ImageExample{*std::move(image), one.label};
  }

 private:
  struct Class {
    std::string name;
    int64_t label = 0, first = 0;
    std::vector<std::string> files;
  };
  fs::path folder_;
  ImageShape shape_;
  std::vector<Class> classes_;
  int64_t size_ = 0;
};

// The images' file of a folder with an IDX pair, or of the wanted one of two; empty when there is none.
Result<std::string> IdxNameIn(const fs::path& folder, const std::vector<std::string>& names, IdxPart part) {
  std::vector<std::string> found;
  for (const std::string& name : names) {
    if (name.ends_with(kImagesPart) || name.ends_with(std::string(kImagesPart) + ".gz")) found.push_back(name);
  }
  if (found.empty()) return std::string();
  if (found.size() > 1) {
    const char* wanted = part == IdxPart::kTrain ? "train-" : "t10k-";
    std::erase_if(found, [&](const std::string& name) { return !name.starts_with(wanted); });
  }
  if (found.size() != 1) return InvalidArgument(folder.string() + " has several IDX files of images: name one of them");
  return found[0];
}

}  // namespace

Result<IdxPair> OpenIdxPair(const fs::path& images_path, const IdxFile::ShapeCheck& check) {
  const std::string name = images_path.filename().string();
  const size_t part = name.find(kImagesPart);
  if (part == std::string::npos) {
    return InvalidArgument(images_path.string() + ": an IDX file of images must be called …" +
                           std::string(kImagesPart) + ", and its labels …" + std::string(kLabelsPart));
  }
  fs::path labels_path = images_path;
  labels_path.replace_filename(std::string(name).replace(part, kImagesPart.size(), kLabelsPart));
  std::error_code error;
  if (!fs::exists(labels_path, error)) {
    // One of the two may be compressed.
    const std::string other = labels_path.string();
    labels_path = other.ends_with(".gz") ? other.substr(0, other.size() - 3) : other + ".gz";
  }
  HEDDLE_ASSIGN_OR_RETURN(std::shared_ptr<const IdxFile> images, IdxFile::Open(images_path, 3, check));
  const auto check_labels = [&](std::span<const int64_t> found) {
    if (found[0] == images->size()) return OkStatus();
    return InvalidArgument("it has " + std::to_string(found[0]) + " labels, but " + images_path.string() + " has " +
                           std::to_string(images->size()) + " images");
  };
  HEDDLE_ASSIGN_OR_RETURN(std::shared_ptr<const IdxFile> classes, IdxFile::Open(labels_path, 1, check_labels));
  return IdxPair{std::move(images), std::move(classes)};
}

Result<fs::path> FindIdxImages(const fs::path& path, IdxPart part) {
  std::error_code error;
  if (!fs::exists(path, error)) return NotFound(path.string() + ": there is no such file or folder");
  if (!fs::is_directory(path, error)) {
    return path.filename().string().find(kImagesPart) == std::string::npos ? fs::path() : path;
  }
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<std::string> names, SortedNames(path));
  HEDDLE_ASSIGN_OR_RETURN(const std::string idx, IdxNameIn(path, names, part));
  return idx.empty() ? fs::path() : path / idx;
}

Result<std::shared_ptr<const ImageRecords>> ImageRecords::Open(const fs::path& path, ImageShape shape,
                                                               LabelMap labels) {
  HEDDLE_ASSERT(labels.kind() == LabelMap::Kind::kClass, "images have classes");
  HEDDLE_ASSIGN_OR_RETURN(const fs::path idx, FindIdxImages(path, IdxPart::kTrain));
  if (!idx.empty()) return IdxRecords::Open(idx, shape, std::move(labels));
  std::error_code error;
  if (!fs::is_directory(path, error)) return IdxRecords::Open(path, shape, std::move(labels));  // says what is missing
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<std::string> names, SortedNames(path));
  return FolderRecords::Open(path, names, shape, labels);
}

}  // namespace heddle::model
