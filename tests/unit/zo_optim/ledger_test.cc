#include "zo_optim/ledger/ledger.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "common/random.h"
#include "zo_optim/ledger/bits.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::zo {
namespace {

using ::testing::HasSubstr;

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

LedgerHead Head(uint32_t pool_size, Distribution distribution = Distribution::kRademacher) {
  return {.distribution = distribution,
          .resolution_bits = 30,
          .seed = 99,
          .pool_size = pool_size,
          .epsilon = 1e-3,
          .start = Sha256("start")};
}

// A ledger with random scales of about `size`.
Ledger Random(const LedgerHead& head, size_t count, uint64_t key, int64_t size, uint32_t round = 1) {
  PhiloxStream random(key);
  std::map<uint64_t, int64_t> entries;
  const uint32_t refs = head.pool_size > 0 ? head.pool_size : 1'000'000;
  while (entries.size() < count) {
    const auto n = static_cast<int64_t>(static_cast<float>(size) * (2 * random.NextUniform() - 1));
    if (n != 0) entries[random.NextBelow(refs)] = n;
  }
  Ledger ledger{.head = head, .round = round, .entries = {}, .importance = {}, .weights = Sha256(std::to_string(key))};
  for (const auto& [ref, n] : entries) ledger.entries.push_back({ref, n});
  return ledger;
}

// ---- packed forms ----

TEST(Numbers, AnyListComesBackAsItWas) {
  PhiloxStream random(1);
  for (int round = 0; round < 300; ++round) {
    std::vector<uint64_t> numbers(random.NextBelow(50));
    const uint32_t bits = 1 + random.NextBelow(64);
    for (uint64_t& number : numbers) number = random.U64At(random.NextU32()) >> (64 - bits);
    std::string bytes;
    PutNumbers(numbers, &bytes);
    ByteReader reader(Bytes(bytes));
    auto back = GetNumbers(reader, numbers.size());
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, numbers);
    EXPECT_TRUE(reader.AtEnd());
  }
}

TEST(Numbers, SmallOnesTakeFewBits) {
  std::string bytes;
  PutNumbers(std::vector<uint64_t>(800, 0), &bytes);
  EXPECT_EQ(bytes.size(), 101U);  // one bit each and the parameter
}

TEST(Ledger, ComesBackFromItsBytes) {
  for (const uint32_t pool : {0U, 4096U}) {
    for (const Distribution distribution : {Distribution::kRademacher, Distribution::kNormal}) {
      Ledger ledger = Random(Head(pool, distribution), 900, pool + 1, 1 << 20, 7);
      if (pool > 0) ledger.importance.assign(pool, 17);
      const std::string bytes = EncodeLedger(ledger);
      auto back = DecodeLedger(Bytes(bytes));
      ASSERT_TRUE(back.ok()) << back.status();
      EXPECT_EQ(*back, ledger);
      for (size_t cut = 0; cut < bytes.size(); cut += 7) {
        EXPECT_EQ(DecodeLedger(Bytes(bytes.substr(0, cut))).status().code(), Code::kInvalidArgument);
      }
      EXPECT_EQ(DecodeLedger(Bytes(bytes + "x")).status().code(), Code::kInvalidArgument);
    }
  }
}

TEST(Ledger, AFullPoolTakesLessThanFourBytesASeed) {
  const Ledger ledger = Random(Head(4096), 4096, 3, 1 << 20);
  EXPECT_LT(EncodeLedger(ledger).size(), 4 * 4096U);
}

TEST(Ledger, RefusesAnotherGenerator) {
  std::string bytes = EncodeLedger(Random(Head(16), 4, 1, 100));
  bytes[5] = 9;
  EXPECT_THAT(DecodeLedger(Bytes(bytes)).status().message(), HasSubstr("directions of version 9"));
}

TEST(Ledger, RefusesDirectionsOutsideThePool) {
  Ledger ledger = Random(Head(0), 3, 1, 100);
  ledger.entries.back().ref = 16;
  ledger.entries = {{16, 5}};
  std::string bytes = EncodeLedger(ledger);
  ledger.head.pool_size = 16;
  EXPECT_EQ(CheckLedger(ledger).code(), Code::kInvalidArgument);
  EXPECT_EQ(bytes[16], '\0');  // the pool's size
  bytes[16] = 16;
  EXPECT_THAT(DecodeLedger(Bytes(bytes)).status().message(), HasSubstr("direction 16 of 16"));
}

TEST(Patch, LeadsFromAnyEarlierLedgerToALaterOne) {
  for (const uint32_t pool : {0U, 4096U}) {
    const Ledger from = Random(Head(pool), 500, 1, 1 << 20, 3);
    Ledger to = Random(Head(pool), 400, 2, 1 << 20, 9);
    for (size_t i = 0; i < from.entries.size(); i += 2) {  // some entries stay as they are
      if (std::none_of(to.entries.begin(), to.entries.end(),
                       [&](const LedgerEntry& e) { return e.ref == from.entries[i].ref; })) {
        to.entries.push_back(from.entries[i]);
      }
    }
    std::sort(to.entries.begin(), to.entries.end(), [](const auto& a, const auto& b) { return a.ref < b.ref; });
    if (pool > 0) to.importance.assign(pool, 3);
    const std::string patch = EncodePatch(from, to);
    auto made = ApplyPatch(from, Bytes(patch));
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(*made, to);
    const Ledger other = Random(Head(pool), 500, 8, 1 << 20, 3);
    EXPECT_THAT(ApplyPatch(other, Bytes(patch)).status().message(), HasSubstr("not for this one"));
  }
}

TEST(Scalars, ComeBackFromTheirBytes) {
  for (const ScalarFormat format : {ScalarFormat::kFloat32, ScalarFormat::kBfloat16}) {
    PhiloxStream random(1);
    Scalars scalars{.steps = {}, .weights = Sha256("w"), .skipped = 2};
    for (int i = 0; i < 200; ++i) {
      scalars.steps.push_back(
          {random.NextBelow(4096), TravellingScalar(50 * (random.NextUniform() - 0.5F), 10, format)});
    }
    std::sort(scalars.steps.begin(), scalars.steps.end(), [](const auto& a, const auto& b) { return a.ref < b.ref; });
    const std::string bytes = EncodeScalars(scalars, format);
    EXPECT_LT(bytes.size(), 200U * (format == ScalarFormat::kBfloat16 ? 3 : 5) + 50);
    auto back = DecodeScalars(Bytes(bytes), 200, 4095);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, scalars);
    EXPECT_THAT(DecodeScalars(Bytes(bytes), 199, 4095).status().message(), HasSubstr("at most 199"));
    EXPECT_THAT(DecodeScalars(Bytes(bytes), 200, scalars.steps.back().ref - 1).status().message(),
                HasSubstr("none of the round's"));
  }
}

// FedKSeed's layout is 4 bytes for each of K scalars down, and 8 for each of tau steps and 4 more up.
TEST(Scalars, ARoundIsSmallerBothWaysThanThePapersLayout) {
  constexpr size_t kPool = 4096, kSteps = 200, kPaper = 4 * kPool + 8 * kSteps + 4;
  static_assert(kPaper == 17'988);
  PhiloxStream random(1);
  Scalars up{.steps = {}, .weights = Sha256("w"), .skipped = 0};
  for (size_t i = 0; i < kSteps; ++i) {
    up.steps.push_back(
        {random.NextBelow(kPool), TravellingScalar(50 * (random.NextUniform() - 0.5F), 100, ScalarFormat::kFloat32)});
  }
  std::sort(up.steps.begin(), up.steps.end(), [](const auto& a, const auto& b) { return a.ref < b.ref; });
  // Scales as after 30 rounds of such scalars (a step of 1 is 512 to 1023); each has changed since an earlier ledger.
  const Ledger earlier = Random(Head(kPool), kPool, 3, 1 << 17), later = Random(Head(kPool), kPool, 4, 1 << 17, 2);
  const size_t sent = EncodeScalars(up, ScalarFormat::kFloat32).size();
  for (const std::string& down : {EncodeLedger(later), EncodePatch(earlier, later)}) {
    RecordProperty("bytes_both_ways", static_cast<int>(down.size() + sent));
    EXPECT_LT(down.size() + sent, kPaper);
  }
}

TEST(Scalars, ANumberThatIsNotFiniteIsRefused) {
  std::string bytes = EncodeScalars({.steps = {{3, 1.0F}}, .weights = {}, .skipped = 0}, ScalarFormat::kFloat32);
  bytes[bytes.size() - 1] = 0x7f;
  bytes[bytes.size() - 2] = static_cast<char>(0x80);
  EXPECT_THAT(DecodeScalars(Bytes(bytes), 9, 9).status().message(), HasSubstr("not finite"));
}

TEST(Scalars, AreCutToTheirBoundAndRoundedAsTheyTravel) {
  EXPECT_EQ(TravellingScalar(7, 5, ScalarFormat::kFloat32), 5);
  EXPECT_EQ(TravellingScalar(-7, 5, ScalarFormat::kFloat32), -5);
  EXPECT_EQ(TravellingScalar(1 + 1.0 / 512, 5, ScalarFormat::kBfloat16), 1);
}

// Bounds that no float, or no bfloat16, is: rounding must not lead past them, or the honest would be refused.
TEST(Scalars, StayWithinABoundThatTheirFormatDoesNotHave) {
  for (const double bound : {0.1, 0.3, 999.0, 1e-3, 1.0 / 3, 100.5, 1e-40}) {
    for (const ScalarFormat format : {ScalarFormat::kFloat32, ScalarFormat::kBfloat16}) {
      // The distance to the next number towards zero, and of subnormal floats their smallest.
      const double near = format == ScalarFormat::kFloat32 ? 0x1p-22 * bound + 0x1p-149 : 0x1p-6 * bound + 0x1p-133;
      for (const double sign : {1.0, -1.0}) {
        for (const double beyond : {1.0, 1.001, 7.0, 1e30}) {
          const auto cut = static_cast<double>(TravellingScalar(sign * beyond * bound, bound, format));
          EXPECT_LE(std::abs(cut), bound) << sign * beyond * bound;
          EXPECT_NEAR(cut, sign * bound, near) << sign * beyond * bound;
        }
        // What is well within is rounded to the nearest as ever.
        const double half = sign * bound / 2;
        EXPECT_NEAR(static_cast<double>(TravellingScalar(half, bound, format)), half, near / 2);
      }
    }
  }
}

TEST(Scalars, AStepIsAWholeNumberOfTheLedger) {
  EXPECT_EQ(*StepOf(1e-6, 20, 30), -21475);
  EXPECT_EQ(*StepOf(1, -3, 4), 48);
  EXPECT_EQ(StepOf(1, 1e30F, 30).status().code(), Code::kInvalidArgument);
}

// ---- worked bytes of docs/formats.md, made by tests/data/zo/make_ledger_values.py ----

constexpr const char* kGoldenLedger =
    "48444c4702010114efcdab896745230108000000000000503fcced28c6dc3f99c2396a5eaad732bf6b28142335892b1c"
    "d0e6af6cdb53f5ccfa038b4cb47e7234e1757a435aff9a756f02bc7c42f8ecdb225f5e758433d3fb56bb03002d0d419c"
    "8b0318010100ff11038040c801";
constexpr const char* kGoldenPatch =
    "48444c50020102b68882825880e3aa038b4cb47e7234e1757a435aff9a756f02bc7c42f8ecdb225f5e758433d3fb56bb"
    "03002b0c9ee0170718010100ff11038040c801";
constexpr const char* kGoldenScalars =
    "48445a530101008b4cb47e7234e1757a435aff9a756f02bc7c42f8ecdb225f5e758433d3fb56bb020301b20000003f00"
    "0010c0a69bc43a";

std::string Hex(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) {
    for (const int shift : {4, 0}) out += "0123456789abcdef"[static_cast<uint8_t>(byte) >> shift & 15];
  }
  return out;
}

LedgerHead GoldenHead(Distribution distribution) {
  return {.distribution = distribution,
          .resolution_bits = 20,
          .seed = 0x0123456789abcdef,
          .pool_size = 8,
          .epsilon = 0x1p-10,
          .start = Sha256("start")};
}

Ledger GoldenLedger(uint32_t round, Distribution distribution = Distribution::kRademacher) {
  Ledger ledger = EmptyLedger(GoldenHead(distribution));
  ledger.round = round;
  ledger.entries = {{1, 5000}, {2, 40}};
  if (round == 3) {
    ledger.entries = {{1, 5000}, {4, -12345}, {6, 70}};
    ledger.importance = {0, 255, 17, 3, 128, 64, 200, 1};
  }
  return ledger;
}

// The digest of its replay from the page's start.
Sha256Digest GoldenDigest(const Ledger& ledger) {
  std::vector<float> a, b;
  for (int i = 0; i < 5; ++i) a.push_back(static_cast<float>((37 * i % 101 - 50) / 60.0));
  for (int i = 0; i < 70; ++i) b.push_back(static_cast<float>((53 * i % 89 - 44) / 1000.0));
  std::vector<Parameter> parameters;
  parameters.push_back(*MakeParameter("b.weight", b, LargestScale(ledger.head)));
  parameters.push_back(*MakeParameter("a", a, LargestScale(ledger.head)));
  const auto moves = MovesBetween(EmptyLedger(ledger.head), ledger);
  EXPECT_TRUE(ApplyMoves(ledger.head.distribution, moves, parameters).ok());
  return DigestOfWeights(parameters);
}

TEST(Golden, TheReplayOfTheWorkedLedgerHasTheDigestOfTheDefinition) {
  const auto digest = [](uint32_t round, Distribution distribution) {
    return GoldenDigest(GoldenLedger(round, distribution)).ToHex();
  };
  EXPECT_EQ(digest(2, Distribution::kRademacher), "b68882825880e3aab644b59e5e0a86fd16b77e5b9863f684269ec7f14b1b2473");
  EXPECT_EQ(digest(3, Distribution::kRademacher), "8b4cb47e7234e1757a435aff9a756f02bc7c42f8ecdb225f5e758433d3fb56bb");
  EXPECT_EQ(digest(2, Distribution::kNormal), "fa284b46047ad19c23063b7781eb560bd5e784f82b93198ed4255c052b324338");
  EXPECT_EQ(digest(3, Distribution::kNormal), "e807cc8dc1867015ac2b1974c58ae75f082bae9c075a4770668b7f7132f593eb");
}

TEST(Golden, ALedgerAPatchAndScalarsHaveTheBytesOfThePage) {
  Ledger before = GoldenLedger(2), after = GoldenLedger(3);
  before.weights = GoldenDigest(before);
  after.weights = GoldenDigest(after);
  const std::string ledger = EncodeLedger(after), patch = EncodePatch(before, after);
  EXPECT_EQ(Hex(ledger), kGoldenLedger);
  EXPECT_EQ(*DecodeLedger(Bytes(ledger)), after);
  EXPECT_EQ(Hex(patch), kGoldenPatch);
  EXPECT_EQ(*ApplyPatch(before, Bytes(patch)), after);
  const Scalars scalars{.steps = {{1, 0.5F}, {1, -2.25F}, {6, 1.5e-3F}}, .weights = after.weights, .skipped = 2};
  const std::string packed = EncodeScalars(scalars, ScalarFormat::kFloat32);
  EXPECT_EQ(Hex(packed), kGoldenScalars);
  EXPECT_EQ(*DecodeScalars(Bytes(packed), 3, 7), scalars);
}

// FedKSeed-Pro.
TEST(SeedProbabilities, SumToOneAndNoneIsMoreThanETimesAnother) {
  PhiloxStream random(6);
  for (const size_t pool : {1, 2, 8, 4096}) {
    std::vector<uint8_t> importance(pool);
    for (uint8_t& one : importance) one = static_cast<uint8_t>(random.NextBelow(256));
    importance.front() = 0;
    importance.back() = 255;
    const std::vector<double> shares = SeedProbabilities(importance);
    ASSERT_EQ(shares.size(), pool);
    double sum = 0, whole = 0;
    for (const double share : shares) sum += share;
    for (const uint8_t one : importance) whole += std::pow(std::exp(1.0), one / 255.0);
    EXPECT_NEAR(sum, 1, 1e-12);
    const auto [least, most] = std::minmax_element(shares.begin(), shares.end());
    EXPECT_LE(*most / *least, std::exp(1.0) * (1 + 1e-12));
    if (pool > 1) {  // with 0 and 255 among them, which are as far apart as can be
      EXPECT_NEAR(*most / *least, std::exp(1.0), 1e-12);
    }
    for (size_t k = 0; k < pool; ++k) {
      EXPECT_NEAR(shares[k], std::pow(std::exp(1.0), importance[k] / 255.0) / whole, 1e-12) << k;
    }
  }
  EXPECT_TRUE(SeedProbabilities({}).empty());
}

// ---- replay ----

struct Model {
  std::map<std::string, std::vector<float>> tensors;
  std::vector<Parameter> parameters;
};
void Fill(Model* model) {
  PhiloxStream random(8);
  for (const auto& [name, size] : {std::pair("b", 5000), std::pair("a.weight", 12'345), std::pair("c", 1)}) {
    std::vector<float>& values = model->tensors[name];
    for (int i = 0; i < size; ++i) values.push_back(0.2F * (random.NextUniform() - 0.5F));
  }
  for (auto& [name, values] : model->tensors) model->parameters.push_back(*MakeParameter(name, values, 1e-3));
}

class Replay : public ::testing::TestWithParam<Distribution> {};
INSTANTIATE_TEST_SUITE_P(Both, Replay, ::testing::Values(Distribution::kRademacher, Distribution::kNormal),
                         [](const auto& info) {
                           return info.param == Distribution::kNormal ? "Normal" : "Rademacher";
                         });

TEST_P(Replay, IsWhatTheDefinitionInWholeNumbersGives) {
  Model model;
  Fill(&model);
  const auto start = model.tensors;
  const Ledger ledger = Random(Head(64, GetParam()), 20, 4, 1 << 21);
  ASSERT_TRUE(ApplyMoves(GetParam(), MovesBetween(EmptyLedger(ledger.head), ledger), model.parameters, 2).ok());
  for (const Parameter& parameter : model.parameters) {
    const std::vector<float>& before = start.at(parameter.name);
    const double unit = parameter.grid.unit;
    for (size_t i = 0; i < before.size(); i += 11) {
      double units = static_cast<double>(before[i]) / unit;
      for (const LedgerEntry& entry : ledger.entries) {
        const uint64_t seed = PhiloxStream(99, 0x7a6f5f7365656473).U64At(entry.ref);
        volatile float product = static_cast<float>(static_cast<double>(entry.n) * 0x1p-30) *
                                 DirectionAt({GetParam(), seed, ParameterStream(parameter.name)}, i);
        units += std::nearbyint(static_cast<double>(product) / unit);
      }
      ASSERT_EQ(static_cast<double>(parameter.values[i]), units * unit) << parameter.name << " " << i;
    }
  }
}

// FedKSeed's device walks step by step, draws the same seed more than once and perturbs on the way; the coordinator
// replays sums. DeComFL's device misses rounds. All have the same bits.
TEST_P(Replay, ASequentialTrainingThePoolsReplayAndALateJoinerAgreeToTheBit) {
  const LedgerHead head = Head(32, GetParam());
  Model trained, replayed, late;
  for (Model* model : {&trained, &replayed, &late}) Fill(model);
  PhiloxStream random(2);
  std::map<uint64_t, int64_t> scales;
  Ledger before = EmptyLedger(head);
  const float e = 1e-3F;
  for (uint32_t round = 1; round <= 5; ++round) {
    for (int step = 0; step < 40; ++step) {
      const uint64_t ref = random.NextBelow(32);
      const int64_t n = scales[ref];
      const int64_t next = n + *StepOf(1e-6, 200 * (random.NextUniform() - 0.5F), 30);
      for (const Parameter& p : trained.parameters) {
        const Direction direction{GetParam(), SeedOf(head, ref), p.stream};
        MoveOnGrid(direction, 0, std::vector<Move>{{0, e}}, p.grid, p.values);
        MoveOnGrid(direction, 0, std::vector<Move>{{e, -e}}, p.grid, p.values);
        MoveOnGrid(direction, 0, std::vector<Move>{{-e, 0}, {ScaleOf(head, n), ScaleOf(head, next)}}, p.grid, p.values);
      }
      scales[ref] = next;
    }
    Ledger after = EmptyLedger(head);
    after.round = round;
    for (const auto& [ref, n] : scales) {
      if (n != 0) after.entries.push_back({ref, n});
    }
    ASSERT_TRUE(ApplyMoves(GetParam(), MovesBetween(before, after), replayed.parameters).ok());
    before = after;
  }
  ASSERT_TRUE(ApplyMoves(GetParam(), MovesBetween(EmptyLedger(head), before), late.parameters, 3).ok());
  EXPECT_EQ(DigestOfWeights(trained.parameters), DigestOfWeights(replayed.parameters));
  EXPECT_EQ(DigestOfWeights(late.parameters), DigestOfWeights(replayed.parameters));
  Model fresh;
  Fill(&fresh);
  EXPECT_NE(DigestOfWeights(fresh.parameters), DigestOfWeights(late.parameters));
}

TEST_P(Replay, MovingAlongOneDirectionIsTheSameInOnePassInManyAndInThreads) {
  constexpr size_t kMany = (size_t{1} << 20) + 77;
  std::vector<float> start(kMany), small(5000);
  PhiloxStream random(4);
  for (std::vector<float>* part : {&start, &small}) {
    for (float& value : *part) value = random.NextUniform() - 0.5F;
  }
  struct Copy {
    std::vector<float> large, few;
    std::vector<Parameter> parameters;
  };
  Copy one{start, small, {}}, fused{start, small, {}}, threads{start, small, {}};
  for (Copy* copy : {&one, &fused, &threads}) {
    copy->parameters = {*MakeParameter("large", copy->large, 1e-2), *MakeParameter("few", copy->few, 1e-2)};
  }
  const std::vector<Move> back_and_on = {{-1e-2F, 0}, {0.031F, -0.0173F}};
  for (Copy* copy : {&one, &fused, &threads}) {
    const unsigned count = copy == &threads ? 5 : 1;
    MoveAlong(GetParam(), 9, std::vector<Move>{{0, 1e-2F}}, copy->parameters, count);
    MoveAlong(GetParam(), 9, std::vector<Move>{{1e-2F, -1e-2F}}, copy->parameters, count);
    if (copy != &one) MoveAlong(GetParam(), 9, back_and_on, copy->parameters, count);
  }
  for (const Parameter& p : one.parameters) {
    for (const Move& move : back_and_on) {
      MoveOnGrid({GetParam(), 9, p.stream}, 0, std::span(&move, 1), p.grid, p.values, Path::kScalar);
    }
  }
  EXPECT_EQ(fused.large, one.large);
  EXPECT_EQ(fused.few, one.few);
  EXPECT_EQ(threads.large, one.large);
  EXPECT_EQ(threads.few, one.few);
  EXPECT_NE(one.few, small);
}

TEST_P(Replay, WhatAGridCannotHoldIsRefused) {
  Model model;
  Fill(&model);
  Ledger ledger = EmptyLedger(Head(4, GetParam()));
  ledger.entries = {{1, int64_t{1} << 29}};
  EXPECT_EQ(ApplyMoves(GetParam(), MovesBetween(EmptyLedger(ledger.head), ledger), model.parameters).code(),
            Code::kFailedPrecondition);
}

TEST(ReplayRange, WeightsThatLeaveTheirRangeAreTold) {
  std::vector<float> values(100, 0.25F);
  std::vector<Parameter> parameters = {*MakeParameter("w", values, 0)};
  std::vector<SeedMove> moves;
  for (int i = 0; i < 3000; ++i) moves.push_back({5, {0, parameters[0].grid.max_scale()}});
  EXPECT_THAT(ApplyMoves(Distribution::kRademacher, moves, parameters).message(), HasSubstr("left their range"));
}

TEST(LargestScale, FollowsTheLearningRateWhereThatIsMore) {
  LedgerHead head = Head(16);
  EXPECT_EQ(LargestScale(head), head.epsilon);
  // A rate of 3e-2 is 15 bits (a step of 512 to 1023): 16 to 32 steps along a gradient of 1.
  head.resolution_bits = 15;
  EXPECT_EQ(LargestScale(head), 0.5);
  head.resolution_bits = 60;
  EXPECT_EQ(LargestScale(head), head.epsilon);
}

TEST(SeedOf, DoesNotCollideInALongRun) {
  std::vector<uint64_t> seeds;
  for (uint64_t ref = 0; ref < 200'000; ++ref) seeds.push_back(SeedOf(Head(0), ref));
  std::sort(seeds.begin(), seeds.end());
  EXPECT_EQ(std::adjacent_find(seeds.begin(), seeds.end()), seeds.end());
}

}  // namespace
}  // namespace heddle::zo
