// A pretrained model's config.json turned into that of the same model with a new head: what makes a classifier of a
// folder that has none, or of one with other classes, or a masked language model. Free of LibTorch. Thread-safety: pure
// functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "model/config/model_spec.h"

namespace heddle::model {

// Says in config.json that the parameters of the head may be absent from the weights, and are zero until an adapter
// brings them (ModelSpec::fresh).
inline constexpr std::string_view kNewHeadKey = "heddle_new_head";

// The text of config.json for classification (of texts or images, as the model is) with so many labels; 1: a number is
// predicted. `names`: none, or one for each label. BertModel, BertForMaskedLM, BertForPreTraining and
// BertForSequenceClassification become the last of these; so with Roberta, DistilBert, ViT and DeiT. What else is in
// the file stays. Errors: kInvalidArgument for a text that is no configuration, labels outside 1 .. 65536 or names that
// are not as many; kUnimplemented for a model that has no classifier here, with those that have.
Result<std::string> ConfigWithNewHead(std::string_view config_json, int64_t num_labels,
                                      const std::vector<std::string>& names = {});

// The text of config.json for pre-training on masked words: BertModel, BertForPreTraining and
// BertForSequenceClassification become BertForMaskedLM, without what was said of classes. Its head is none of the new
// ones above: the weights must have it (model/parts/masked_model.h makes it). Errors: kInvalidArgument for a text that
// is no configuration, kUnimplemented for another model.
Result<std::string> ConfigWithMaskedHead(std::string_view config_json);

// The parameters of a model's head that these tensors lack, or have in another shape: what must come with the adapter.
// In name order; those of a spec without a new head are none.
std::vector<std::string> MissingHeadParameters(const ModelSpec& spec, const StateDictSpec& checkpoint);

// All parameters of the head, in name order. A tied output weight is none.
std::vector<std::string> HeadParameters(const ModelSpec& spec);

}  // namespace heddle::model
