// Every case of tests/data/compression/cases.txt, which another program computed from docs/formats.md: the encoded
// bytes, what they decode to, and what is left for the next update.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <sstream>

#include "aggregation/compression/compressor.h"
#include "common/digest.h"
#include "common/file.h"

namespace heddle::compression {
namespace {

std::vector<std::string> Split(const std::string& text, char by) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, by);) parts.push_back(part);
  return parts;
}

std::vector<float> Floats(const std::string& hex) {
  std::vector<float> values;
  for (size_t i = 0; hex != "-" && i < hex.size(); i += 8) {
    uint32_t bits = 0;
    for (size_t byte = 4; byte > 0; --byte) {
      bits = bits << 8 | static_cast<uint32_t>(std::stoul(hex.substr(i + 2 * (byte - 1), 2), nullptr, 16));
    }
    float value;
    std::memcpy(&value, &bits, sizeof value);
    values.push_back(value);
  }
  return values;
}

std::string Joined(const StateDict& tensors) {
  std::string bytes;
  for (const auto& [name, tensor] : tensors) {
    bytes.append(reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size());
  }
  return bytes;
}

// As the file tells it.
std::string Told(const std::string& bytes) {
  if (bytes.size() > 100) return "sha256:" + Sha256(bytes).ToHex();
  std::string hex;
  for (const char byte : bytes) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", static_cast<unsigned char>(byte));
    hex += two;
  }
  return hex;
}

void CheckCase(const std::vector<std::string>& fields, StateDict update, StateDict residual) {
  const auto pipeline = Pipeline::Parse(fields[1] == "-" ? std::vector<std::string>() : Split(fields[1], ','));
  ASSERT_TRUE(pipeline.ok()) << pipeline.status();
  const Compressor compressor(*pipeline, std::stoull(fields[2], nullptr, 16));
  update.erase(fields[3]);
  residual.erase(fields[3]);
  const bool feedback = fields[4] == "feedback";
  const auto encoded = compressor.Encode(update, feedback ? &residual : nullptr);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_EQ(encoded->bytes.size(), std::stoull(fields[5]));
  EXPECT_EQ(encoded->count.total(), encoded->bytes.size());
  EXPECT_EQ(Told(encoded->bytes), fields[6]);
  const auto decoded = compressor.Decode(std::as_bytes(std::span(encoded->bytes)), SpecOf(update), 1 << 20);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(SpecOf(*decoded), SpecOf(update));
  EXPECT_EQ(Told(Joined(*decoded)), fields[7]);
  if (feedback) {
    EXPECT_EQ(Told(Joined(residual)), fields[8]);
  }
  const auto size = compressor.SizeOf(SpecOf(update));
  ASSERT_TRUE(size.ok());
  EXPECT_LE(size->min, encoded->bytes.size());
  EXPECT_GE(size->max, encoded->bytes.size());
  EXPECT_EQ(size->sent_values, encoded->count.sent_values);
  if (fields[1].find("top_k") == std::string::npos) {
    EXPECT_EQ(size->min, size->max);
  }
}

TEST(CompressionCases, AreWhatTheDefinitionSays) {
  const auto text = ReadFile(HEDDLE_SOURCE_DIR "/tests/data/compression/cases.txt");
  ASSERT_TRUE(text.ok()) << text.status();
  StateDict update, residual;
  int cases = 0;
  for (const std::string& line : Split(*text, '\n')) {
    const std::vector<std::string> fields = Split(line, '\t');
    if (fields[0] == "set") {
      update.clear();
      residual.clear();
    } else if (fields[0] == "tensor") {
      Shape shape;
      for (const std::string& size : Split(fields[2], ',')) {
        if (size != "-") shape.push_back(std::stoll(size));
      }
      update.emplace(fields[1], Tensor::FromFloats(shape, Floats(fields[3])));
      residual.emplace(fields[1], Tensor::FromFloats(shape, Floats(fields[4])));
    } else if (fields[0] == "case") {
      SCOPED_TRACE(fields[1] + " seed " + fields[2] + " " + fields[4]);
      CheckCase(fields, update, residual);
      ++cases;
    }
  }
  EXPECT_EQ(cases, 96);
}

}  // namespace
}  // namespace heddle::compression
