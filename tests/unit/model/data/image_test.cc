// PNG and JPEG files, IDX pairs and folders of classes.
#include "model/data/image.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include "model/data/idx.h"
#include "model/data/image_records.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/data/idx_bytes.h"
#include "tests/unit/model/data/make_image.h"

namespace heddle::model {
namespace {

std::string Gzip(std::string_view bytes) {
  z_stream stream{};
  EXPECT_EQ(::deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(bytes.size() + 128, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(::deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  ::deflateEnd(&stream);
  return out;
}

std::string OpenError(const std::filesystem::path& path, ImageShape shape = {1, 2, 2}, int64_t classes = 10) {
  const auto records = ImageRecords::Open(path, shape, LabelMap::Classes(classes));
  EXPECT_FALSE(records.ok());
  return records.status().message();
}

void ExpectPart(const std::string& message, std::string_view part) {
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(DecodeImage, PngIsReadToTheByte) {
  for (int64_t channels : {1, 3}) {
    const Image image = Gradient(5, 7, channels);
    EXPECT_EQ(*DecodeImage(EncodePng(image), {channels, 5, 7}), image);
    EXPECT_EQ(*DecodeImage(EncodePng(image), {channels, 0, 0}), image);
  }
  const Image grey = Gradient(4, 4, 1);
  const Image colours = *DecodeImage(EncodePng(grey), {3, 4, 4});
  for (size_t i = 0; i < colours.pixels.size(); ++i) EXPECT_EQ(colours.pixels[i], grey.pixels[i / 3]);
}

TEST(DecodeImage, AModelOfFourChannelsIsRefused) {
  const auto image = DecodeImage(EncodePng(Gradient(4, 4, 3)), {4, 4, 4});
  ASSERT_EQ(image.status().code(), Code::kInvalidArgument);
  ExpectPart(image.status().message(), "the model takes 4");
}

// What Pillow gives for a row of the file as convert("RGB") and as convert("L").
void ExpectPixels(const RawPng& png, const std::vector<uint8_t>& rgb, const std::vector<uint8_t>& grey) {
  const auto width = static_cast<int64_t>(png.width);
  const auto colours = DecodeImage(png.File(), {3, 1, width}), luminance = DecodeImage(png.File(), {1, 1, width});
  ASSERT_TRUE(colours.ok()) << colours.status();
  ASSERT_TRUE(luminance.ok()) << luminance.status();
  EXPECT_EQ(*colours, (Image{1, width, 3, rgb}));
  EXPECT_EQ(*luminance, (Image{1, width, 1, grey}));
}

TEST(DecodeImage, ColoursBecomeGreyByTheirLuminanceAlsoWhereAFileHasAGamma) {
  RawPng png{.width = 2, .rows = {0, 10, '\xC8', 30, 0, 0, '\xFF'}};
  const std::vector<uint8_t> rgb = {10, 200, 30, 0, 0, 255}, grey = {124, 29};
  ExpectPixels(png, rgb, grey);
  for (const uint32_t gamma : {100000U, 45455U}) {
    png.between = RawPng::Chunk("gAMA", RawPng::Number(gamma));
    ExpectPixels(png, rgb, grey);
  }
  png.between = RawPng::Chunk("sRGB", std::string(1, '\0'));
  ExpectPixels(png, rgb, grey);
}

TEST(DecodeImage, ColoursOfAPngAreThoseOfTheSamePictureAsJpeg) {
  Image image{8, 8, 3, {}};
  for (int i = 0; i < 64; ++i) image.pixels.insert(image.pixels.end(), {10, 200, 30});
  for (const int64_t channels : {1, 3}) {
    const Image png = *DecodeImage(EncodePng(image), {channels, 8, 8});
    const Image jpeg = *DecodeImage(EncodeJpeg(image, 100), {channels, 8, 8});
    for (size_t i = 0; i < png.pixels.size(); ++i) EXPECT_NEAR(png.pixels[i], jpeg.pixels[i], 2) << i;
  }
}

TEST(DecodeImage, AlphaIsLeftOut) {
  const std::vector<uint8_t> rgb = {10, 200, 30, 1, 2, 3}, grey = {124, 2};
  ExpectPixels({.width = 2, .colour_type = 6, .rows = {0, 10, '\xC8', 30, '\x80', 1, 2, 3, 0}}, rgb, grey);
  ExpectPixels({.width = 2, .colour_type = 4, .rows = {0, 77, '\x80', 5, 0}}, {77, 77, 77, 5, 5, 5}, {77, 5});
  ExpectPixels({.rows = {0, 10, '\xC8', 30}, .between = RawPng::Chunk("tRNS", {0, 10, 0, '\xC8', 0, 30})},
               {10, 200, 30}, {124});
}

TEST(DecodeImage, PalettesAndFewBitsAreSpreadOverTheWholeRange) {
  const std::string palette = RawPng::Chunk("PLTE", {0, 0, 0, 10, '\xC8', 30});
  const std::string clear = RawPng::Chunk("tRNS", {'\xFF', 0});
  for (const std::string& between : {palette, palette + clear}) {
    ExpectPixels({.width = 2, .bits = 1, .colour_type = 3, .rows = {0, 0x40}, .between = between},
                 {0, 0, 0, 10, 200, 30}, {0, 124});
  }
  ExpectPixels({.width = 2, .bits = 1, .colour_type = 0, .rows = {0, 0x40}}, {0, 0, 0, 255, 255, 255}, {0, 255});
  ExpectPixels({.width = 2, .bits = 2, .colour_type = 0, .rows = {0, 0x60}}, {85, 85, 85, 170, 170, 170}, {85, 170});
  ExpectPixels({.width = 2, .bits = 4, .colour_type = 0, .rows = {0, 0x1F}}, {17, 17, 17, 255, 255, 255}, {17, 255});
}

TEST(DecodeImage, OfSixteenBitsTheHighEightAreTaken) {
  ExpectPixels({.bits = 16, .colour_type = 0, .rows = {0, 0x12, '\xFF'}}, {18, 18, 18}, {18});
  ExpectPixels({.bits = 16, .rows = {0, 10, '\xFF', '\xC8', 0, 30, '\x80'}}, {10, 200, 30}, {124});
}

TEST(DecodeImage, JpegIsReadNearly) {
  Image image{16, 24, 3, {}};
  for (int i = 0; i < 16 * 24; ++i) {
    for (int c = 0; c < 3; ++c) image.pixels.push_back(static_cast<uint8_t>(40 + 3 * (i % 24) + 5 * (i / 24) + 20 * c));
  }
  const Image read = *DecodeImage(EncodeJpeg(image), {3, 16, 24});
  ASSERT_EQ(read.pixels.size(), image.pixels.size());
  for (size_t i = 0; i < read.pixels.size(); ++i) EXPECT_NEAR(read.pixels[i], image.pixels[i], 8) << i;
  const Image grey = *DecodeImage(EncodeJpeg(image), {1, 16, 24});
  for (size_t i = 0; i < grey.pixels.size(); ++i) {
    const double luminance =
        0.299 * image.pixels[3 * i] + 0.587 * image.pixels[3 * i + 1] + 0.114 * image.pixels[3 * i + 2];
    EXPECT_NEAR(grey.pixels[i], luminance, 8) << i;
  }
}

TEST(DecodeImage, WhatIsWrongIsToldInASentence) {
  const auto error = [](std::string_view file, ImageShape shape = {3, 0, 0}) {
    const auto image = DecodeImage(file, shape);
    EXPECT_EQ(image.status().code(), Code::kInvalidArgument);
    return image.status().message();
  };
  const std::string png = EncodePng(Gradient(8, 8, 3)), jpeg = EncodeJpeg(Gradient(8, 8, 3));
  ExpectPart(error("GIF89a"), "neither a PNG nor a JPEG");
  ExpectPart(error(""), "neither a PNG nor a JPEG");
  ExpectPart(error(EncodeJpeg(Gradient(8, 8, 4))), "four inks of print (CMYK): convert it to RGB");
  ExpectPart(error(png, {3, 8, 9}), "has 8 x 8 pixels, but must have 9 x 8 pixels");
  ExpectPart(error(jpeg, {3, 9, 8}), "has 8 x 8 pixels, but must have 8 x 9 pixels");
  for (size_t cut : {size_t{9}, size_t{30}, png.size() / 2, png.size() - 20}) {
    ExpectPart(error(std::string_view(png).substr(0, cut)), "PNG image is damaged");
  }
  for (size_t cut : {size_t{4}, jpeg.size() / 2, jpeg.size() - 20}) {
    ExpectPart(error(std::string_view(jpeg).substr(0, cut)), "JPEG image is damaged");
  }
}

TEST(DecodeImage, AFewBytesThatAnnounceAHugeImageAreRefusedBeforeAnythingIsDecoded) {
  std::string png = EncodePng(Gradient(8, 8, 1));
  for (size_t at : {16, 20}) png.replace(at, 4, std::string("\x00\x00\xFF\xFF", 4));  // width, height
  const uint32_t crc = static_cast<uint32_t>(::crc32(0, reinterpret_cast<const Bytef*>(png.data()) + 12, 17));
  for (int i = 0; i < 4; ++i) png[29 + static_cast<size_t>(i)] = static_cast<char>(crc >> (24 - 8 * i));
  ExpectPart(DecodeImage(png, {1, 0, 0}).status().message(), "at most 67108864 pixels");
  std::string jpeg = EncodeJpeg(Gradient(8, 8, 1));
  const size_t frame = jpeg.find("\xFF\xC0");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xFF\xDB\xFF\xDB");
  ExpectPart(DecodeImage(jpeg, {1, 0, 0}).status().message(), "at most 67108864 pixels");
}

TEST(NormalizeImage, ChannelsComeOneAfterTheOther) {
  const Image image{1, 2, 3, {0, 51, 255, 102, 153, 204}};
  std::vector<float> out(6);
  const double mean[] = {0.5, 0, 0.25}, std[] = {0.5, 1, 0.25};
  NormalizeImage(image, mean, std, out);
  const float expected[] = {-1, -0.2F, 0.2F, 0.6F, 3, 2.2F};
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(out[i], expected[i], 1e-6) << i;
}

TEST(ImageRecords, IdxPairsAreReadPlainAndCompressed) {
  const std::string pixels = "abcdefghijkl", labels = {3, 0, 9};
  for (int compressed = 0; compressed < 4; ++compressed) {
    const TempDir folder;
    const std::string images_file = Idx({3, 2, 2}, pixels), labels_file = Idx({3}, labels);
    const bool zip_images = (compressed & 1) != 0, zip_labels = (compressed & 2) != 0;
    folder.Write(zip_images ? "x-images-idx3-ubyte.gz" : "x-images-idx3-ubyte",
                 zip_images ? Gzip(images_file) : images_file);
    folder.Write(zip_labels ? "x-labels-idx1-ubyte.gz" : "x-labels-idx1-ubyte",
                 zip_labels ? Gzip(labels_file) : labels_file);
    const auto records = ImageRecords::Open(folder.path(), {1, 2, 2}, LabelMap::Classes(10));
    ASSERT_TRUE(records.ok()) << records.status();
    ASSERT_EQ((*records)->size(), 3);
    for (int64_t i : {2, 0, 1}) {
      const auto example = (*records)->Read(i);
      ASSERT_TRUE(example.ok()) << example.status();
      EXPECT_EQ(example->label, labels[static_cast<size_t>(i)]);
      const auto part = pixels.substr(static_cast<size_t>(4 * i), 4);
      EXPECT_EQ(example->image, (Image{2, 2, 1, std::vector<uint8_t>(part.begin(), part.end())}));
    }
  }
}

TEST(ImageRecords, OfTwoIdxPairsThePartIsFoundThatIsWanted) {
  const TempDir folder;
  for (const char* name : {"train-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz"}) folder.Write(name, "");
  EXPECT_EQ(*FindIdxImages(folder.path(), IdxPart::kTrain), folder / "train-images-idx3-ubyte");
  EXPECT_EQ(*FindIdxImages(folder.path(), IdxPart::kTest), folder / "t10k-images-idx3-ubyte.gz");
  EXPECT_EQ(*FindIdxImages(folder / "train-images-idx3-ubyte", IdxPart::kTest), folder / "train-images-idx3-ubyte");
  const TempDir other;
  other.Write("a-images-idx3-ubyte", "");
  EXPECT_EQ(*FindIdxImages(other.path(), IdxPart::kTest), other / "a-images-idx3-ubyte");
  other.Write("b-images-idx3-ubyte", "");
  ExpectPart(FindIdxImages(other.path(), IdxPart::kTest).status().message(), "several IDX files of images");
}

TEST(ImageRecords, BadIdxFilesAreRefusedByName) {
  const TempDir folder;
  const auto images = folder / "t-images-idx3-ubyte";
  const auto write = [&](const std::string& pictures, const std::string& labels) {
    folder.Write("t-images-idx3-ubyte", pictures);
    folder.Write("t-labels-idx1-ubyte", labels);
  };
  const std::string good_labels = Idx({2}, "\x01\x02");
  write(Idx({2, 2, 2}, "12345678"), Idx({3}, "\x01\x02\x03"));
  ExpectPart(OpenError(images), "it has 3 labels, but");
  write(Idx({2, 2, 2}, "12345678"), good_labels);
  ExpectPart(OpenError(images, {1, 3, 2}), "has 2 x 2 pixels, but must have 2 x 3");
  ExpectPart(OpenError(images, {3, 2, 2}), "1 channel");
  const auto records = *ImageRecords::Open(images, {1, 2, 2}, LabelMap::Classes(2));
  EXPECT_TRUE(records->Read(0).ok());
  ExpectPart(records->Read(1).status().message(), "label 2 is 2, but must be from 0 to 1");
  for (const std::string& bad : {Idx({2, 2, 2}, "1234567"), Idx({2, 2, 2}, "123456789"),
                                 Gzip(Idx({2, 2, 2}, "1234567")), Gzip(Idx({2, 2, 2}, "123456789"))}) {
    write(bad, good_labels);
    ExpectPart(OpenError(images), "not as long as its header says");
  }
  write(Gzip(Idx({2, 2, 2}, "12345678")).substr(0, 30), good_labels);
  ExpectPart(OpenError(images), "gzip data are cut short");
  write("\x1F\x8B" + std::string(40, 'x'), good_labels);
  ExpectPart(OpenError(images), "gzip data are damaged");
  write(std::string("\0\0\x0D\x03", 4) + std::string(20, 'x'), good_labels);
  ExpectPart(OpenError(images), "no IDX file of unsigned bytes");
  write(Idx({2, 4}, "12345678"), good_labels);
  ExpectPart(OpenError(images), "2 dimensions, but must have 3");
  write(Idx({0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, ""), good_labels);
  ExpectPart(OpenError(images), "t-images-idx3-ubyte: its items are too large");
  write(Idx({0, 2, 2}, ""), Idx({0}, ""));
  ExpectPart(OpenError(images), "empty data set");
  ExpectPart(OpenError(folder.Write("picture", "x")), "must be called");
  ExpectPart(OpenError(folder / "absent"), "no such file");
}

TEST(ImageRecords, ACompressedFileIsUnpackedOnlyIfItsHeaderIsWhatIsWanted) {
  const TempDir folder;
  const auto images = folder / "t-images-idx3-ubyte.gz";
  folder.Write("t-labels-idx1-ubyte", Idx({2}, "\x01\x02"));
  // What is behind the header is damaged: whoever unpacks it says so.
  const auto write = [&](const std::vector<uint32_t>& shape) {
    folder.Write("t-images-idx3-ubyte.gz", Gzip(Idx(shape, std::string(1000, 'x'))).substr(0, 36));
  };
  write({2, 2, 2});
  ExpectPart(OpenError(images), "gzip data are cut short");
  write({1 << 15, 1 << 10, 64});  // 2 GiB
  ExpectPart(OpenError(images, {1, 1 << 10, 64}),
             "t-images-idx3-ubyte.gz: it would unpack to 2147483648 bytes, but may to 1073741824 at most");
  write({2, 2, 3});
  ExpectPart(OpenError(images), "has 3 x 2 pixels, but must have 2 x 2");
  write({0xFFFF, 0xFFFF, 1});
  ExpectPart(OpenError(images, {1, 0, 0}), "it would unpack to 4294836225 bytes");
  write({2, 0xFFFF, 0xFFFF});
  ExpectPart(OpenError(images, {1, 0, 0}), "its images are too large");
  folder.Write("t-images-idx3-ubyte.gz", Gzip(Idx({2, 2, 2}, "12345678")));
  folder.Write("t-labels-idx1-ubyte", Idx({3}, "\x01\x02\x03"));
  ExpectPart(OpenError(images), "it has 3 labels, but");
}

TEST(ImageRecords, AFolderHasAFolderForEachClass) {
  const TempDir folder;
  for (const char* name : {"cat", "dog", "empty", ".git"}) std::filesystem::create_directory(folder / name);
  folder.Write("notes.txt", "not an image");
  folder.Write("dog/b.png", EncodePng(Gradient(2, 2, 3)));
  folder.Write("cat/z.PNG", EncodePng(Gradient(2, 2, 1)));
  folder.Write("cat/a.jpeg", EncodeJpeg(Gradient(2, 2, 3)));
  folder.Write("cat/readme.md", "not an image");
  const auto records = ImageRecords::Open(folder.path(), {3, 2, 2}, *LabelMap::Named({"dog", "cat"}));
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_EQ((*records)->size(), 3);
  EXPECT_EQ((*records)->Read(0)->label, 1);
  EXPECT_EQ((*records)->Read(1)->label, 1);
  EXPECT_EQ((*records)->Read(2)->label, 0);
  EXPECT_EQ((*records)->Read(2)->image, Gradient(2, 2, 3));

  ExpectPart(OpenError(folder.path()), "cat: of a folder's name: the label is \"cat\"");
  folder.Write("dog/b.png", EncodePng(Gradient(2, 3, 3)));
  ExpectPart((*records)->Read(2).status().message(), "b.png: the image has 3 x 2 pixels, but must have 2 x 2");
  ExpectPart(OpenError(folder / "empty"), "empty data set");
}

TEST(ImageRecords, ReadsFashionMnist) {
  const std::filesystem::path folder = "/usr/share/datasets/fashion-mnist";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "needs the package dataset-fashion-mnist";
  const auto records = ImageRecords::Open(folder / "t10k-images-idx3-ubyte.gz", {1, 28, 28}, LabelMap::Classes(10));
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_EQ((*records)->size(), 10000);
  std::vector<int> counts(10);
  for (int64_t i = 0; i < 10000; ++i) ++counts[static_cast<size_t>((*records)->Read(i)->label)];
  EXPECT_EQ(counts, std::vector<int>(10, 1000));  // the test set is balanced
  const auto first = *(*records)->Read(0);
  EXPECT_EQ(first.label, 9);  // an ankle boot
  EXPECT_EQ(first.image.pixels.size(), 784U);
}

}  // namespace
}  // namespace heddle::model
