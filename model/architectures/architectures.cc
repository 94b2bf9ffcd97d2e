#include "model/architectures/architectures.h"

#include <array>

namespace heddle::model {
namespace {

constexpr std::array kArchitectures = {
    Architecture{"LlamaForCausalLM", "llama", ReadLlama},
    Architecture{"MistralForCausalLM", "mistral", ReadMistral},
    Architecture{"Qwen2ForCausalLM", "qwen2", ReadQwen2},
    Architecture{"GPT2LMHeadModel", "gpt2", ReadGpt2},
    Architecture{"OPTForCausalLM", "opt", ReadOpt},
    Architecture{"GPTNeoXForCausalLM", "gpt_neox", ReadGptNeoX},
    Architecture{"BertModel", "bert", ReadBert},
    Architecture{"BertForMaskedLM", "", ReadBertMasked},
    Architecture{"BertForSequenceClassification", "", ReadBertClasses},
    Architecture{"RobertaForSequenceClassification", "", ReadRobertaClasses},
    Architecture{"DistilBertForSequenceClassification", "", ReadDistilBertClasses},
    Architecture{"ViTForImageClassification", "vit", ReadVit},
    Architecture{"DeiTForImageClassification", "deit", ReadDeit},
    Architecture{"DeiTForImageClassificationWithTeacher", "", ReadDeitWithTeacher},
};

}  // namespace

std::span<const Architecture> Architectures() { return kArchitectures; }

void ReadCommonSizes(ConfigReader& reader, ModelSpec* spec) {
  reader.RequiredInt("hidden_size", &spec->hidden_size, 1, kMaxWidth);
  reader.RequiredInt("num_hidden_layers", &spec->num_hidden_layers, 1, kMaxLayers);
  reader.RequiredInt("num_attention_heads", &spec->num_attention_heads, 1, kMaxWidth);
  spec->num_key_value_heads = spec->num_attention_heads;
  reader.Int("num_key_value_heads", &spec->num_key_value_heads, 1, kMaxWidth);
  reader.Int("head_dim", &spec->head_dim, 1, kMaxWidth);
  reader.Int("intermediate_size", &spec->intermediate_size, 1, kMaxWidth);
  reader.Int("vocab_size", &spec->vocab_size, 1, kMaxVocab);
  reader.Int("max_position_embeddings", &spec->max_position_embeddings, 1, kMaxPositions);
  ReadTokenIds(reader, spec);
  reader.Bool("tie_word_embeddings", &spec->tie_word_embeddings);
}

void ReadTokenIds(ConfigReader& reader, ModelSpec* spec) {
  reader.TokenIds("bos_token_id", &spec->bos_token_id);
  reader.TokenIds("eos_token_id", &spec->eos_token_id, &spec->more_eos_token_ids);
  reader.TokenIds("pad_token_id", &spec->pad_token_id);
}

void SetHeadDim(ConfigReader& reader, ModelSpec* spec) {
  if (spec->head_dim > 0 || spec->num_attention_heads == 0) return;
  if (spec->hidden_size % spec->num_attention_heads != 0) {
    reader.Fail(InvalidArgument("config.json: hidden_size (" + std::to_string(spec->hidden_size) +
                                ") must be a multiple of num_attention_heads (" +
                                std::to_string(spec->num_attention_heads) + ") unless head_dim is given"));
  }
  spec->head_dim = spec->hidden_size / spec->num_attention_heads;
}

}  // namespace heddle::model
