// Seeds of fuzz_tensor_tree and fuzz_emulator, and of what lies beside a model's weights: the index of its shards for
// fuzz_safetensors, generation_config.json for fuzz_model_config.
#include "common/safetensors.h"
#include "model/parts/tensor_tree.h"
#include "tests/fuzz/parts_model.h"
#include "tests/fuzz/seeds.h"

namespace heddle::fuzz {
namespace {

// Where fuzz_safetensors has the shards a (x, y) and b (z).
void ShardSeeds() {
  const std::string ours = R"("x":"a.safetensors","y":"a.safetensors","z":"b.safetensors")";
  StateDict third;
  third.emplace("w", Tensor::FromFloats({2}, std::vector<float>{3, 4}));
  const auto write = [](const std::string& name, const std::string& weights, const std::string& shard = "") {
    Write("fuzz_safetensors", "index-" + name,
          "index\n" + std::string(R"({"metadata":{"total_size":24},"weight_map":{)") + weights + "}}\n" + shard);
  };
  write("two", ours);
  write("three", ours + R"(,"w":"c.safetensors")", SerializeSafetensors(third));
  write("one", R"("z":"b.safetensors")");
  write("none", "");
  write("twice", ours + R"(,"x":"a.safetensors")");
  write("damaged", ours + R"(,"w":"c.safetensors")", SerializeSafetensors(third).substr(0, 60));
  write("absent", ours + R"(,"w":"d.safetensors")");
  write("not-all", R"("x":"a.safetensors")");
  write("too-many", ours + R"(,"v":"a.safetensors")");
  write("elsewhere", R"("x":"b.safetensors","y":"a.safetensors","z":"b.safetensors")");
  write("outside", R"("x":"../a.safetensors")");
  write("absolute", R"("x":"/a.safetensors")");
  write("itself", R"("x":"model.safetensors.index.json")");
  write("no-name", R"("x":"")");
  write("nul", R"("z":"b.safetensors\u0000.x")");
  write("long", R"("x":")" + std::string(300, 'a') + "\"");
  write("number", R"("x":1)");
  Write("fuzz_safetensors", "index-list", "index\n{\"weight_map\":[]}\n");
}

void GenerationSeeds() {
  const auto write = [](const std::string& name, const std::string& tokens) {
    Write("fuzz_model_config", "generation-" + name,
          "generation\n" + std::string(R"({"bos_token_id":1,"temperature":0.6,"eos_token_id":)") + tokens + "}");
  };
  write("one", "9");
  write("several", "[128001,128008,2,128001]");
  write("null", "null");
  write("none", "[]");
  write("minus-one", "[-1,7]");
  write("real", "[7.0,1e2]");
  write("half", "7.5");
  write("too-large", "16777217");
  write("name", "\"</s>\"");
  write("nested", "[[7]]");
  Write("fuzz_model_config", "generation-of-no-tokens", "generation\n{}");
  Write("fuzz_model_config", "generation-list", "generation\n[2]");
}

}  // namespace

void PartSeeds() {
  ShardSeeds();
  GenerationSeeds();
  StateDict weights;
  for (const auto& [name, spec] : PartsModel().WeightSpec()) {
    std::span<std::byte> zeros;  // as Allocate leaves them
    weights.emplace(name, Tensor::Allocate(spec, &zeros));
  }
  const auto write = [](const std::string& name, const StateDict& tensors) {
    const std::string file = SerializeSafetensors(tensors);
    const auto tree = model::MakeTensorTree(std::as_bytes(std::span(file)), Sha256(file));
    if (!tree.ok()) return Fail(tree.status().message());
    Write("fuzz_tensor_tree", name, model::EncodeTensorTree(*tree));
  };
  write("model", weights);
  weights.erase(weights.begin());
  write("model-without-embeddings", weights);
  write("none", {});
  StateDict one;
  one.emplace("scalar", Tensor::FromFloats({}, std::vector<float>{1}));
  one.emplace("empty", Tensor::FromFloats({0, 4}, {}));
  write("scalar-and-empty", one);
  const std::string hash = R"("sha256":")" + std::string(64, 'a') + R"(")";
  const auto emulator = [&](const std::string& name, const std::string& layers, int num_layers,
                            const std::string& more = "") {
    Write("fuzz_emulator", name,
          R"({"layers":[)" + layers + R"(],"num_layers":)" + std::to_string(num_layers) +
              R"(,"ends":1,"weights":[{"name":"model.safetensors",)" + hash + "}]" + more + "}\n");
  };
  emulator("of-the-small-model", "1", 2);
  emulator("with-nothing-dropped", "0,1", 2);
  emulator("of-a-larger-one", "0,3,5", 6);
  emulator("falling", "3,0", 6);
  const std::string how = R"(,"distilled":{"data":"own.txt",)" + hash +
                          R"(,"steps":9,"warmup_steps":1,"batch_size":4,"sequence_length":64,"seed":1,)"
                          R"("learning_rate":1E-4,"lm_weight":1E0,"kd_weight":3E1,"first_lm":8E0,"first_kd":5E-1,)"
                          R"("last_lm":7E0,"last_kd":1E-1})";
  emulator("distilled", "0,3,5", 6, how);
  emulator("distilled-of-the-small-model", "0,1", 2, how);
}

}  // namespace heddle::fuzz
