// Vision transformers: ViT (Dosovitskiy et al., 2010.11929), and DeiT (Touvron et al., 2012.12877), which has one more
// token. Images in patches, norms before the residual, the class read from the first token.
#include "model/architectures/architectures.h"

namespace heddle::model {
namespace {

void ReadVision(ConfigReader& reader, const std::string& prefix, ModelSpec* spec) {
  StartEncoder(spec);
  spec->placement = NormPlacement::kPre;
  spec->patches.image_size = 224;
  spec->patches.patch_size = 16;
  spec->patches.channels = 3;
  ReadCommonSizes(reader, spec);
  reader.RequiredInt("intermediate_size", &spec->intermediate_size, 1, kMaxWidth);
  reader.Int("image_size", &spec->patches.image_size, 1, kMaxImageSize);
  reader.Int("patch_size", &spec->patches.patch_size, 1, kMaxImageSize);
  reader.Int("num_channels", &spec->patches.channels, 1, kMaxChannels);
  reader.Positive("layer_norm_eps", &spec->norm_eps);
  reader.ActivationName("hidden_act", &spec->activation);
  reader.Bool("qkv_bias", &spec->qkv_bias);
  SetHeadDim(reader, spec);
  ReadLabels(reader, spec);
  // These belong to texts.
  spec->vocab_size = spec->max_position_embeddings = 0;
  spec->bos_token_id = spec->eos_token_id = spec->pad_token_id = -1;
  spec->tie_word_embeddings = false;

  spec->patches.projection = prefix + "embeddings.patch_embeddings.projection";
  spec->patches.class_token = prefix + "embeddings.cls_token";
  spec->positions.name = prefix + "embeddings.position_embeddings";
  spec->final_norm = prefix + "layernorm";
  spec->layer.path = prefix + "encoder.layer.{}";
  spec->layer.query = "attention.attention.query";
  spec->layer.key = "attention.attention.key";
  spec->layer.value = "attention.attention.value";
  spec->layer.attention_out = "attention.output.dense";
  spec->layer.attention_norm = "layernorm_before";
  spec->layer.up = "intermediate.dense";
  spec->layer.down = "output.dense";
  spec->layer.mlp_norm = "layernorm_after";
  SetClassHead(Task::kImageClassification, "", Activation::kNone, "classifier", spec);
  spec->prefix = prefix;
  spec->ignored_beginnings = {prefix + "pooler."};
}

}  // namespace

void ReadVit(ConfigReader& reader, ModelSpec* spec) { ReadVision(reader, "vit.", spec); }

void ReadDeit(ConfigReader& reader, ModelSpec* spec) {
  ReadVision(reader, "deit.", spec);
  spec->patches.distillation_token = "deit.embeddings.distillation_token";
}

void ReadDeitWithTeacher(ConfigReader& reader, ModelSpec* spec) {
  ReadDeit(reader, spec);
  spec->head.output = "cls_classifier";
  spec->head.second_output = "distillation_classifier";
}

}  // namespace heddle::model
