// Seeds of what a device trains on: texts, tables, images. Each begins with the byte that its target takes first.
#include <zlib.h>

#include "tests/fuzz/seeds.h"
#include "tests/unit/model/data/make_image.h"

namespace heddle::fuzz {
namespace {

std::string How(int byte) { return std::string(1, static_cast<char>(byte)); }

void Texts() {
  const auto add = [](const char* name, int how, std::string_view content) {
    Write("fuzz_text_records", name, How(how) + std::string(content));
  };
  add("paragraphs", 0, "\xEF\xBB\xBFone\r\ntwo\r\n\r\n\n \t\nthree \xC3\xA9\xF0\x9F\x98\x80");
  add("jsonl-text", 1, "{\"text\": \"a\\u00e9\\n\"}\n\n{\"sentence1\": \"x\", \"sentence2\": \"y\"}\r\n");
  add("jsonl-label", 1 + 4, "{\"text\": \"a\", \"label\": 2}\n{\"text\": \"b\", \"label\": \"1\"}\n{\"label\": 1.0}\n");
  add("jsonl-number", 1 + 12, "{\"text\": \"a\", \"label\": -2.5e3}\n{\"text\": \"a\", \"label\": \"0.5\"}\n");
  add("jsonl-completion", 1, "{\"prompt\": \"1+1=\", \"completion\": \"2\"}\n");
  add("jsonl-messages", 1,
      "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Yes\"}]}\n");
  add("csv", 2 + 8, "label,text\nyes,\"a, \"\"b\"\"\nc\"\nno,5\" pipe\n\n1,x\n");
  add("csv-news", 2 + 4 + 16 + 32, "\"2\",\"Title\",\"Text, and\nmore\"\n\"1\",\"\",\"\"\n");
  add("csv-open", 2, "text\n\"never closed\nx\n");
  add("tsv", 3 + 4, "sentence\tlabel\n\"so\" it goes\t1\nhm\t3\n");
  add("not-utf8", 3, "text\n\xFF\xC3\n\xED\xA0\x80\n\xF4\x90\x80\x80\n");
}

void Images() {
  using model::EncodeJpeg;
  using model::EncodePng;
  using model::Gradient;
  Write("fuzz_image", "png-grey", How(7) + EncodePng(Gradient(8, 8, 1)));
  Write("fuzz_image", "png-colours", How(6) + EncodePng(Gradient(8, 8, 3)));
  Write("fuzz_image", "png-transparent", How(0) + EncodePng(Gradient(3, 5, 4)));
  const std::string palette = model::RawPng::Chunk("PLTE", {0, 0, 0, 10, 20, 30}) + model::RawPng::Chunk("tRNS", {9});
  Write("fuzz_image", "png-palette",
        How(1) + model::RawPng{.width = 2, .bits = 1, .colour_type = 3, .rows = {0, 0x40}, .between = palette}.File());
  Write("fuzz_image", "png-16-bits",
        How(1) + model::RawPng{.bits = 16, .colour_type = 6, .rows = {0, 1, 2, 3, 4, 5, 6, 7, 8}}.File());
  Write("fuzz_image", "jpeg-grey", How(1) + EncodeJpeg(Gradient(8, 8, 1)));
  Write("fuzz_image", "jpeg-colours", How(6) + EncodeJpeg(Gradient(8, 8, 3), 50));
  Write("fuzz_image", "jpeg-other-size", How(6) + EncodeJpeg(Gradient(9, 8, 3), 50));
}

std::string Idx(const std::string& extents, const std::string& data) {
  return std::string("\0\0\x08", 3) + How(static_cast<int>(extents.size())) + [&] {
    std::string head;
    for (char extent : extents) head += std::string("\0\0\0", 3) + extent;
    return head;
  }() + data;
}

std::string Gzip(const std::string& bytes) {
  z_stream stream{};
  std::string out(bytes.size() + 128, '\0');
  if (::deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK) Fail("zlib failed");
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  if (::deflate(&stream, Z_FINISH) != Z_STREAM_END) Fail("zlib failed");
  out.resize(stream.total_out);
  ::deflateEnd(&stream);
  return out;
}

void Configs() {
  const std::string sizes = R"("hidden_size":12,"num_hidden_layers":2,"num_attention_heads":3,"intermediate_size":20)";
  const std::string words = sizes + R"(,"vocab_size":37,"max_position_embeddings":16,"pad_token_id":1)";
  const auto add = [](const char* name, const char* architecture, const std::string& rest) {
    Write("fuzz_model_config", name, R"({"architectures":[")" + std::string(architecture) + R"("],)" + rest + "}");
  };
  add("bert", "BertModel", words);
  add("bert-masked", "BertForMaskedLM", words + R"(,"hidden_act":"gelu","tie_word_embeddings":true)");
  add("bert-classes", "BertForSequenceClassification", words + R"(,"id2label":{"1":"yes","0":"no"})");
  add("bert-grade", "BertForSequenceClassification", words + R"(,"num_labels":1,"problem_type":"regression")");
  add("roberta", "RobertaForSequenceClassification", words + R"(,"type_vocab_size":1,"layer_norm_eps":1e-5)");
  add("distilbert", "DistilBertForSequenceClassification",
      R"("dim":12,"n_layers":2,"n_heads":3,"hidden_dim":20,"vocab_size":37,"activation":"gelu","num_labels":3)");
  add("vit", "ViTForImageClassification",
      sizes + R"(,"image_size":28,"patch_size":4,"num_channels":1,"qkv_bias":false,"head_dim":8,"hidden_act":"relu")");
  add("deit", "DeiTForImageClassificationWithTeacher", sizes + R"(,"image_size":[32,32],"patch_size":16)");
  const auto pixels = [](const char* name, const char* text) { Write("fuzz_preprocessor", name, text); };
  pixels("lists",
         R"({"image_mean":[0.485,0.456,0.406],"image_std":[0.229,0.224,0.225],"rescale_factor":0.00392156862745098})");
  pixels("numbers", R"({"image_mean":0.1307,"image_std":[0.3081],"do_normalize":true,"do_rescale":true})");
  pixels("resized", R"({"size":{"height":40,"width":30},"crop_size":28,"resample":3,"do_center_crop":true})");
  pixels("vit", R"({"image_processor_type":"ViTImageProcessor","size":28,"resample":2,"do_rescale":false})");
  pixels("plain", R"({"do_normalize":false,"image_mean":null})");
}

}  // namespace

void DataSeeds() {
  Configs();
  Texts();
  Images();
  Write("fuzz_idx", "labels", How(0) + Idx("\x03", "abc"));
  Write("fuzz_idx", "images", How(2) + Idx("\x02\x02\x03", "abcdefghijkl"));
  Write("fuzz_idx", "images-packed", How(2) + Gzip(Idx("\x02\x02\x03", "abcdefghijkl")));
  Write("fuzz_idx", "packed-too-long", How(0) + Gzip(Idx("\x03", std::string(300, 'x'))));
  Write("fuzz_idx", "empty", How(2) + Idx(std::string("\0\x02\x03", 3), ""));
}

}  // namespace heddle::fuzz
