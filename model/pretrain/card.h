// The model card: README.md of a model folder. A pure function.
#pragma once

#include <string>
#include <vector>

#include "model/pretrain/corpus.h"
#include "model/pretrain/ngram.h"
#include "model/pretrain/settings.h"

namespace heddle::model {

struct CardFacts {
  std::vector<SourceCount> counts;
  NgramLosses ngrams;
  double test_loss = 0;
  int64_t test_tokens = 0, test_bytes = 0, train_tokens = 0, steps = 0, parameters = 0;
  double train_seconds = 0;
};

std::string ModelCard(const PretrainSettings& settings, const CardFacts& facts);

}  // namespace heddle::model
