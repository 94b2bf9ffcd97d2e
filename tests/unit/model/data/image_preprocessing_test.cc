// What a preprocessor_config.json makes of images: sizes to the bit as Pillow (tests/data/images), numbers as Hugging
// Face's ViT and DeiT processors.
#include "model/data/image_preprocessing.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "common/file.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/data/make_image.h"

namespace heddle::model {
namespace {

ModelSpec Model(const std::string& architecture, int64_t image_size, int64_t channels) {
  ModelSpec spec;
  spec.architecture = architecture;
  spec.patches.image_size = image_size;
  spec.patches.channels = channels;
  return spec;
}
const ModelSpec kVit = Model("ViTForImageClassification", 224, 3), kGrey = Model("ViTForImageClassification", 28, 1),
                kDeit = Model("DeiTForImageClassification", 224, 3);
using Size = ImagePreprocessing::Size;
using Numbers = std::vector<double>;

std::string Refusal(std::string_view json, const ModelSpec& spec) {
  const auto parsed = ParseImagePreprocessing(json, spec);
  EXPECT_FALSE(parsed.ok()) << json;
  return parsed.status().message();
}

void ExpectPart(const std::string& message, std::string_view part) {
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

// The images of the script: the same formula.
Image Pattern(int64_t height, int64_t width, int64_t channels) {
  Image image{height, width, channels, {}};
  uint32_t state = static_cast<uint32_t>(height * 1000 + width * 10 + channels);
  for (int64_t i = 0; i < height * width * channels; ++i) {
    state = state * 1664525 + 1013904223;
    image.pixels.push_back(static_cast<uint8_t>((state >> 24) % 3 == 0 ? 255 : state >> 16));
  }
  return image;
}

TEST(ResizeImage, GivesPillowsBytes) {
  const auto text = ReadFile(std::filesystem::path(HEDDLE_SOURCE_DIR) / "tests/data/images/resized.json", 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  const boost::json::value cases = boost::json::parse(*text);
  ASSERT_GE(cases.as_array().size(), 20U);
  for (const auto& one : cases.as_array()) {
    const auto number = [&](const char* key) { return one.at(key).as_int64(); };
    const Image image = Pattern(number("height"), number("width"), number("channels"));
    const auto filter = number("filter") == 3 ? ResizeFilter::kBicubic : ResizeFilter::kBilinear;
    const auto resized = ResizeImage(image, number("to_height"), number("to_width"), filter);
    ASSERT_TRUE(resized.ok()) << resized.status();
    std::string hex;
    for (const uint8_t byte : resized->pixels) {
      for (const int digit : {byte >> 4, byte & 15}) hex += "0123456789abcdef"[digit];
    }
    EXPECT_EQ(hex, std::string_view(one.at("pixels").as_string())) << boost::json::serialize(one).substr(0, 120);
  }
}

TEST(ResizeImage, TheSameSizeIsTheSameImageAndOneColourStaysIt) {
  const Image image = Pattern(5, 7, 3);
  EXPECT_EQ(*ResizeImage(image, 5, 7, ResizeFilter::kBicubic), image);
  const Image plain{6, 4, 1, std::vector<uint8_t>(24, 200)};
  for (const auto filter : {ResizeFilter::kBilinear, ResizeFilter::kBicubic}) {
    EXPECT_EQ(*ResizeImage(plain, 11, 3, filter), (Image{11, 3, 1, std::vector<uint8_t>(33, 200)}));
  }
}

TEST(ResizeImage, AnImageWhoseRowsAloneWouldFillTheMemoryIsRefused) {
  const Image tall{1 << 20, 1, 1, std::vector<uint8_t>(1 << 20)};
  ExpectPart(ResizeImage(tall, 224, 224, ResizeFilter::kBilinear).status().message(), "1048576 pixels high");
  EXPECT_TRUE(ResizeImage({1, 1 << 20, 1, tall.pixels}, 2, 224, ResizeFilter::kBilinear).ok()) << "wide ones are not";
  EXPECT_FALSE(ResizeImage({0, 3, 1, {}}, 2, 2, ResizeFilter::kBilinear).ok());
}

TEST(CropCentre, LeavesOutAsMuchOnEachSide) {
  const Image image{3, 4, 1, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}};
  EXPECT_EQ(*CropCentre(image, 1, 2), (Image{1, 2, 1, {5, 6}}));
  EXPECT_EQ(*CropCentre(image, 2, 3), (Image{2, 3, 1, {0, 1, 2, 4, 5, 6}}));
  ExpectPart(CropCentre(image, 4, 2).status().message(), "4 x 3 pixels, but 2 x 4 are cut out");
}

TEST(ImagePreprocessing, WhatIsNotThereIsAsInTheProcessorOfTheModel) {
  const auto vit = *ParseImagePreprocessing("{}", kVit);
  EXPECT_EQ(vit.resize, (Size{224, 224}));
  EXPECT_EQ(vit.crop, std::nullopt);
  EXPECT_EQ(vit.filter, ResizeFilter::kBilinear);
  EXPECT_EQ(vit.mean, Numbers(3, 0.5));
  EXPECT_EQ(vit.std, Numbers(3, 0.5));
  EXPECT_EQ(ParseImagePreprocessing("{}", kGrey)->resize, (Size{28, 28}));
  const auto deit = *ParseImagePreprocessing("{}", kDeit);
  EXPECT_EQ(deit.resize, (Size{256, 256}));
  EXPECT_EQ(deit.crop, (Size{224, 224}));
  EXPECT_EQ(deit.filter, ResizeFilter::kBicubic);
  EXPECT_EQ(deit.mean, Numbers(3, 0.5));
  // The file's word counts, not the model's.
  for (const char* key : {"image_processor_type", "feature_extractor_type"}) {
    const std::string as_deit = std::string("{\"") + key + R"(": "DeiTFeatureExtractor"})";
    EXPECT_EQ(ParseImagePreprocessing(as_deit, kVit)->resize, (Size{256, 256}));
  }
  EXPECT_EQ(ParseImagePreprocessing(R"({"image_processor_type": "ViTImageProcessorFast"})", kDeit)->crop, std::nullopt);
}

TEST(ImagePreprocessing, SizesAreReadInEachOfTheirForms) {
  EXPECT_EQ(ParseImagePreprocessing(R"({"size": 28, "resample": 3})", kGrey)->filter, ResizeFilter::kBicubic);
  const auto parsed = *ParseImagePreprocessing(
      R"({"size": {"height": 300, "width": 240}, "crop_size": 224, "resample": 2, "do_center_crop": true})", kDeit);
  EXPECT_EQ(parsed.resize, (Size{300, 240}));
  EXPECT_EQ(parsed.crop, (Size{224, 224}));
  EXPECT_EQ(parsed.filter, ResizeFilter::kBilinear);
  EXPECT_EQ(parsed.Takes(kDeit.patches).height, 0);
  const auto untouched = *ParseImagePreprocessing(R"({"do_resize": false, "size": 7})", kGrey);
  EXPECT_EQ(untouched.resize, std::nullopt);
  EXPECT_EQ(untouched.Takes(kGrey.patches).height, 28);
}

TEST(ImagePreprocessing, AnImageIsResizedAndItsMiddleCutOut) {
  const auto deit = *ParseImagePreprocessing(R"({"size": 6, "crop_size": 4})", Model("DeiTModel", 4, 3));
  const Image image = Pattern(9, 5, 3);
  EXPECT_EQ(*deit.Resized(image), *CropCentre(*ResizeImage(image, 6, 6, ResizeFilter::kBicubic), 4, 4));
}

TEST(ImagePreprocessing, NumbersAreRescaledAndNormalisedOnlyWhenTheFileSaysSo) {
  const auto pixel = [](const char* json, uint8_t byte) {
    const auto parsed = ParseImagePreprocessing(json, Model("ViTModel", 1, 1));
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    float value = 0;
    NormalizeImage({1, 1, 1, {byte}}, parsed->mean, parsed->std, {&value, 1});
    return value;
  };
  EXPECT_FLOAT_EQ(pixel(R"({"image_mean": [0.1307], "image_std": 0.3081})", 51), (0.2F - 0.1307F) / 0.3081F);
  EXPECT_FLOAT_EQ(pixel(R"({"do_normalize": false, "image_mean": 7})", 51), 0.2F);
  EXPECT_FLOAT_EQ(pixel(R"({"do_rescale": false, "image_mean": 100, "image_std": 50})", 51), -0.98F);
  EXPECT_FLOAT_EQ(pixel(R"({"do_rescale": false, "do_normalize": false})", 51), 51);
  EXPECT_FLOAT_EQ(pixel(R"({"rescale_factor": 0.00784313725490196, "image_mean": 1, "image_std": 1})", 51), -0.6F);
}

TEST(ImagePreprocessing, WhatIsNotDoneIsRefusedByName) {
  for (const char* bad : {R"({"rescale_factor": 0})", R"({"rescale_factor": "x"})", R"({"image_std": 0})",
                          R"({"image_mean": [0.1, 0.2]})", R"({"image_mean": "x"})", R"({"image_std": [1, 1, -1]})",
                          "7", R"({"do_resize": 1})", R"({"rescale_factor": 1e308, "image_std": 1e-300})"}) {
    Refusal(bad, kVit);
  }
  ExpectPart(Refusal(R"({"image_processor_type": "CLIPImageProcessor"})", kVit), "\"CLIPImageProcessor\" is not");
  for (const char* filter : {"0", "1", "2.5", "\"bilinear\""}) {
    ExpectPart(Refusal("{\"resample\": " + std::string(filter) + "}", kVit),
               "\"resample\" must be 2 (bilinear) or 3 (bicubic)");
  }
  ExpectPart(Refusal(R"({"do_pad": true})", kVit), "\"do_pad\"");
  ExpectPart(Refusal(R"({"do_center_crop": true})", kVit), "\"do_center_crop\"");
  ExpectPart(Refusal(R"({"size": {"shortest_edge": 224}})", kVit), "\"size\" must be");
  ExpectPart(Refusal(R"({"size": 0})", kVit), "\"size\" must be from 1");
  ExpectPart(Refusal(R"({"size": 32})", kGrey), "images of 32 x 32 pixels, but the model takes 28 x 28");
  ExpectPart(Refusal(R"({"size": 200})", kDeit), "which pads");
  ExpectPart(Refusal("{}", Model("DeiTModel", 384, 3)), "images of 224 x 224 pixels, but the model takes 384 x 384");
}

TEST(ImagePreprocessing, IsReadFromItsFileOrWithoutSizesFromTheModels) {
  const TempDir folder;
  folder.Write("config.json", R"({"image_mean": 0.25, "size": 7})");
  const auto models = *ReadImagePreprocessing(folder.path(), kGrey);
  EXPECT_EQ(models.mean, Numbers{0.25});
  EXPECT_EQ(models.resize, std::nullopt);
  folder.Write("preprocessor_config.json", R"({"image_mean": 0.75})");
  const auto own = *ReadImagePreprocessing(folder.path(), kGrey);
  EXPECT_EQ(own.mean, Numbers{0.75});
  EXPECT_EQ(own.resize, (Size{28, 28}));
  folder.Write("preprocessor_config.json", "[");
  ExpectPart(ReadImagePreprocessing(folder.path(), kGrey).status().message(), "preprocessor_config.json");
}

}  // namespace
}  // namespace heddle::model
