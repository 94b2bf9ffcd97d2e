// The worker's pipe loop over real pipes, with tasks of this test.
#include "client/worker/worker_loop.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <thread>

#include "client/worker/framing.h"
#include "client/worker/train_plan.h"
#include "client/worker/upload.h"
#include "common/safetensors.h"
#include "protocol/validate.h"
#include "tests/unit/protocol/transport_fixture.h"

namespace heddle::client {
namespace {

using protocol::TempDir;
using testing::HasSubstr;

class WorkerLoopTest : public testing::Test {
 protected:
  WorkerLoopTest() {
    int in[2], out[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    their_input_ = UniqueFd(in[0]);
    commands_ = UniqueFd(in[1]);
    events_ = UniqueFd(out[0]);
    their_output_ = UniqueFd(out[1]);
    reader_.emplace(events_.get());
    backend_.local_tasks = {"sum"};
    backend_.run = [](const std::string&, const TaskInput&, const ProgressCallback&) -> Result<TaskOutput> {
      return TaskOutput{{{"w", Tensor::FromFloats({2}, std::vector<float>{1, 2})}},
                        TaskStats{.num_examples = 4, .steps = 1}};
    };
  }
  ~WorkerLoopTest() override { (void)End(); }

  void Start() {
    thread_ = std::thread([this] {
      end_ = RunWorkerLoop(their_input_.get(), their_output_.get(), backend_);
      their_output_.Reset();
    });
  }
  Status End() {
    commands_.Reset();
    if (thread_.joinable()) thread_.join();
    return end_;
  }
  void Put(std::string_view bytes) {
    ASSERT_EQ(::write(commands_.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  void SendRun() {
    v1::WorkerCommand command;
    v1::WorkerRun& run = *command.mutable_run();
    run.set_local_task("sum");
    TrainSettings settings;
    settings.local_steps = 3;
    settings.rules.upload = upload_;
    *run.mutable_train() = ToTrainPlan(settings);
    run.set_seed(5);
    run.set_base_model_dir("/base");
    run.set_adapter_dir("/adapter");
    run.set_data_path("/data");
    run.set_update_path(update_.string());
    ASSERT_TRUE(WriteFrame(commands_.get(), command).ok());
  }
  void SendCancel() {
    v1::WorkerCommand command;
    command.mutable_cancel();
    ASSERT_TRUE(WriteFrame(commands_.get(), command).ok());
  }
  v1::WorkerEvent Next() {
    std::string body;
    const Result<bool> more = reader_->Next(&body);
    if (!more.ok() || !*more) return {};
    auto event = protocol::ParseMessage<v1::WorkerEvent>(body);
    EXPECT_TRUE(event.ok()) << event.status();
    return event.ok() ? *event : v1::WorkerEvent();
  }
  v1::WorkerDone WaitForDone() {
    for (;;) {
      v1::WorkerEvent event = Next();
      if (!event.has_progress()) return event.done();
    }
  }

  TempDir temp_;
  std::vector<std::string> upload_;  // of the plan
  const std::filesystem::path update_ = temp_.path() / "update.safetensors";
  WorkerBackend backend_;
  UniqueFd their_input_, commands_, events_, their_output_;
  std::optional<FrameReader> reader_;
  std::thread thread_;
  Status end_;
};

TEST_F(WorkerLoopTest, SaysThatItIsReadyAndEndsWithItsInput) {
  Start();
  const v1::WorkerEvent ready = Next();
  ASSERT_TRUE(ready.has_ready());
  EXPECT_THAT(ready.ready().local_tasks(), testing::ElementsAre("sum"));
  EXPECT_FALSE(ready.ready().software_version().empty());
  EXPECT_TRUE(End().ok());
}

TEST_F(WorkerLoopTest, WritesTheUpdateBeforeItSaysDone) {
  Start();
  Next();
  SendRun();
  const v1::WorkerDone done = WaitForDone();
  EXPECT_EQ(done.code(), 0) << done.message();
  EXPECT_EQ(done.metrics().num_examples(), 4u);
  EXPECT_GT(done.metrics().peak_memory_bytes(), 1u << 20);
  const auto file = ReadSafetensors(update_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors.at("w").values<float>()[1], 2);
}

TEST_F(WorkerLoopTest, SaysWhetherATaskEndedForItsMemory) {
  const auto good = backend_.run;
  Status outcome;
  backend_.run = [&](const std::string& task, const TaskInput& input, const ProgressCallback& progress) {
    return outcome.ok() ? good(task, input, progress) : Result<TaskOutput>(outcome);
  };
  Start();
  Next();
  const auto run = [&](Status status) {
    outcome = std::move(status);
    SendRun();
    return WaitForDone();
  };
  EXPECT_TRUE(run(ResourceExhausted("there is not enough memory for the task")).out_of_memory());
  EXPECT_TRUE(run(ResourceExhausted("not enough memory: a forward pass needs about 9 MiB")).out_of_memory());
  EXPECT_FALSE(run(ErrnoStatus(ENOSPC, "cannot write the unpacked images")).out_of_memory());
  EXPECT_FALSE(run(Internal("NaN")).out_of_memory());
  EXPECT_FALSE(run(OkStatus()).out_of_memory());
}

TEST_F(WorkerLoopTest, WritesTheUpdateAsSmallAsThePlanAsks) {
  upload_ = {"sign"};
  Start();
  Next();
  SendRun();
  const v1::WorkerDone done = WaitForDone();
  EXPECT_EQ(done.code(), 0) << done.message();
  const auto bytes = ReadFile(update_);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(bytes->substr(0, 4), "HDCU");
}

TEST_F(WorkerLoopTest, DrawsTheNoiseThatThePlanAsksForFromTheSecretBesideTheUpdate) {
  upload_ = {"clip:1", "noise:0.5"};
  Start();
  Next();
  SendRun();
  const v1::WorkerDone refused = WaitForDone();
  EXPECT_EQ(refused.code(), static_cast<int>(Code::kFailedPrecondition));
  EXPECT_THAT(refused.message(), HasSubstr("was given no secret"));
  EXPECT_FALSE(std::filesystem::exists(update_));
  ASSERT_TRUE(WriteFileAtomically(temp_.path() / kNoiseSecretFile, "of this round", 0600).ok());
  SendRun();
  const v1::WorkerDone done = WaitForDone();
  EXPECT_EQ(done.code(), 0) << done.message();
  EXPECT_TRUE(std::isnan(done.metrics().train_loss()) && std::isnan(done.metrics().first_loss()));
  // What the simulator makes of the same task with the same secret.
  TaskInput input;
  input.seed = 5;
  input.train.rules.upload = upload_;
  TaskOutput output{{{"w", Tensor::FromFloats({2}, std::vector<float>{1, 2})}}, {}};
  const auto expected = MakeUpload(input, &output, "of this round");
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_EQ(*ReadFile(update_), *expected);
}

TEST_F(WorkerLoopTest, RefusesAWayToMakeUpdatesSmallerThatItDoesNotKnowBeforeItTrains) {
  std::atomic<int> runs = 0;
  backend_.run = [&](const std::string&, const TaskInput&, const ProgressCallback&) -> Result<TaskOutput> {
    ++runs;
    return TaskOutput{};
  };
  upload_ = {"wavelets"};
  Start();
  Next();
  SendRun();
  const v1::WorkerDone done = WaitForDone();
  EXPECT_EQ(done.code(), static_cast<int>(Code::kInvalidArgument));
  EXPECT_THAT(done.message(), HasSubstr("'wavelets' is no way to make updates smaller"));
  EXPECT_EQ(runs, 0);
}

TEST_F(WorkerLoopTest, RunsOneTaskAfterAnother) {
  std::vector<uint64_t> seeds;
  backend_.run = [&](const std::string& name, const TaskInput& input, const ProgressCallback&) -> Result<TaskOutput> {
    EXPECT_EQ(name, "sum");
    EXPECT_EQ(input.train.local_steps, 3u);
    EXPECT_EQ(input.base_model_dir, "/base");
    seeds.push_back(input.seed);
    return TaskOutput{};
  };
  Start();
  Next();
  for (int i = 0; i < 50; ++i) {
    SendRun();
    EXPECT_EQ(WaitForDone().code(), 0);
  }
  EXPECT_TRUE(End().ok());
  EXPECT_EQ(seeds, std::vector<uint64_t>(50, 5));
}

TEST_F(WorkerLoopTest, ErrorsAndExceptionsOfTheTaskAreItsAnswerAndTheLoopGoesOn) {
  std::atomic<int> call = 0;
  backend_.run = [&](const std::string&, const TaskInput&, const ProgressCallback&) -> Result<TaskOutput> {
    if (call++ == 0) return InvalidArgument("the data is empty \xff");
    throw std::runtime_error("out of luck");
  };
  Start();
  Next();
  SendRun();
  v1::WorkerDone done = WaitForDone();
  EXPECT_EQ(done.code(), static_cast<int>(Code::kInvalidArgument));
  EXPECT_EQ(done.message(), "the data is empty ?");
  SendRun();
  done = WaitForDone();
  EXPECT_EQ(done.code(), static_cast<int>(Code::kInternal));
  EXPECT_THAT(done.message(), HasSubstr("out of luck"));
  EXPECT_TRUE(End().ok());
}

// A task that goes on until it is told to stop.
Result<TaskOutput> Endless(const std::string&, const TaskInput&, const ProgressCallback& progress) {
  for (uint32_t step = 1;; ++step) {
    if (!progress(std::min(step, 1000u), 1000, 0.5)) return Cancelled("stopped");
    std::this_thread::yield();
  }
}

TEST_F(WorkerLoopTest, CancelStopsTheTaskAndTheNextOneRuns) {
  std::atomic<int> call = 0;
  auto plain = backend_.run;
  backend_.run = [&](const std::string& name, const TaskInput& input, const ProgressCallback& p) {
    return call++ == 0 ? Endless(name, input, p) : plain(name, input, p);
  };
  Start();
  Next();
  SendRun();
  EXPECT_EQ(Next().progress().step(), 1u);
  SendCancel();
  EXPECT_EQ(WaitForDone().code(), static_cast<int>(Code::kCancelled));
  EXPECT_FALSE(std::filesystem::exists(update_));
  SendRun();
  EXPECT_EQ(WaitForDone().code(), 0);
}

TEST_F(WorkerLoopTest, CancelRightBehindTheRunIsNotLost) {
  backend_.run = Endless;
  Start();
  Next();
  SendRun();
  SendCancel();
  EXPECT_EQ(WaitForDone().code(), static_cast<int>(Code::kCancelled));
}

TEST_F(WorkerLoopTest, CancelWithoutATaskDoesNotHarmTheNext) {
  Start();
  Next();
  SendCancel();
  SendRun();
  EXPECT_EQ(WaitForDone().code(), 0);
}

TEST_F(WorkerLoopTest, EndOfInputStopsTheTask) {
  backend_.run = Endless;
  Start();
  Next();
  SendRun();
  Next();
  commands_.Reset();
  EXPECT_EQ(WaitForDone().code(), static_cast<int>(Code::kCancelled));
  EXPECT_TRUE(End().ok());
}

TEST_F(WorkerLoopTest, DaemonThatIsGoneStopsTheTask) {
  backend_.run = Endless;
  Start();
  Next();
  SendRun();
  Next();
  events_.Reset();
  thread_.join();  // the input is still open
  EXPECT_EQ(end_.code(), Code::kUnavailable);
}

TEST_F(WorkerLoopTest, RubbishOnTheInputEndsTheLoopWithAReason) {
  Start();
  Next();
  Put(std::string("\x03\x00\x00\x00\xff\xff\xff", 7));
  EXPECT_EQ(End().code(), Code::kInvalidArgument);
}

TEST_F(WorkerLoopTest, HostileLengthEndsTheLoopWithAReason) {
  Start();
  Next();
  Put(std::string("\xff\xff\xff\xff", 4));
  EXPECT_EQ(End().code(), Code::kResourceExhausted);
}

TEST_F(WorkerLoopTest, SecondTaskWhileOneRunsIsRefused) {
  backend_.run = Endless;
  Start();
  Next();
  SendRun();
  Next();
  SendRun();
  EXPECT_EQ(WaitForDone().code(), static_cast<int>(Code::kCancelled));
  EXPECT_EQ(End().code(), Code::kInvalidArgument);
}

TEST(TrainPlan, ConversionKeepsEveryField) {
  TrainSettings settings{.local_steps = 2,
                         .batch_size = 3,
                         .sequence_length = 5,
                         .warmup_steps = 7,
                         .threads = 11,
                         .learning_rate = 0.13,
                         .weight_decay = 0.17,
                         .beta1 = 0.19,
                         .beta2 = 0.23,
                         .epsilon = 0.29,
                         .max_grad_norm = 0.31,
                         .momentum = 0.37,
                         .optimizer = "SGD",
                         .lr_scheduler_type = "cosine",
                         .base_dtype = "nf4",
                         .gradient_accumulation_steps = 41,
                         .gradient_checkpointing = true,
                         .bf16 = true};
  const TrainSettings back = ToTrainSettings(ToTrainPlan(settings));
  EXPECT_EQ(back.local_steps, 2u);
  EXPECT_EQ(back.batch_size, 3u);
  EXPECT_EQ(back.sequence_length, 5u);
  EXPECT_EQ(back.warmup_steps, 7u);
  EXPECT_EQ(back.threads, 11u);
  EXPECT_EQ(back.learning_rate, 0.13);
  EXPECT_EQ(back.weight_decay, 0.17);
  EXPECT_EQ(back.beta1, 0.19);
  EXPECT_EQ(back.beta2, 0.23);
  EXPECT_EQ(back.epsilon, 0.29);
  EXPECT_EQ(back.max_grad_norm, 0.31);
  EXPECT_EQ(back.momentum, 0.37);
  EXPECT_EQ(back.optimizer, "SGD");
  EXPECT_EQ(back.lr_scheduler_type, "cosine");
  EXPECT_EQ(back.base_dtype, "nf4");
  EXPECT_EQ(back.gradient_accumulation_steps, 41u);
  EXPECT_TRUE(back.gradient_checkpointing);
  EXPECT_TRUE(back.bf16);
}

TEST(TrainPlan, ConversionKeepsEveryFieldOfZerothOrder) {
  TrainSettings settings;
  settings.zo = {.estimator = "forward_gradient",
                 .distribution = "rademacher",
                 .optimizer = "zo_adam",
                 .zo_eps = 0.13,
                 .clip_projected_grad = 0.17,
                 .max_loss_difference = 0.19,
                 .sparse_fraction = 0.23,
                 .projection_scale = 0.29,
                 .num_perturbations = 2,
                 .anchor_interval = 3,
                 .anchor_perturbations = 5,
                 .layer_groups = 11,
                 .layer_group = 7,
                 .intrinsic_dim = 13,
                 .population = 17,
                 .kept_front_mb = 19};
  const v1::TrainPlan plan = ToTrainPlan(settings);
  const google::protobuf::Descriptor& descriptor = *plan.zo().GetDescriptor();
  std::vector<const google::protobuf::FieldDescriptor*> set;
  plan.zo().GetReflection()->ListFields(plan.zo(), &set);
  EXPECT_EQ(static_cast<int>(set.size()), descriptor.field_count()) << "a new field joins the conversion and this test";
  EXPECT_EQ(ToTrainPlan(ToTrainSettings(plan)).SerializeAsString(), plan.SerializeAsString());
  const ZerothOrderSettings back = ToTrainSettings(plan).zo;
  EXPECT_EQ(back.estimator + back.distribution + back.optimizer, "forward_gradientrademacherzo_adam");
  EXPECT_EQ(back.zo_eps, 0.13);
  EXPECT_EQ(back.clip_projected_grad, 0.17);
  EXPECT_EQ(back.max_loss_difference, 0.19);
  EXPECT_EQ(back.sparse_fraction, 0.23);
  EXPECT_EQ(back.projection_scale, 0.29);
  EXPECT_EQ(back.num_perturbations, 2u);
  EXPECT_EQ(back.anchor_interval, 3u);
  EXPECT_EQ(back.anchor_perturbations, 5u);
  EXPECT_EQ(back.layer_groups, 11u);
  EXPECT_EQ(back.layer_group, 7u);
  EXPECT_EQ(back.intrinsic_dim, 13u);
  EXPECT_EQ(back.population, 17u);
  EXPECT_EQ(back.kept_front_mb, 19u);
}

TEST(TrainPlan, ConversionKeepsEveryFieldOfPseudoLabelsAndPrompts) {
  TrainSettings settings;
  settings.pseudo_labels = {
      .label_now = true, .soft = true, .samples = 2, .neighbours = 3, .candidates = 5, .pool = 7, .min_logit = -0.5};
  settings.prompt = {.pattern = "{text} {mask}", .words = {"no", "yes"}, .label_names = {"0", "1"}};
  const v1::TrainPlan plan = ToTrainPlan(settings);
  for (const google::protobuf::Message* message : {static_cast<const google::protobuf::Message*>(&plan.pseudo_labels()),
                                                   static_cast<const google::protobuf::Message*>(&plan.prompt())}) {
    std::vector<const google::protobuf::FieldDescriptor*> set;
    message->GetReflection()->ListFields(*message, &set);
    EXPECT_EQ(static_cast<int>(set.size()), message->GetDescriptor()->field_count()) << "a new field joins this test";
  }
  const TrainSettings back = ToTrainSettings(plan);
  EXPECT_EQ(ToTrainPlan(back).SerializeAsString(), plan.SerializeAsString());
  ASSERT_TRUE(back.pseudo_labels && back.prompt);
  EXPECT_EQ(back.pseudo_labels->min_logit, -0.5);
  EXPECT_EQ(back.pseudo_labels->samples, 2u);
  EXPECT_EQ(back.prompt->words, (std::vector<std::string>{"no", "yes"}));
  settings.pseudo_labels->min_logit.reset();  // none is not zero
  EXPECT_FALSE(ToTrainSettings(ToTrainPlan(settings)).pseudo_labels->min_logit.has_value());
}

TEST(TrainPlan, SettingsOfBeforeMakeThePlanOfBefore) {
  v1::TrainPlan plan;
  plan.set_local_steps(2);
  plan.set_threads(1);
  const TrainSettings settings = ToTrainSettings(plan);
  EXPECT_EQ(settings.gradient_accumulation_steps, 1u);
  EXPECT_EQ(ToTrainPlan(settings).SerializeAsString(), plan.SerializeAsString());
}

}  // namespace
}  // namespace heddle::client
