// The keys of [tuning], and those of [lora] and [model] that came with them, and where their values go. Part of
// RecipeBindings. All are silent at their defaults.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "peft/adapter/adapter_config.h"

namespace heddle::coordinator {

// A new head for a base model that has none, or another one.
struct NewHead {
  int64_t num_labels = 0;                // 0: the head stays as it is
  std::vector<std::string> label_names;  // none, or one for each label
};

// The network that makes a prompt (peft/adapter/prompt_generator.h).
struct NewGenerator {
  uint64_t dim = 0;  // its inputs and units; 0: the prompt itself is trained
  double scale = 1;
};

class TuningBindings {
 public:
  void Bind(ConfigSchema* schema, peft::AdapterConfig* adapter, NewHead* head, NewGenerator* generator);
  // After a load, and after [lora] is in `adapter`. Errors: kInvalidArgument, every mistake on a line of its own.
  Status Store(peft::AdapterConfig* adapter, NewHead* head) const;

  // After Store. What is set and means nothing to the method is refused by name: a recipe that says it expects
  // something else. [lora]'s rank, alpha, dropout and targets may stand beside any method, so that a sweep can change
  // the method alone. Errors: kInvalidArgument.
  Status CheckAllCount(const peft::AdapterConfig& adapter) const;

 private:
  std::string method_ = "lora";
  std::vector<std::string> target_modules_;
  std::vector<int64_t> layers_, bias_layers_;
  std::map<std::string, std::string> rank_pattern_, alpha_pattern_;
  uint64_t num_labels_ = 0;
};

// Names of the methods, in the order of TuningKind.
std::vector<std::string> TuningMethodNames();

}  // namespace heddle::coordinator
