// Seeds of fuzz_split_frame, a frame of each kind and encoding, and of fuzz_split_plan.
#include "protocol/split/frame.h"
#include "tests/fuzz/seeds.h"

namespace heddle::fuzz {

namespace {

void PlanSeeds() {
  const std::string plan =
      "name = \"split\"\nbase_model = \"base\"\nseed = 7\nrounds = 3\ndevices_per_round = 4\n[split]\ncut = 2\n"
      "topology = \"label_sharing\"\nserver = \"parallel\"\nencoding = \"int8\"\ngradient_encoding = \"bf16\"\n"
      "pipeline = 2\nmin_devices = 2\nround_timeout_s = 60.0\n[train]\nlocal_steps = 5\nbatch_size = 2\n"
      "gradient_accumulation_steps = 4\nsequence_length = 64\n[device]\npeft_type = \"LORA\"\nr = 4\n"
      "target_modules = [\"q_proj\", \"v_proj\"]\nlayers_to_transform = [0, 1]\n[server]\npeft_type = \"BOTTLENECK\"\n"
      "learning_rate = 1e-3\n[privacy]\nclip_norm = 1.0\nnoise_multiplier = 0.5\nlabel_epsilon = 2.0\n"
      "[strategy]\nname = \"FedAdam\"\nmax_abs = 4.0\n";
  Write("fuzz_split_plan", "whole", plan);
  Write("fuzz_split_plan", "bare", "base_model = \"base\"\n");
  Write("fuzz_split_plan", "infinite", Replace(Replace(plan, "0.5", "inf"), "1e-3", "nan"));
  Write("fuzz_split_plan", "huge", Replace(Replace(plan, "rounds = 3", "rounds = 1000000"), "= 64", "= 1048576"));
  Write("fuzz_split_plan", "quoted", Replace(plan, "v_proj", "a\\\"\\\\\\u0001\\u007f"));
  Write("fuzz_split_plan", "strategy",
        "base_model = \"b\"\n[strategy]\nname = \"TrimmedMean\"\ntrim_fraction = 0.2\nmax_abs = 3\nnone = \"1e400\"\n");
  Write("fuzz_split_plan", "sequential",
        "base_model = \"b\"\n[split]\nserver = \"sequential\"\ntopology = \"u_shaped\"\n");
}

}  // namespace

void SplitSeeds() {
  using namespace heddle::protocol;
  for (const CutEncoding encoding : {CutEncoding::kFloat32, CutEncoding::kBfloat16, CutEncoding::kInt8}) {
    TensorFrame frame;
    frame.encoding = encoding;
    frame.session = 1;
    frame.sequence = frame.step = 1;
    frame.rows = 2;
    frame.length = 3;
    frame.width = 4;
    frame.mask = {1, 1, 1, 1, 0, 0};
    frame.targets = {5, 6, -100, 7, -100, -100};
    frame.counted = 3;
    std::vector<float> values;
    for (int i = 0; i < 24; ++i) values.push_back(0.25F * static_cast<float>(i - 12));
    if (!EncodeTensor(encoding, values, frame.width, &frame.tensor).ok()) Fail("a seed's tensor");
    const std::string name(CutEncodingName(encoding));
    Write("fuzz_split_frame", "activations-" + name, Serialize(frame));
    frame.segments = {0, 0, 1, 0, 1, 1};
    frame.targets.clear();
    frame.grades = {0.5F, 1.5F};
    Write("fuzz_split_frame", "packed-" + name, Serialize(frame));
    TensorFrame answer = frame;
    answer.kind = FrameKind::kGradient;
    answer.mask.clear();
    answer.segments.clear();
    answer.grades.clear();
    answer.durable = 1;
    answer.loss = 2.5;
    Write("fuzz_split_frame", "gradient-" + name, Serialize(answer));
  }
  ControlFrame hello;
  hello.text = std::string(64, 'a');
  Write("fuzz_split_frame", "hello", Serialize(hello));
  ControlFrame welcome;
  welcome.kind = FrameKind::kWelcome;
  welcome.session = welcome.round = 1;
  welcome.tensors.emplace("a.lora_A.weight", Tensor::FromFloats({1, 2}, std::vector<float>{1, 2}));
  Write("fuzz_split_frame", "welcome", Serialize(welcome));
  Write("fuzz_split_frame", "refusal", RefusalFrame(Unavailable("not yet"), 100));
  PlanSeeds();
}

}  // namespace heddle::fuzz
