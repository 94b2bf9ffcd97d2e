// Seeds of fuzz_split_frame: a frame of each kind and encoding.
#include "protocol/split/frame.h"
#include "tests/fuzz/seeds.h"

namespace heddle::fuzz {

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
}

}  // namespace heddle::fuzz
