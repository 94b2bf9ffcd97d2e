// The steps of a task with shared seeds against the definition, one by one, and what it takes of memory. The data are
// one window of text, so that every batch is the same.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <map>
#include <set>

#include "aggregation/ledger/ledger_model.h"
#include "client/worker/ledger_replay.h"
#include "client/worker/train_options.h"
#include "common/file.h"
#include "tests/unit/tasks/task_fixture.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::client {
namespace {

class ZoLedgerWalk : public TaskTest {
 protected:
  static constexpr uint64_t kSeed = 19;
  static constexpr float kEpsilon = 1e-3F;

  ZoLedgerWalk() {
    WriteLearntAdapter();
    // The tokenizer has learnt no words with digits: 24 tokens, of which a window takes 17.
    folder_.Write("data.txt", "012345678901234567890123");
    input_.train.batch_size = 1;
    input_.train.zo.zo_eps = static_cast<double>(kEpsilon);
    input_.train.zo.clip_projected_grad = 1000;
    input_.train.seeds =
        SharedSeedSettings{.seed = kSeed, .first_ref = 0, .pool_size = 0, .resolution_bits = 30, .scalars = ""};
  }

  zo::LedgerHead Head() const {
    return {.distribution = input_.train.zo.distribution == "rademacher" ? zo::Distribution::kRademacher
                                                                         : zo::Distribution::kNormal,
            .resolution_bits = 30,
            .seed = kSeed,
            .pool_size = input_.train.seeds->pool_size,
            .epsilon = input_.train.zo.zo_eps,
            .start = *Sha256File(folder_ / "adapter" / "adapter_model.safetensors")};
  }
  aggregation::Weights Start() const { return *aggregation::WeightsOf(initial_, input_.train.zo.zo_eps); }
  void GiveLedger(const zo::Ledger& ledger) {
    ASSERT_TRUE(WriteFileAtomically(folder_ / "adapter" / zo::kLedgerFile, zo::EncodeLedger(ledger)).ok());
  }
  Result<TaskOutput> RunLedger() { return (*FindLocalTask("zo_ledger"))->Run(input_, *resources_, {}); }
  Result<zo::Scalars> Scalars() {
    HEDDLE_ASSIGN_OR_RETURN(const TaskOutput output, RunLedger());
    return zo::DecodeScalars(output.update.at(std::string(zo::kScalarsName)).bytes(), 5000, zo::kMaxRef);
  }
};

struct WalkCase {
  const char *estimator, *distribution;
  uint32_t perturbations, pool;
};

// Before each step of a task the weights of the steps so far are made by hand, with a move of its own for perturbing,
// flipping, restoring and stepping. A task of one step that gets the ledger of these steps has the same weights, and
// finds the same scalars there as the long task at that step.
TEST_F(ZoLedgerWalk, ATaskGoesTheWayOfSeparateMovesToTheBit) {
  constexpr uint32_t kSteps = 5;
  input_.train.learning_rate = 5e-3;
  for (const WalkCase& one : {WalkCase{"spsa", "rademacher", 1, 0}, WalkCase{"spsa", "normal", 1, 0},
                              WalkCase{"spsa_one_sided", "normal", 1, 0}, WalkCase{"spsa", "normal", 3, 0},
                              WalkCase{"spsa", "normal", 1, 1}, WalkCase{"spsa", "rademacher", 1, 1}}) {
    std::filesystem::remove(folder_ / "adapter" / zo::kLedgerFile);
    input_.train.zo.estimator = one.estimator;
    input_.train.zo.distribution = one.distribution;
    input_.train.zo.num_perturbations = one.perturbations;
    input_.train.seeds->pool_size = one.pool;
    input_.train.seeds->first_ref = 0;
    input_.train.local_steps = kSteps;
    const auto all = Scalars();
    ASSERT_TRUE(all.ok()) << all.status();
    ASSERT_EQ(all->steps.size(), size_t{kSteps} * one.perturbations);
    input_.train.local_steps = 1;
    const zo::LedgerHead head = Head();
    aggregation::Weights walked = Start();
    const auto move = [&](uint64_t ref, float from, float to) {
      const zo::Move single{from, to};
      for (const zo::Parameter& p : walked.parameters) {
        const zo::Direction direction{head.distribution, zo::SeedOf(head, ref), p.stream};
        zo::MoveOnGrid(direction, 0, std::span(&single, 1), p.grid, p.values, zo::Path::kScalar);
      }
    };
    std::map<uint64_t, int64_t> scales;
    for (uint32_t step = 0; step < kSteps; ++step) {
      zo::Ledger ledger = zo::EmptyLedger(head);
      ledger.round = step;
      for (const auto& [ref, n] : scales) {
        if (n != 0) ledger.entries.push_back({ref, n});
      }
      ledger.weights = zo::DigestOfWeights(walked.parameters);
      GiveLedger(ledger);
      if (one.pool == 0) input_.train.seeds->first_ref = step * one.perturbations;
      const auto found = Scalars();
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_EQ(found->weights, ledger.weights);
      const auto first = all->steps.begin() + step * one.perturbations;
      const std::vector<zo::Scalar> expected(first, first + one.perturbations);
      ASSERT_EQ(found->steps, expected) << one.estimator << " " << one.distribution << ", step " << step;
      for (const zo::Scalar& scalar : expected) {
        move(scalar.ref, 0, kEpsilon);
        move(scalar.ref, kEpsilon, -kEpsilon);
        move(scalar.ref, -kEpsilon, 0);
      }
      for (const zo::Scalar& scalar : expected) {
        const double size = -input_.train.learning_rate / one.perturbations * static_cast<double>(scalar.gradient);
        int64_t& n = scales[scalar.ref];
        const int64_t next = n + std::llrint(size * 0x1p30);
        move(scalar.ref, std::ldexp(static_cast<float>(n), -30), std::ldexp(static_cast<float>(next), -30));
        n = next;
      }
    }
  }
}

// MeZO's drift: were the weights not the same bits after each step, the losses would not stay the same either, with the
// same batch and the same few directions.
TEST_F(ZoLedgerWalk, TwoThousandStepsOfSizeZeroFindTheLossesOfTheFirst) {
  constexpr uint32_t kSteps = 2000, kPool = 4;
  input_.train.learning_rate = 0;
  input_.train.local_steps = kSteps;
  input_.train.seeds->pool_size = kPool;
  const auto scalars = Scalars();
  ASSERT_TRUE(scalars.ok()) << scalars.status();
  ASSERT_EQ(scalars->steps.size(), kSteps);
  std::map<uint64_t, std::set<uint32_t>> seen;
  for (const zo::Scalar& step : scalars->steps) seen[step.ref].insert(std::bit_cast<uint32_t>(step.gradient));
  ASSERT_EQ(seen.size(), kPool);
  for (const auto& [ref, gradients] : seen) EXPECT_EQ(gradients.size(), 1U) << ref;
}

// The trained weights, the worker's copy of them, and what ledgers and directions take.
TEST_F(ZoLedgerWalk, TheEstimateHasAllThatIsKept) {
  input_.train.local_steps = 8;
  for (const uint32_t pool : {0U, 64U}) {
    input_.train.seeds->pool_size = pool;
    input_.train.seeds->first_ref = pool == 0 ? 1000 : 0;
    input_.memory_limit_bytes = 0;
    zo::Ledger ledger = zo::EmptyLedger(Head());
    ledger.round = 1;
    ledger.entries = {{3, 1 << 20}, {9, -(1 << 21)}, {17, 5}};
    aggregation::Weights weights = Start();
    const auto moves = zo::MovesBetween(zo::EmptyLedger(ledger.head), ledger);
    ASSERT_TRUE(zo::ApplyMoves(ledger.head.distribution, moves, weights.parameters).ok());
    ledger.weights = zo::DigestOfWeights(weights.parameters);
    GiveLedger(ledger);
    const auto options = MakeTrainOptions(input_, model::TinyConfig());
    ASSERT_TRUE(options.ok()) << options.status();
    const uint64_t forward = EstimateForwardBytes(model::TinyConfig(), input_.train, *options);
    const uint64_t kept = 2 * TotalBytes(initial_) + 128 * 3 + 80 * (pool == 0 ? 8 : 3 + 8);
    input_.memory_limit_bytes = forward + kept;
    const auto output = RunLedger();
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ(output->stats.estimated_memory_bytes, forward + kept);
    // Room for the forward pass alone, and for all but a byte.
    for (const uint64_t limit : {forward, forward + kept - 1}) {
      input_.memory_limit_bytes = limit;
      EXPECT_EQ(RunLedger().status().code(), Code::kResourceExhausted) << limit - forward;
    }
  }
}

}  // namespace
}  // namespace heddle::client
