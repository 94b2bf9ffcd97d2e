// DistilBERT (Sanh et al., 1910.01108): BERT without token types and pooler, with names and keys of its own.
#include "model/architectures/architectures.h"

namespace heddle::model {

void ReadDistilBertClasses(ConfigReader& reader, ModelSpec* spec) {
  StartEncoder(spec);
  spec->placement = NormPlacement::kPost;
  spec->max_position_embeddings = 512;
  reader.RequiredInt("dim", &spec->hidden_size, 1, kMaxWidth);
  reader.RequiredInt("hidden_dim", &spec->intermediate_size, 1, kMaxWidth);
  reader.RequiredInt("n_layers", &spec->num_hidden_layers, 1, kMaxLayers);
  reader.RequiredInt("n_heads", &spec->num_attention_heads, 1, kMaxWidth);
  spec->num_key_value_heads = spec->num_attention_heads;
  reader.RequiredInt("vocab_size", &spec->vocab_size, 1, kMaxVocab);
  reader.Int("max_position_embeddings", &spec->max_position_embeddings, 1, kMaxPositions);
  reader.Int("pad_token_id", &spec->pad_token_id, -1, kMaxVocab);
  reader.ActivationName("activation", &spec->activation);
  SetHeadDim(reader, spec);
  ReadLabels(reader, spec);

  spec->token_embedding = "distilbert.embeddings.word_embeddings.weight";
  spec->positions.name = "distilbert.embeddings.position_embeddings.weight";  // stored also where they are sinusoids
  spec->embedding_norm = "distilbert.embeddings.LayerNorm";
  spec->layer.path = "distilbert.transformer.layer.{}";
  spec->layer.query = "attention.q_lin";
  spec->layer.key = "attention.k_lin";
  spec->layer.value = "attention.v_lin";
  spec->layer.attention_out = "attention.out_lin";
  spec->layer.attention_norm = "sa_layer_norm";
  spec->layer.up = "ffn.lin1";
  spec->layer.down = "ffn.lin2";
  spec->layer.mlp_norm = "output_layer_norm";
  SetClassHead(Task::kSequenceClassification, "pre_classifier", Activation::kRelu, "classifier", spec);
  spec->prefix = "distilbert.";
  spec->ignored_endings = {"embeddings.position_ids"};
  spec->ignored_beginnings = {"vocab_"};
}

}  // namespace heddle::model
