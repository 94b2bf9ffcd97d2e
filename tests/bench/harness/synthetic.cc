#include "synthetic.h"

#include <algorithm>
#include <vector>

#include "common/file.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "coordinator/recipe/recipe.h"
#include "model/architectures/architectures.h"

namespace heddle::bench {
namespace {

namespace fs = std::filesystem;

Status WriteBase(const fs::path& folder, const fs::path& tokenizer, const SyntheticShape& shape) {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  model::ModelSpec config = model::LlamaSpec();
  config.hidden_size = shape.hidden;
  config.intermediate_size = 16;
  config.num_hidden_layers = shape.layers;
  config.num_attention_heads = config.num_key_value_heads = 4;
  config.head_dim = shape.hidden / 4;
  config.vocab_size = 2048;
  config.max_position_embeddings = 64;
  config.tie_word_embeddings = true;
  config.torch_dtype = "bfloat16";
  StateDict weights;
  for (const auto& [name, spec] : config.WeightSpec()) {
    std::span<std::byte> bytes;
    weights.emplace(name, Tensor::Allocate({DType::kBF16, spec.shape}, &bytes));
  }
  HEDDLE_RETURN_IF_ERROR(WriteSafetensors(folder / "model.safetensors", weights));
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(folder / "config.json", model::LlamaConfigJson(config)));
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(tokenizer));
  return WriteFileAtomically(folder / "tokenizer.json", text);
}

std::string RecipeText(const SyntheticShape& shape, uint32_t devices, uint32_t rounds) {
  return "name = \"bench\"\nseed = 1\n\n[model]\nbase = \"base\"\n\n[lora]\nr = " + std::to_string(shape.rank) +
         "\nlora_alpha = 16\ntarget_modules = [\"q_proj\", \"k_proj\", \"v_proj\", \"o_proj\"]\n\n[strategy]\n" +
         "num_server_rounds = " + std::to_string(rounds) + "\ncohort_size = " + std::to_string(devices) +
         "\nmax_abs = 4.0\n\n[train]\nlocal_steps = 1\nbatch_size = 1\nsequence_length = 16\n";
}

}  // namespace

Result<SyntheticRun> MakeSyntheticRun(const fs::path& folder, const fs::path& tokenizer, const SyntheticShape& shape,
                                      uint32_t devices, uint32_t rounds) {
  HEDDLE_RETURN_IF_ERROR(WriteBase(folder / "base", tokenizer, shape));
  SyntheticRun run;
  run.recipe = folder / "recipe.toml";
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(run.recipe, RecipeText(shape, devices, rounds)));
  HEDDLE_ASSIGN_OR_RETURN(const coordinator::Recipe recipe, coordinator::Recipe::Load(run.recipe));
  HEDDLE_ASSIGN_OR_RETURN(const coordinator::RunMaterial material, coordinator::PrepareRun(recipe));
  StateDict update;
  const PhiloxStream random(2);
  uint64_t next = 0;
  for (const auto& [name, tensor] : material.initial_adapter) {
    std::vector<float> values(static_cast<size_t>(tensor.numel()));
    for (float& value : values) value = (random.UniformAt(next++) - 0.5F) * 0.01F;
    update.emplace(name, Tensor::FromFloats(tensor.shape(), values));
  }
  run.update = SerializeSafetensors(update);
  uint64_t values = TotalBytes(update);
  run.first_value_offset = run.update.size() - values;
  return run;
}

}  // namespace heddle::bench
