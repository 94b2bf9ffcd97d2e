// What encoders share.
#include "model/architectures/architectures.h"

namespace heddle::model {

void StartEncoder(ModelSpec* spec) {
  spec->norm = NormKind::kLayer;
  spec->norm_eps = 1e-12;
  spec->causal = false;
  spec->activation = Activation::kGelu;
  spec->qkv_bias = spec->attention_out_bias = spec->mlp_bias = true;
}

void SetClassHead(Task task, const std::string& dense, Activation activation, const std::string& output,
                  ModelSpec* spec) {
  spec->head.task = task;
  spec->head.pooling = Pooling::kFirst;
  spec->head.dense = dense;
  spec->head.activation = activation;
  spec->head.output = output;
  spec->head.output_bias = true;
}

}  // namespace heddle::model
