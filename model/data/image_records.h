// Labelled images, read one at a time from an IDX pair (MNIST, Fashion-MNIST) or a folder of PNG and JPEG files by
// class.
//
//   IDX      files named …images-idx3-ubyte and …labels-idx1-ubyte side by side, each perhaps with .gz. What is
//            compressed is unpacked once, into a file without a name on the disk, so that any image can be read.
//   folder   one folder for each class, with .png, .jpg and .jpeg files in it. The class is the folder's name, by the
//            LabelMap; with LabelMap::Classes(n) that is a number. Files in the order of their names.
//
// Thread-safety: immutable after opening; Read from any thread. Memory: one image; of folders also the names.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "common/status.h"
#include "model/data/idx.h"
#include "model/data/image.h"
#include "model/data/labels.h"

namespace heddle::model {

struct ImageExample {
  Image image;
  int64_t label = 0;
};

// Which of two IDX pairs of a folder is meant, by how data sets call them: train-… and t10k-….
enum class IdxPart { kTrain, kTest };

// The images' file of an IDX pair: `path` itself if it is called so, or the one in that folder, of several that of
// `part`. Empty: there is none. Errors: kNotFound; kInvalidArgument: several pairs in the folder and not one of them
// that of the part; those of reading a folder.
Result<std::filesystem::path> FindIdxImages(const std::filesystem::path& path, IdxPart part);

struct IdxPair {
  std::shared_ptr<const IdxFile> images, labels;  // as many of each
};
// By the images' file. Errors: those of IdxFile::Open; kInvalidArgument: another name than such a file has, unequal
// counts. `check` is the images'.
Result<IdxPair> OpenIdxPair(const std::filesystem::path& images, const IdxFile::ShapeCheck& check);

class ImageRecords {
 public:
  virtual ~ImageRecords() = default;

  // `path`: the images' file of an IDX pair; a folder with one such pair (or with train- and t10k- pairs, of which
  // train- is taken); or a folder of classes. `labels` must be classes. Errors: kNotFound; kPermissionDenied;
  // kInvalidArgument: one sentence about what is wrong with which file; an empty data set; images of an IDX file of
  // another size than `shape`; a folder whose name is no class; kResourceExhausted: no room to unpack.
  static Result<std::shared_ptr<const ImageRecords>> Open(const std::filesystem::path& path, ImageShape shape,
                                                          LabelMap labels);

  virtual int64_t size() const = 0;
  // index from 0 to size() - 1. Errors: those of DecodeImage, a label out of range (with its index), kDataLoss.
  virtual Result<ImageExample> Read(int64_t index) const = 0;
};

}  // namespace heddle::model
