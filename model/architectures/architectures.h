// The architectures that there are: one short file each, which reads config.json into a ModelSpec and says by that how
// the model differs from the others. docs/adding-a-model.md says how one is added. Free of LibTorch. Thread-safe.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "model/config/config_reader.h"
#include "model/config/model_spec.h"

namespace heddle::model {

struct Architecture {
  std::string_view name;        // as in config.json's "architectures"
  std::string_view model_type;  // where a config.json without architectures means this one; else empty
  // Fills everything but `architecture` and `torch_dtype`. Mistakes stay in the reader.
  void (*read)(ConfigReader& reader, ModelSpec* spec);
};
std::span<const Architecture> Architectures();

// What several files share.
//
// hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size, vocab_size,
// max_position_embeddings, bos, eos and pad ids and tie_word_embeddings under these names.
void ReadCommonSizes(ConfigReader& reader, ModelSpec* spec);
// bos, eos and pad ids, each one or a list.
void ReadTokenIds(ConfigReader& reader, ModelSpec* spec);
// hidden_size / num_attention_heads, where head_dim is not set already.
void SetHeadDim(ConfigReader& reader, ModelSpec* spec);

// The Llama family (llama.cc): names, norm and activation, and defaults for the rest; sizes are the caller's.
ModelSpec LlamaSpec();
// A config.json that ParseModelConfig reads back to an equal spec, for one that started as LlamaSpec().
std::string LlamaConfigJson(const ModelSpec& spec);

void ReadLlama(ConfigReader& reader, ModelSpec* spec);
void ReadMistral(ConfigReader& reader, ModelSpec* spec);
void ReadQwen2(ConfigReader& reader, ModelSpec* spec);
void ReadGpt2(ConfigReader& reader, ModelSpec* spec);
void ReadOpt(ConfigReader& reader, ModelSpec* spec);
void ReadGptNeoX(ConfigReader& reader, ModelSpec* spec);

// num_labels and label_names, from "id2label" or "num_labels" (2 when neither is there), and refuses what
// "problem_type" says beyond one class of several, or a number with one label (labels.cc).
void ReadLabels(ConfigReader& reader, ModelSpec* spec);
// What encoders of text and images have in common: layer norms, attention to both sides, GELU and biases everywhere,
// unless config.json says otherwise (encoders.cc, as the next).
void StartEncoder(ModelSpec* spec);
// A classifier on the first token: its output layer, and dense layer with activation before it if there is one.
void SetClassHead(Task task, const std::string& dense, Activation activation, const std::string& output,
                  ModelSpec* spec);
void ReadBert(ConfigReader& reader, ModelSpec* spec);
void ReadBertMasked(ConfigReader& reader, ModelSpec* spec);
void ReadBertClasses(ConfigReader& reader, ModelSpec* spec);
void ReadRobertaClasses(ConfigReader& reader, ModelSpec* spec);
void ReadDistilBertClasses(ConfigReader& reader, ModelSpec* spec);
void ReadVit(ConfigReader& reader, ModelSpec* spec);
void ReadDeit(ConfigReader& reader, ModelSpec* spec);
void ReadDeitWithTeacher(ConfigReader& reader, ModelSpec* spec);

}  // namespace heddle::model
