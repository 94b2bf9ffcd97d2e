#include "model/pretrain/card.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace heddle::model {
namespace {

std::string Number(double value, const char* format) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, format, value);
  return buffer;
}

std::string Millions(double value) { return Number(value / 1e6, "%.2f"); }

}  // namespace

std::string ModelCard(const PretrainSettings& s, const CardFacts& f) {
  const ModelSpec& c = s.model;
  std::string out =
      "---\nlanguage: en\nlibrary_name: transformers\npipeline_tag: text-generation\nlicense: other\n---\n# " + s.name +
      "\n\n" + s.description + "\n\n";
  out += "## Model\nLlama, " + Millions(static_cast<double>(f.parameters)) +
         " M parameters in bfloat16: " + std::to_string(c.num_hidden_layers) + " layers, width " +
         std::to_string(c.hidden_size) + ", " + std::to_string(c.num_attention_heads) + " heads (" +
         std::to_string(c.num_key_value_heads) + " for keys and values) of " + std::to_string(c.head_dim) +
         ", feed-forward " + std::to_string(c.intermediate_size) + ", " + std::to_string(c.max_position_embeddings) +
         " positions, output tied to the embedding.\nByte-level BPE of " + std::to_string(c.vocab_size) +
         " tokens, learned from the same text; `<|endoftext|>` separates documents.\n\n";
  const double seen = static_cast<double>(f.steps * s.batch_size * s.sequence_length);
  out += "## Training\nAdamW on one machine's CPU, " + std::to_string(s.threads) + " threads, " +
         Number(f.train_seconds / 60, "%.0f") + " minutes: " + std::to_string(f.steps) + " steps of " +
         std::to_string(s.batch_size) + " x " + std::to_string(s.sequence_length) + " tokens (" + Millions(seen) +
         " M; the text has " + Millions(static_cast<double>(f.train_tokens)) + " M), learning rate " +
         Number(s.learning_rate, "%g") + " with a cosine to " + Number(s.final_learning_rate, "%g") +
         ", weight decay " + Number(s.weight_decay, "%g") + ", seed " + std::to_string(s.seed) +
         ".\nSettings: `pretrain.toml` in this folder. To make it again: `heddle-pretrain --config pretrain.toml "
         "--work WORK all --out OUT`.\n\n";
  out += "## Held-out quality\nPerplexity a token on " + std::to_string(f.test_tokens) +
         " tokens of documents that were not trained on (chosen by hash), windows of " +
         std::to_string(s.sequence_length) +
         ". The n-gram models are counted on the same training tokens and tuned on a third part.\n\n"
         "| model | perplexity | nats a token |\n|---|---|---|\n";
  const auto row = [&out](const std::string& name, double loss) {
    out += "| " + name + " | " + Number(std::exp(loss), "%.1f") + " | " + Number(loss, "%.3f") + " |\n";
  };
  row("unigram, add-" + Number(f.ngrams.unigram_delta, "%g"), f.ngrams.unigram);
  row("bigram, interpolated, discount " + Number(f.ngrams.bigram_discount, "%.2f"), f.ngrams.bigram);
  row("**" + s.name + "** (the committed bfloat16 weights)", f.test_loss);
  out += "\nThat is " +
         Number(f.test_loss * static_cast<double>(f.test_tokens) / std::log(2.0) / static_cast<double>(f.test_bytes),
                "%.2f") +
         " bits a byte.\n\n## Data and licences\nText from packages of Debian 12, markup stripped, repeated paragraphs "
         "once. No Bible text and nothing from the network.\n\n"
         "| package | what | licence | MB | documents |\n|---|---|---|---|---|\n";
  for (const CorpusSource& source : s.sources) {
    const auto count = std::find_if(f.counts.begin(), f.counts.end(),
                                    [&](const SourceCount& n) { return n.package == source.package; });
    if (count == f.counts.end()) continue;
    out += "| " + source.package + " | " + source.what + " | " + source.licence + " | " +
           Millions(static_cast<double>(count->bytes)) + " | " + std::to_string(count->documents) + " |\n";
  }
  out += "\n" + s.licence +
         "\n\n## Use and limits\nA base for tests and demonstrations of federated fine-tuning. It writes "
         "English-looking sentences and "
         "knows nothing; do not use it for anything that matters.\n";
  return out;
}

}  // namespace heddle::model
