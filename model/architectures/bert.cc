// BERT (Devlin et al., 1810.04805) and RoBERTa (Liu et al., 1907.11692), which differs in how it counts positions and
// in its head. Learned positions and token types, norms behind the residual.
#include "model/architectures/architectures.h"

namespace heddle::model {
namespace {

// What all of them have under `prefix`.
void ReadBody(ConfigReader& reader, const std::string& prefix, ModelSpec* spec) {
  StartEncoder(spec);
  spec->placement = NormPlacement::kPost;
  spec->max_position_embeddings = 512;
  spec->type_vocab_size = 2;
  spec->tie_word_embeddings = true;
  ReadCommonSizes(reader, spec);
  reader.RequiredInt("intermediate_size", &spec->intermediate_size, 1, kMaxWidth);
  reader.RequiredInt("vocab_size", &spec->vocab_size, 1, kMaxVocab);
  reader.Int("type_vocab_size", &spec->type_vocab_size, 1, kMaxVocab);
  reader.Positive("layer_norm_eps", &spec->norm_eps);
  reader.ActivationName("hidden_act", &spec->activation);
  reader.Only("position_embedding_type", "absolute");
  reader.Only("is_decoder", false);
  reader.Only("add_cross_attention", false);
  SetHeadDim(reader, spec);

  const std::string embeddings = prefix + "embeddings.";
  spec->token_embedding = embeddings + "word_embeddings.weight";
  spec->positions.name = embeddings + "position_embeddings.weight";
  spec->type_embedding = embeddings + "token_type_embeddings.weight";
  spec->embedding_norm = embeddings + "LayerNorm";
  spec->layer.path = prefix + "encoder.layer.{}";
  spec->layer.query = "attention.self.query";
  spec->layer.key = "attention.self.key";
  spec->layer.value = "attention.self.value";
  spec->layer.attention_out = "attention.output.dense";
  spec->layer.attention_norm = "attention.output.LayerNorm";
  spec->layer.up = "intermediate.dense";
  spec->layer.down = "output.dense";
  spec->layer.mlp_norm = "output.LayerNorm";
  spec->prefix = prefix;
  spec->ignored_endings = {"embeddings.position_ids", "embeddings.token_type_ids"};
}

}  // namespace

void ReadBert(ConfigReader& reader, ModelSpec* spec) {
  ReadBody(reader, "", spec);
  spec->head.pooling = Pooling::kFirst;
  spec->head.dense = "pooler.dense";
  spec->head.activation = Activation::kTanh;
  spec->surplus_prefix = "bert.";
  spec->ignored_beginnings = {"cls."};
  spec->optional = {"pooler.dense.weight", "pooler.dense.bias"};
}

void ReadBertMasked(ConfigReader& reader, ModelSpec* spec) {
  ReadBody(reader, "bert.", spec);
  spec->head.task = Task::kMaskedLm;
  spec->head.dense = "cls.predictions.transform.dense";
  spec->head.activation = spec->activation;
  spec->head.norm = "cls.predictions.transform.LayerNorm";
  spec->head.output = "cls.predictions.decoder";
  spec->head.output_bias = true;
  spec->head.output_bias_name = "cls.predictions.bias";
  // The other half of pre-training, and a copy of the bias.
  spec->ignored_beginnings = {"bert.pooler.", "cls.seq_relationship.", "cls.predictions.decoder.bias"};
}

void ReadBertClasses(ConfigReader& reader, ModelSpec* spec) {
  ReadBody(reader, "bert.", spec);
  ReadLabels(reader, spec);
  SetClassHead(Task::kSequenceClassification, "bert.pooler.dense", Activation::kTanh, "classifier", spec);
  spec->ignored_beginnings = {"cls."};  // of pre-training
}

void ReadRobertaClasses(ConfigReader& reader, ModelSpec* spec) {
  ReadBody(reader, "roberta.", spec);
  ReadLabels(reader, spec);
  if (spec->pad_token_id < 0) spec->pad_token_id = 1;
  // Positions are counted from pad_token_id + 1, so that the table has more rows than a sequence may have tokens.
  spec->positions.source = PositionSource::kNotPadding;
  spec->positions.offset = spec->pad_token_id + 1;
  spec->positions.rows = spec->max_position_embeddings;
  spec->max_position_embeddings -= spec->positions.offset;
  if (spec->max_position_embeddings < 1) {
    reader.Fail(InvalidArgument("config.json: max_position_embeddings must be above pad_token_id + 1"));
    spec->max_position_embeddings = 1;
  }
  SetClassHead(Task::kSequenceClassification, "classifier.dense", Activation::kTanh, "classifier.out_proj", spec);
  spec->ignored_beginnings = {"roberta.pooler.", "lm_head."};
}

}  // namespace heddle::model
