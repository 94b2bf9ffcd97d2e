// What no split server may send: the device refuses it with a sentence, nothing of the device's changes, and it goes on
// with the right answer as if nothing had been.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "client/split/answer_size.h"
#include "tests/unit/split/split_world.h"

namespace heddle {
namespace {

using protocol::ControlFrame;
using protocol::FrameKind;
using protocol::TensorFrame;

struct Bad {
  std::string what, frame;
  Code code;
  std::string words;  // of the refusal
};

void PutFloat(float value, size_t at, std::string* bytes) {
  bytes->replace(at, sizeof value, reinterpret_cast<const char*>(&value), sizeof value);
}

// The answer to a request of a step, changed.
std::vector<Bad> BadSteps(const std::string& answer) {
  const TensorFrame right = *protocol::ParseTensorFrame(answer);
  std::vector<Bad> out;
  const auto add = [&](const std::string& what, Code code, const std::string& words, auto change) {
    TensorFrame frame = right;
    change(frame);
    out.push_back({what, Serialize(frame), code, words});
  };
  const Code wrong = Code::kInvalidArgument;
  const std::string not_it = "and what was asked is request " + std::to_string(right.sequence);
  add("another session", wrong, "answered what was not asked", [](TensorFrame& f) { f.session += 2; });
  add("the next request's number", wrong, not_it, [](TensorFrame& f) { ++f.sequence; });
  add("a number far beyond", wrong, not_it, [](TensorFrame& f) { f.sequence = 0xffffffff; });
  add("another step", wrong, not_it, [](TensorFrame& f) { ++f.step; });
  add("another micro-batch", wrong, not_it, [](TensorFrame& f) {
    f.micros = std::max(f.micros, 2U);
    f.micro = (f.micro + 1) % f.micros;
  });
  add("another kind", wrong, not_it,
      [](TensorFrame& f) { f.kind = f.kind == FrameKind::kHidden ? FrameKind::kGradient : FrameKind::kHidden; });
  add("a device's kind", wrong, "only devices send", [](TensorFrame& f) {
    f.kind = FrameKind::kActivations;
    f.durable = 0;
  });
  add("fewer rows", wrong, "of another shape", [](TensorFrame& f) {
    --f.rows;
    f.tensor.resize(f.tokens() * f.width * sizeof(float));
  });
  add("longer rows", wrong, "of another shape", [](TensorFrame& f) {
    ++f.length;
    f.tensor.resize(f.tokens() * f.width * sizeof(float));
  });
  add("more rows than the plan's", Code::kResourceExhausted, "larger than the plan's", [](TensorFrame& f) {
    f.rows *= 2;
    f.tensor += f.tensor;
  });
  add("another width", wrong, "wide", [](TensorFrame& f) {
    f.width *= 2;
    f.length /= 2;
  });
  add("another encoding", wrong, "the plan says f32", [](TensorFrame& f) {
    f.encoding = protocol::CutEncoding::kBfloat16;
    f.tensor.resize(f.tensor.size() / 2);
  });
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    add("a value that is not finite", wrong, "finite",
        [value](TensorFrame& f) { PutFloat(value, f.tensor.size() - sizeof value, &f.tensor); });
  }
  add("a loss that is not finite", wrong, "finite",
      [](TensorFrame& f) { f.loss = std::numeric_limits<double>::quiet_NaN(); });
  for (const size_t kept : {answer.size() - 1, size_t{64}, size_t{63}, size_t{8}, size_t{5}, size_t{4}, size_t{0}}) {
    out.push_back({"cut off after " + std::to_string(kept), answer.substr(0, kept), wrong, "malformed"});
  }
  out.push_back({"a byte too many", answer + "x", wrong, "malformed"});
  std::string bytes = answer;
  bytes[0] = 'X';
  out.push_back({"no frame", bytes, wrong, "malformed"});
  bytes = answer;
  bytes[6] = 1;  // says that a mask follows
  out.push_back({"a list beside it", bytes, wrong, "malformed"});
  return out;
}

// Welcomes to a new session with an adapter that is not the plan's; `good` is one as it should be.
std::vector<Bad> BadWelcomes(const ControlFrame& good) {
  std::vector<Bad> out;
  const auto add = [&](const std::string& what, const std::string& words, auto change) {
    ControlFrame frame = good;
    frame.session += 4;
    change(frame);
    out.push_back({what, Serialize(frame), Code::kInvalidArgument, words});
  };
  const std::string unfit = "does not fit the base model";
  add("without a number", "without a number", [](ControlFrame& f) { f.session = 0; });
  add("without an adapter", unfit, [](ControlFrame& f) { f.tensors.clear(); });
  add("without one tensor", unfit, [](ControlFrame& f) { f.tensors.erase(f.tensors.begin()); });
  add("with a tensor of another layer", unfit, [](ControlFrame& f) {
    auto one = f.tensors.extract(f.tensors.begin());
    one.key() += ".of.another";
    f.tensors.insert(std::move(one));
  });
  add("with another shape", unfit, [](ControlFrame& f) {
    heddle::Tensor& tensor = f.tensors.begin()->second;
    tensor = heddle::Tensor::FromFloats({tensor.numel()}, tensor.values<float>());
  });
  add("with another type", unfit, [](ControlFrame& f) {
    heddle::Tensor& tensor = f.tensors.begin()->second;
    std::span<std::byte> bytes;
    tensor = heddle::Tensor::Allocate({DType::kF16, tensor.shape()}, &bytes);
  });
  add("with a value that is not finite", "not finite", [](ControlFrame& f) {
    heddle::Tensor& tensor = f.tensors.begin()->second;
    std::vector<float> values(tensor.values<float>().begin(), tensor.values<float>().end());
    values.back() = std::numeric_limits<float>::quiet_NaN();
    tensor = heddle::Tensor::FromFloats(tensor.shape(), values);
  });
  std::string bytes = Serialize(good);
  out.push_back({"cut off", bytes.substr(0, bytes.size() - 1), Code::kInvalidArgument, ""});
  out.push_back({"cut off in its head", bytes.substr(0, 30), Code::kInvalidArgument, "malformed"});
  bytes[5] = 1;  // must be zero
  out.push_back({"with bytes that must be zero", bytes, Code::kInvalidArgument, "malformed"});
  return out;
}

// What a server may not say whatever the device waits for, in the session of `welcome`.
std::vector<Bad> BadAtAnyTime(const ControlFrame& welcome, bool update_was_sent) {
  ControlFrame counted;
  counted.kind = FrameKind::kCounted;
  counted.session = welcome.session + (update_was_sent ? 2 : 0);
  counted.round = welcome.round;
  ControlFrame hello;
  hello.session = welcome.session;
  return {{"counted what was not sent", Serialize(counted), Code::kInvalidArgument, "counted what was not sent"},
          {"a hello", Serialize(hello), Code::kInvalidArgument, "only devices send"},
          {"a refusal that trying again does not help", protocol::RefusalFrame(FailedPrecondition("not today")),
           Code::kFailedPrecondition, "the split server refuses: not today"}};
}

class DeviceRefusals : public testing::TestWithParam<Settings> {
 protected:
  void Refuse(client::SplitDevice& device, const std::vector<Bad>& all) {
    for (const Bad& bad : all) {
      SCOPED_TRACE(bad.what);
      const StateDict before = device.Adapter();
      const auto action = device.Take(bad.frame);
      ASSERT_FALSE(action.ok());
      EXPECT_EQ(action.status().code(), bad.code) << action.status();
      EXPECT_NE(action.status().message().find(bad.words), std::string::npos) << action.status();
      EXPECT_FALSE(action.status().message().empty());
      ExpectSameBits(before, device.Adapter());
      ++refused_;
    }
  }

  int refused_ = 0;
};

TEST_P(DeviceRefusals, LeaveTheDeviceAsItIsAndItGoesOnWithTheRightAnswer) {
  const Settings settings = With({{"split.server", "per_device"}}, GetParam());
  SplitWorld undisturbed(settings), world(settings);
  undisturbed.Interleaved();
  std::map<std::string, ControlFrame> welcomes;   // to the session in hand
  std::map<std::string, std::string> last_steps;  // the last answer of a step
  world.before_delivery = [&](const std::string& name, const std::string& answer) {
    client::SplitDevice& device = *world.devices.at(name);
    const FrameKind kind = *protocol::KindOf(answer);
    if (kind == FrameKind::kHidden || kind == FrameKind::kGradient) {
      Refuse(device, BadSteps(answer));
      Refuse(device, BadWelcomes(welcomes.at(name)));
      Refuse(device, BadAtAnyTime(welcomes.at(name), false));
    } else if (kind == FrameKind::kCounted) {
      Refuse(device, BadAtAnyTime(welcomes.at(name), true));
      Refuse(device, {{"an answer to nothing", last_steps.at(name), Code::kInvalidArgument, "what was not asked"}});
    } else if (const ControlFrame welcome = *protocol::ParseControlFrame(answer); !welcome.tensors.empty()) {
      if (last_steps.contains(name)) {  // of the round before
        Refuse(device, {{"an answer without a session", last_steps.at(name), Code::kInvalidArgument, "not asked"}});
      }
      Refuse(device, BadWelcomes(welcome));
      welcomes[name] = welcome;
      last_steps.erase(name);
    }
    if (kind == FrameKind::kHidden || kind == FrameKind::kGradient) {
      if (last_steps.contains(name)) {
        Refuse(device, {{"the answer before", last_steps.at(name), Code::kInvalidArgument, "answered request"}});
      }
      last_steps[name] = answer;
    }
  };
  world.Interleaved();
  ExpectSameBits(world.Outcome(), undisturbed.Outcome());
  EXPECT_GT(refused_, 300);
}

INSTANTIATE_TEST_SUITE_P(All, DeviceRefusals,
                         testing::Values(Settings{}, Settings{{"split.topology", "label_sharing"}},
                                         Settings{{"train.gradient_accumulation_steps", "3"}, {"split.pipeline", "2"}}),
                         [](const auto& info) { return "Settings" + std::to_string(info.index); });

TEST(DeviceWelcomes, AWelcomeToAPlaceThatIsForgottenBeginsTheRoundAnew) {
  const Settings settings = {{"split.server", "per_device"}};
  SplitWorld undisturbed(settings), world(settings);
  undisturbed.Interleaved();
  ControlFrame welcome;
  world.before_delivery = [&welcome](const std::string& /*device*/, const std::string& answer) {
    if (*protocol::KindOf(answer) == FrameKind::kWelcome) welcome = *protocol::ParseControlFrame(answer);
  };
  client::SplitDevice& device = *world.devices.at("device-0");
  for (int guard = 0; device.stats().steps < 2 && guard < 100; ++guard) world.Turn("device-0");
  ASSERT_EQ(device.stats().steps, 2U);
  welcome.tensors.clear();
  welcome.last = 3;  // within a step
  const auto action = device.Take(Serialize(welcome));
  ASSERT_TRUE(action.ok()) << action.status();
  ASSERT_EQ(action->kind, client::SplitDevice::Action::Kind::kSend);
  const auto hello = protocol::ParseControlFrame(action->frame);
  ASSERT_TRUE(hello.ok()) << hello.status();
  EXPECT_EQ(hello->kind, FrameKind::kHello);
  EXPECT_EQ(hello->session, 0U);
  EXPECT_EQ(hello->last, 0U);
  EXPECT_TRUE(device.Adapter().empty());
  world.Reconnect("device-0");
  world.Interleaved();
  ExpectSameBits(world.Outcome(), undisturbed.Outcome());
}

// What the device's end of a connection takes at most.
TEST(SplitAnswerSize, IsThatOfTheLargestAnswerAndLittleMore) {
  for (const Settings& settings :
       {Settings{}, Settings{{"split.topology", "label_sharing"}}, Settings{{"split.encoding", "int8"}},
        Settings{{"device.peft_type", "FULL"}, {"server.peft_type", "FULL"}}, Settings{{"device.peft_type", "NONE"}},
        Settings{{"train.batch_size", "32"}, {"train.sequence_length", "32"}}}) {
    SplitWorld world(settings);
    size_t largest = 0;
    world.before_delivery = [&largest](const std::string& /*device*/, const std::string& answer) {
      largest = std::max(largest, answer.size());
    };
    world.Interleaved();
    const auto bound = client::LargestSplitAnswer(world.plan);
    ASSERT_TRUE(bound.ok()) << bound.status();
    EXPECT_GE(*bound, largest);
    EXPECT_LE(*bound, largest + 8192);
  }
}

}  // namespace
}  // namespace heddle
