// Seeds of fuzz_tensor_tree and fuzz_emulator.
#include "common/safetensors.h"
#include "model/parts/tensor_tree.h"
#include "tests/fuzz/parts_model.h"
#include "tests/fuzz/seeds.h"

namespace heddle::fuzz {

void PartSeeds() {
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
