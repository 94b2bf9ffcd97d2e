// The device's half of methods with shared seeds, held to gradients of the task that computes them, and to the
// coordinator's half.
#include "client/worker/zo_ledger.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "aggregation/ledger/ledger_model.h"
#include "client/worker/ledger_replay.h"
#include "client/worker/task_resources.h"
#include "client/worker/train_options.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/unit/tasks/task_fixture.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::client {
namespace {

using ::testing::HasSubstr;

class ZoLedgerTest : public TaskTest {
 protected:
  ZoLedgerTest() {
    WriteLearntAdapter();
    TrainSettings& train = input_.train;
    train.local_steps = 8;
    train.learning_rate = 1e-3;
    train.zo.zo_eps = 1e-3;
    train.zo.clip_projected_grad = 1000;
    train.zo.distribution = "rademacher";
    train.seeds =
        SharedSeedSettings{.seed = Seed(), .first_ref = 0, .pool_size = 64, .resolution_bits = 30, .scalars = ""};
  }

  static uint64_t Seed() { return aggregation::RulesOf("FedKSeed", Options(1))->seeds.seed; }
  static aggregation::AggregatorOptions Options(uint32_t round) {
    aggregation::AggregatorOptions options;
    options.round = round;
    options.method["pool_size"] = 64;
    options.method["resolution_bits"] = 30;
    options.zo = {.learning_rate = 1e-3,
                  .local_steps = 8,
                  .num_perturbations = 1,
                  .epsilon = 1e-3,
                  .max_scalar = 1000,
                  .rademacher = true};
    return options;
  }

  Result<TaskOutput> RunWith(TaskResources& resources) const {
    return (*FindLocalTask("zo_ledger"))->Run(input_, resources, {});
  }
  Result<zo::Scalars> Scalars() {
    HEDDLE_ASSIGN_OR_RETURN(const TaskOutput output, RunWith(*resources_));
    return ScalarsOf(output);
  }
  static Result<zo::Scalars> ScalarsOf(const TaskOutput& output) {
    return zo::DecodeScalars(output.update.at(std::string(aggregation::kScalarsName)).bytes(), 1000, zo::kMaxRef);
  }
  void GiveLedger(const std::string& bytes) {
    ASSERT_TRUE(WriteFileAtomically(folder_ / "adapter" / zo::kLedgerFile, bytes).ok());
  }
};

TEST_F(ZoLedgerTest, AScalarIsTheGradientAlongItsDirection) {
  for (const char* distribution : {"rademacher", "normal"}) {
    for (const char* estimator : {"spsa", "spsa_one_sided"}) {
      input_.train.local_steps = 1;
      input_.train.zo.distribution = distribution;
      input_.train.zo.estimator = estimator;
      const auto scalars = Scalars();
      ASSERT_TRUE(scalars.ok()) << scalars.status();
      ASSERT_EQ(scalars->steps.size(), 1U);
      // SGD's step is the gradient of the same batch.
      TaskInput sgd = input_;
      sgd.train.seeds.reset();
      sgd.train.zo = {};
      sgd.train.optimizer = "SGD";
      sgd.train.learning_rate = 1;
      const auto step = (*FindLocalTask("sft"))->Run(sgd, *resources_, {});
      ASSERT_TRUE(step.ok()) << step.status();
      double along = 0, size = 0;
      const zo::LedgerHead head{.seed = Seed()};
      for (const auto& [name, tensor] : step->update) {
        const auto values = tensor.values<float>();
        std::vector<float> z(values.size());
        zo::FillDirection(
            {std::string(distribution) == "normal" ? zo::Distribution::kNormal : zo::Distribution::kRademacher,
             zo::SeedOf(head, scalars->steps[0].ref), zo::ParameterStream(name)},
            0, z);
        for (size_t i = 0; i < z.size(); ++i) {
          along -= static_cast<double>(values[i]) * z[i];
          size += static_cast<double>(values[i]) * values[i];
        }
      }
      EXPECT_NEAR(static_cast<double>(scalars->steps[0].gradient), along, 0.05 * std::sqrt(size))
          << distribution << " " << estimator;
      EXPECT_GT(std::sqrt(size), 1e-3);
    }
  }
}

// The whole way of both halves over several rounds: a worker that goes on, one that begins anew each time, and the
// coordinator have the same weights, or the coordinator would refuse the update.
TEST_F(ZoLedgerTest, RoundsWithTheCoordinatorsHalfAgreeToTheBit) {
  const auto file = ReadFile(folder_ / "adapter" / "adapter_model.safetensors", 1 << 20);
  const Sha256Digest start = Sha256(*file);
  aggregation::RoundModel model{initial_, {}};
  for (const char* distribution : {"rademacher", "normal"}) {
    model = {initial_, {}};
    std::filesystem::remove(folder_ / "adapter" / zo::kLedgerFile);
    input_.train.zo.distribution = distribution;
    for (uint32_t round = 1; round <= 4; ++round) {
      input_.seed = round;
      aggregation::AggregatorOptions options = Options(round);
      options.zo.rademacher = std::string(distribution) == "rademacher";
      options.parent_digest = start;
      options.load_model = [&](const Sha256Digest&) -> Result<StateDict> { return initial_; };
      const auto output = RunWith(*resources_);
      ASSERT_TRUE(output.ok()) << output.status();
      const auto anew = RunWith(*MakeTaskResources());
      ASSERT_TRUE(anew.ok()) << anew.status();
      EXPECT_EQ(SerializeSafetensors(output->update), SerializeSafetensors(anew->update));
      auto aggregator = aggregation::MakeAggregator("FedKSeed", model.model, options, model.state);
      ASSERT_TRUE(aggregator.ok()) << aggregator.status();
      const aggregation::UpdateInfo info{.num_examples = output->stats.num_examples, .num_steps = 8, .device = "a"};
      const auto validity = (*aggregator)->Validate(output->update, info);
      EXPECT_TRUE(validity.ok()) << validity.message;
      ASSERT_TRUE((*aggregator)->Fold(output->update, info).ok());
      auto next = std::move(**aggregator).Finish();
      ASSERT_TRUE(next.ok()) << next.status();
      model = *std::move(next);
      GiveLedger(zo::EncodeLedger(*aggregation::LedgerOf(model.model)));
    }
  }
  EXPECT_GE(resources_->ledgers().reused(), 6U);
}

// The coordinator's state and its ledger as the daemon places them.
TEST_F(ZoLedgerTest, FetchedWeightsAreTakenInPlaceOfTheReplayAndChangeNoBit) {
  const auto folder = folder_ / "adapter";
  const Sha256Digest start = Sha256(*ReadFile(folder / "adapter_model.safetensors", 1 << 20));
  aggregation::AggregatorOptions options = Options(1);
  options.parent_digest = start;
  options.load_model = [&](const Sha256Digest&) -> Result<StateDict> { return initial_; };
  const auto output = RunWith(*resources_);
  ASSERT_TRUE(output.ok()) << output.status();
  auto aggregator = aggregation::MakeAggregator("FedKSeed", initial_, options, {});
  ASSERT_TRUE(aggregator.ok()) << aggregator.status();
  ASSERT_TRUE((*aggregator)->Fold(output->update, {.num_examples = 8, .num_steps = 8, .device = "a"}).ok());
  auto next = std::move(**aggregator).Finish();
  ASSERT_TRUE(next.ok()) << next.status();
  const std::string ledger = zo::EncodeLedger(*aggregation::LedgerOf(next->model));
  GiveLedger(ledger);
  const auto replaying = MakeTaskResources();
  const auto replayed = RunWith(*replaying);
  ASSERT_TRUE(replayed.ok()) << replayed.status();
  const std::string weights = SerializeSafetensors(next->state);
  ASSERT_TRUE(WriteFileAtomically(folder / zo::kLedgerOfWeightsFile, ledger).ok());
  std::string damaged = weights;
  damaged.back() = static_cast<char>(damaged.back() ^ 1);
  for (const std::string& given : {weights, damaged, std::string("no file of tensors"), weights}) {
    ASSERT_TRUE(WriteFileAtomically(folder / zo::kLedgerWeightsFile, given).ok());
    const auto fetching = MakeTaskResources();
    const auto fetched = RunWith(*fetching);
    ASSERT_TRUE(fetched.ok()) << fetched.status();
    EXPECT_EQ(fetching->ledgers().fetched(), given == weights ? 1U : 0U);
    EXPECT_EQ(SerializeSafetensors(fetched->update), SerializeSafetensors(replayed->update));
  }
  EXPECT_EQ(replaying->ledgers().fetched(), 0U);
  // They take the memory of their ledger and no second copy of the weights. Under a limit without that, it replays.
  const uint64_t with =
      replayed->stats.estimated_memory_bytes + (128 + 80) * aggregation::LedgerOf(next->model)->entries.size();
  ASSERT_GT(with, replayed->stats.estimated_memory_bytes);
  for (const uint64_t limit : {with, with - 1}) {
    input_.memory_limit_bytes = limit;
    const auto limited = MakeTaskResources();
    limited->ledgers().LeaveWeights();
    const auto small = RunWith(*limited);
    ASSERT_TRUE(small.ok()) << small.status();
    EXPECT_EQ(limited->ledgers().fetched(), limit == with ? 1U : 0U);
  }
}

// Two processes with the daemon's work in between, on a run whose devices draw seeds of a pool by their importance: the
// second moves the weights along what has changed, and sends the bytes, its proof among them, of one that replays all.
TEST_F(ZoLedgerTest, AWorkerThatWasStartedAnewGoesOnFromWhatTheLastOneLeft) {
  constexpr uint32_t kPool = 512;
  input_.train.seeds->pool_size = kPool;
  const auto folder = folder_ / "adapter";
  zo::Ledger ledger{.head = {.seed = Seed(), .pool_size = kPool, .epsilon = 1e-3},
                    .round = 1,
                    .entries = {},
                    .importance = std::vector<uint8_t>(kPool, 9),
                    .weights = {}};
  ledger.head.start = *Sha256File(folder / "adapter_model.safetensors");
  for (uint64_t ref = 0; ref < 200; ++ref) ledger.entries.push_back({ref, 1000 + static_cast<int64_t>(ref)});
  const auto give = [&] {
    auto weights = *aggregation::WeightsOf(initial_, 1e-3);
    const auto moves = zo::MovesBetween(zo::EmptyLedger(ledger.head), ledger);
    ASSERT_TRUE(zo::ApplyMoves(ledger.head.distribution, moves, weights.parameters).ok());
    ledger.weights = zo::DigestOfWeights(weights.parameters);
    GiveLedger(zo::EncodeLedger(ledger));
  };
  give();
  const auto simulating = MakeTaskResources();
  ASSERT_TRUE(RunWith(*simulating).ok());
  EXPECT_FALSE(std::filesystem::exists(folder / kReplayedWeightsFile)) << "nobody would take it";
  const auto first = MakeTaskResources();
  first->ledgers().LeaveWeights();
  const auto begun = RunWith(*first);
  ASSERT_TRUE(begun.ok()) << begun.status();
  EXPECT_EQ(first->ledgers().directions(), 200U);
  std::filesystem::rename(folder / kReplayedWeightsFile, folder / zo::kLedgerWeightsFile);
  ASSERT_TRUE(WriteFileAtomically(folder / zo::kLedgerOfWeightsFile, zo::EncodeLedger(ledger)).ok());
  ledger.round = 2;
  ledger.entries[7].n += 500;
  ledger.entries.erase(ledger.entries.begin() + 100);
  ledger.entries.push_back({400, -3000});
  give();
  const auto second = MakeTaskResources();
  second->ledgers().LeaveWeights();
  const auto next = RunWith(*second);
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(second->ledgers().directions(), 3U);
  EXPECT_EQ(second->ledgers().fetched(), 1U);
  EXPECT_EQ(ScalarsOf(*next)->weights, ledger.weights);
  std::filesystem::remove(folder / zo::kLedgerWeightsFile);
  const auto replaying = MakeTaskResources();
  const auto all = RunWith(*replaying);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(replaying->ledgers().directions(), 200U);
  EXPECT_EQ(SerializeSafetensors(next->update), SerializeSafetensors(all->update));
}

TEST_F(ZoLedgerTest, ALogsDirectionsAreThoseOfTheRoundInOrder) {
  input_.train.seeds->pool_size = 0;
  input_.train.seeds->first_ref = 4800;
  input_.train.seeds->scalars = "bfloat16";
  input_.train.local_steps = 3;
  input_.train.zo.num_perturbations = 5;
  const auto scalars = Scalars();
  ASSERT_TRUE(scalars.ok()) << scalars.status();
  ASSERT_EQ(scalars->steps.size(), 15U);
  for (size_t i = 0; i < 15; ++i) EXPECT_EQ(scalars->steps[i].ref, 4800 + i);
}

TEST_F(ZoLedgerTest, CountsItsPassesAndSaysWhenTheLossDoesNotFall) {
  input_.train.zo.num_perturbations = 3;
  for (const char* estimator : {"spsa", "spsa_one_sided"}) {
    input_.train.zo.estimator = estimator;
    const auto output = RunWith(*resources_);
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ(output->stats.forward_passes, 8U * (std::string(estimator) == "spsa" ? 6 : 4));
    EXPECT_EQ(output->stats.skipped_directions, 0U);
  }
  // All losses lie further apart than this.
  input_.train.zo.max_loss_difference = 1e-12;
  input_.train.zo.zo_eps = 0.1;
  EXPECT_EQ(RunWith(*resources_).status().code(), Code::kInternal);
  input_.train.zo.max_loss_difference = 0;
  input_.train.local_steps = 60;
  input_.train.learning_rate = 1e-9;
  input_.train.seeds->resolution_bits = 60;
  const std::string log = folder_ / "log";
  ASSERT_TRUE(InitLogging({.file = log}).ok());
  const auto output = RunWith(*resources_);
  ASSERT_TRUE(InitLogging({}).ok());
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_TRUE(output->stats.loss_stalled);
  EXPECT_THAT(ReadFile(log, 1 << 20).value(), HasSubstr("the loss does not fall: "));
}

// FwdLLM: of more than a thousand candidates those most like the model's last step, by cosines in float64.
TEST_F(ZoLedgerTest, ADeviceChoosesTheDirectionsMostLikeTheLastStep) {
  constexpr uint64_t kSpan = 1500;
  SharedSeedSettings& seeds = *input_.train.seeds;
  seeds.pool_size = 0;
  seeds.span = kSpan;
  seeds.candidates = kSpan;  // all of them
  seeds.first_ref = 2 * kSpan;
  input_.train.local_steps = 1;
  input_.train.zo.num_perturbations = 20;
  zo::Ledger ledger{.head = {.seed = Seed(), .pool_size = 0, .epsilon = 1e-3},
                    .round = 2,
                    .entries = {{3, 1 << 20}, {kSpan + 5, 3 << 20}, {kSpan + 900, -(2 << 20)}},
                    .importance = {},
                    .weights = {}};
  ledger.head.start = *Sha256File(folder_ / "adapter" / "adapter_model.safetensors");
  const zo::Ledger nothing = zo::EmptyLedger(ledger.head);
  auto weights = *aggregation::WeightsOf(initial_, 1e-3);
  ASSERT_TRUE(zo::ApplyMoves(ledger.head.distribution, zo::MovesBetween(nothing, ledger), weights.parameters).ok());
  ledger.weights = zo::DigestOfWeights(weights.parameters);
  GiveLedger(zo::EncodeLedger(ledger));
  const auto scalars = Scalars();
  ASSERT_TRUE(scalars.ok()) << scalars.status();
  ASSERT_EQ(scalars->steps.size(), 20U);
  std::vector<std::pair<double, uint64_t>> likeness;
  for (uint64_t ref = 2 * kSpan; ref < 3 * kSpan; ++ref) {
    double product = 0;
    for (const zo::Parameter& p : weights.parameters) {
      const auto z = [&](uint64_t r, size_t i) {
        return static_cast<double>(
            zo::DirectionAt({ledger.head.distribution, zo::SeedOf(ledger.head, r), p.stream}, i));
      };
      for (size_t i = 0; i < p.values.size(); ++i) {
        product += (3 * z(kSpan + 5, i) - 2 * z(kSpan + 900, i)) * z(ref, i);
      }
    }
    likeness.emplace_back(-product, ref);
  }
  std::sort(likeness.begin(), likeness.end());
  std::vector<uint64_t> best, chosen;
  for (size_t i = 0; i < 20; ++i) best.push_back(likeness[i].second);
  std::sort(best.begin(), best.end());
  for (const zo::Scalar& step : scalars->steps) chosen.push_back(step.ref);
  EXPECT_EQ(chosen, best);
}

TEST_F(ZoLedgerTest, DirectionsWhoseLossesAreTooFarApartAreLeftOutAndCounted) {
  input_.train.zo.zo_eps = 0.05;
  input_.train.local_steps = 20;
  const auto all = Scalars();
  ASSERT_TRUE(all.ok()) << all.status();
  std::vector<double> differences;
  for (const zo::Scalar& step : all->steps) differences.push_back(std::abs(static_cast<double>(step.gradient) * 0.1));
  std::nth_element(differences.begin(), differences.begin() + 10, differences.end());
  input_.train.zo.max_loss_difference = differences[10];
  const auto some = Scalars();
  ASSERT_TRUE(some.ok()) << some.status();
  EXPECT_GT(some->skipped, 0U);
  EXPECT_EQ(some->skipped + some->steps.size(), 20U);
  input_.train.zo.max_loss_difference = 1e-30;
  EXPECT_THAT(Scalars().status().message(), HasSubstr("no step's loss"));
}

// A base whose network has no finite loss where a text has a '#'.
TEST_F(ZoLedgerTest, StepsWithoutAFiniteLossAreSkippedCountedAndNeverSent) {
  model::ModelSpec spec = model::TinyConfig();
  spec.tie_word_embeddings = false;
  model::WriteModelFolder(folder_ / "base", spec);
  StateDict weights = model::RandomWeights(spec, 1);
  auto& embedding = weights.at("model.embed_tokens.weight");
  const auto tokenizer = model::Tokenizer::Read(folder_ / "base");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto hash = (*tokenizer)->Encode("#");
  ASSERT_EQ(hash.size(), 1U);
  const auto given = embedding.values<float>();
  std::vector<float> values(given.begin(), given.end());
  values[static_cast<size_t>(hash[0]) * static_cast<size_t>(spec.hidden_size)] = std::numeric_limits<float>::infinity();
  embedding = Tensor::FromFloats(embedding.shape(), values);
  const auto write = [&](const std::string& between) {
    std::string text;
    for (uint64_t i = 0; i < 100; ++i) text += model::SampleText(200, i) + between;
    folder_.Write("data.txt", text);
  };
  ASSERT_TRUE(WriteSafetensors(folder_ / "base" / "model.safetensors", weights).ok());
  input_.train.local_steps = 20;
  write("#\n");
  const auto output = RunWith(*resources_);
  ASSERT_TRUE(output.ok()) << output.status();
  const auto some = ScalarsOf(*output);
  ASSERT_TRUE(some.ok()) << some.status();
  EXPECT_GT(some->skipped, 0U);
  EXPECT_GT(some->steps.size(), 0U);
  EXPECT_EQ(some->skipped + some->steps.size(), 20U);
  EXPECT_EQ(output->stats.skipped_directions, some->skipped);
  EXPECT_TRUE(std::isfinite(output->stats.train_loss));
  for (const zo::Scalar& step : some->steps) EXPECT_TRUE(std::isfinite(step.gradient)) << step.ref;
  // Without a finite loss anywhere there is nothing to send.
  folder_.Write("data.txt", std::string(10'000, '#'));
  const Status nothing = RunWith(*MakeTaskResources()).status();
  EXPECT_EQ(nothing.code(), Code::kInternal);
  EXPECT_THAT(nothing.message(), HasSubstr("no step's loss was finite"));
}

TEST_F(ZoLedgerTest, DevicesDrawSeedsOfThePoolByTheSeedsOfTheirTasks) {
  const auto refs = [&](uint64_t seed) {
    input_.seed = seed;
    const auto scalars = Scalars();
    EXPECT_TRUE(scalars.ok()) << scalars.status();
    std::vector<uint64_t> out;
    for (const zo::Scalar& step : scalars->steps) out.push_back(step.ref);
    return out;
  };
  const auto one = refs(11), other = refs(12);
  EXPECT_EQ(one.size(), 8U);
  EXPECT_NE(one, other);
  EXPECT_EQ(refs(11), one);
}

TEST_F(ZoLedgerTest, SeedsAreDrawnByTheirImportance) {
  input_.train.local_steps = 400;
  input_.train.learning_rate = 0;
  zo::Ledger ledger{.head = {.seed = Seed(), .pool_size = 64, .epsilon = 1e-3},
                    .round = 1,
                    .entries = {},
                    .importance = std::vector<uint8_t>(64),
                    .weights = {}};
  for (size_t i = 0; i < 32; ++i) ledger.importance[i] = 255;
  ledger.head.start = *Sha256File(folder_ / "adapter" / "adapter_model.safetensors");
  ledger.weights = zo::DigestOfWeights(aggregation::WeightsOf(initial_, 1e-3)->parameters);
  GiveLedger(zo::EncodeLedger(ledger));
  const auto scalars = Scalars();
  ASSERT_TRUE(scalars.ok()) << scalars.status();
  double important = 0;
  for (const zo::Scalar& step : scalars->steps) important += step.ref < 32 ? 1 : 0;
  // e / (1 + e) of the draws, within five standard deviations of 400.
  EXPECT_NEAR(important / 400, std::exp(1.0) / (1 + std::exp(1.0)), 5 * std::sqrt(0.2 / 400));
}

TEST_F(ZoLedgerTest, FitsWhereBackPropagationDoesNot) {
  input_.train.batch_size = 64;
  input_.train.local_steps = 1;
  TaskInput sgd = input_;
  sgd.train.seeds.reset();
  sgd.train.zo = {};
  const auto spec = model::ReadModelConfig(input_.base_model_dir);
  ASSERT_TRUE(spec.ok()) << spec.status();
  const auto options = MakeTrainOptions(input_, *spec);
  ASSERT_TRUE(options.ok()) << options.status();
  const uint64_t forward = EstimateForwardBytes(*spec, input_.train, *options);
  const uint64_t training = EstimateTrainingBytes(*spec, input_.train, *options);
  ASSERT_LT(forward, training);
  sgd.memory_limit_bytes = input_.memory_limit_bytes = (forward + training) / 2;
  EXPECT_EQ((*FindLocalTask("sft"))->Run(sgd, *resources_, {}).status().code(), Code::kResourceExhausted);
  EXPECT_TRUE(Scalars().ok());
  input_.memory_limit_bytes = forward - 1;
  EXPECT_EQ(Scalars().status().code(), Code::kResourceExhausted);
}

struct BadPlan {
  const char* what;
  std::function<void(TrainSettings&)> change;
  const char* message;
};
TEST_F(ZoLedgerTest, PlansThatWholeNumbersCannotFollowAreRefused) {
  const std::vector<BadPlan> cases = {
      {"no seeds", [](TrainSettings& t) { t.seeds.reset(); }, "no shared seeds"},
      {"estimator", [](TrainSettings& t) { t.zo.estimator = "x"; }, "no estimator 'x'"},
      {"distribution", [](TrainSettings& t) { t.zo.distribution = "x"; }, "no distribution 'x'"},
      {"scalars", [](TrainSettings& t) { t.seeds->scalars = "int8"; }, "no scalars of 'int8'"},
      {"momentum", [](TrainSettings& t) { t.momentum = 0.9; }, "plain steps"},
      {"decay", [](TrainSettings& t) { t.weight_decay = 0.1; }, "plain steps"},
      {"Adam", [](TrainSettings& t) { t.zo.optimizer = "zo_adam"; }, "plain steps"},
      {"bound", [](TrainSettings& t) { t.zo.clip_projected_grad = 0; }, "clip_projected_grad"},
      {"directions", [](TrainSettings& t) { t.zo.num_perturbations = 1 << 20; }, "directions in a task"},
  };
  const TrainSettings good = input_.train;
  for (const BadPlan& bad : cases) {
    input_.train = good;
    bad.change(input_.train);
    const Status status = Scalars().status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << bad.what;
    EXPECT_THAT(status.message(), HasSubstr(bad.message)) << bad.what;
  }
}

TEST_F(ZoLedgerTest, LedgersThatAreNotOfTheRunAreRefused) {
  zo::Ledger ledger{.head = {.seed = Seed(), .pool_size = 64, .epsilon = 1e-3},
                    .round = 1,
                    .entries = {{3, 100}},
                    .importance = {},
                    .weights = Sha256("w")};
  GiveLedger(zo::EncodeLedger(ledger));
  EXPECT_THAT(Scalars().status().message(), HasSubstr("another adapter"));
  ledger.head.start = *Sha256File(folder_ / "adapter" / "adapter_model.safetensors");
  GiveLedger(zo::EncodeLedger(ledger));
  EXPECT_THAT(Scalars().status().message(), HasSubstr("has not the weights that it names"));
  std::string bytes = zo::EncodeLedger(ledger);
  bytes[5] = 2;
  GiveLedger(bytes);
  EXPECT_THAT(Scalars().status().message(), HasSubstr("directions of version 2"));
  ledger.head.pool_size = 128;
  GiveLedger(zo::EncodeLedger(ledger));
  EXPECT_THAT(Scalars().status().message(), HasSubstr("other settings"));
}

TEST_F(ZoLedgerTest, AStepThatLeavesTheGridIsToldWithItsCause) {
  input_.train.learning_rate = 1e3;
  const Status status = Scalars().status();
  EXPECT_EQ(status.code(), Code::kFailedPrecondition) << status;
  EXPECT_THAT(status.message(), HasSubstr("learning rate"));
}

}  // namespace
}  // namespace heddle::client
