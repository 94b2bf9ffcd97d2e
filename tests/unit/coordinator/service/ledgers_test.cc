// A run with shared seeds as devices meet it: the ledger beside the first adapter, scalars with the proof of the
// weights, patches from earlier ledgers.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "aggregation/ledger/ledger_model.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "protocol/validate.h"
#include "tests/unit/coordinator/service/service_fixture.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::coordinator {
namespace {

using protocol::Pki;
using ::testing::HasSubstr;

class LedgersTest : public ServiceTest {
 protected:
  using Strategy = std::map<std::string, std::string>;
  explicit LedgersTest(const Strategy& strategy = {{"name", "\"FedKSeed\""}, {"pool_size", "512"}},
                       const std::string& more = "") {
    SubmitRun(strategy, "[zo]\nzo_eps = 1e-3\ndistribution = \"rademacher\"\n" + more);
  }

  HttpResponse Get(const std::string& target) { return Send(Device("anna"), HttpRequest("GET", target)); }
  static std::string HexOf(const v1::BlobRef& ref) { return Pki::Value(protocol::DigestOf(ref)).ToHex(); }
  static std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

  // The ledger of the assignment's round as it was fetched.
  std::string LedgerBytes(const v1::TaskAssignment& assignment) {
    EXPECT_EQ(assignment.plan().adapter_size(), 3);
    EXPECT_EQ(assignment.plan().adapter(2).name(), "ledger.bin");
    return Get("/v1/blobs/" + HexOf(assignment.plan().adapter(2))).body;
  }

  v1::ReportResponse Tell(const std::string& device, const v1::TaskAssignment& assignment, const Sha256Digest& weights,
                          float gradient) {
    return TellSteps(device, assignment, weights, {{1, gradient}, {77, -gradient}}, zo::ScalarFormat::kFloat32);
  }
  v1::ReportResponse TellSteps(const std::string& device, const v1::TaskAssignment& assignment,
                               const Sha256Digest& weights, std::vector<zo::Scalar> steps, zo::ScalarFormat format) {
    const zo::Scalars scalars{.steps = std::move(steps), .weights = weights, .skipped = 0};
    const std::string bytes = SerializeSafetensors(
        {{std::string(aggregation::kScalarsName), aggregation::ByteTensor(zo::EncodeScalars(scalars, format))}});
    v1::ReportRequest report = ReportOf(assignment, bytes);
    report.set_inline_update(bytes);
    const auto& files = assignment.plan().adapter();
    report.set_parent_sha256(files.Get(files.size() - 1).sha256());  // the ledger, where there is one
    const HttpResponse answer = Report(device, report);
    EXPECT_EQ(answer.status, 200U);
    v1::ReportResponse response;
    EXPECT_TRUE(response.ParseFromString(answer.body));
    return response;
  }
};

// Two steps of 100 directions each.
class LedgerBytesTest : public LedgersTest {
 protected:
  LedgerBytesTest() : LedgersTest({{"name", "\"FedKSeed\""}, {"pool_size", "4096"}}, "num_perturbations = 100\n") {}
};

TEST_F(LedgersTest, DevicesGetTheLedgerBesideTheFirstAdapterAndLaterWhatHasChanged) {
  auto round = NextRound();
  EXPECT_EQ(round["anna"].plan().local_task(), "zo_ledger");
  EXPECT_EQ(round["anna"].plan().adapter_size(), 2) << "no ledger before the first commit";
  const StateDict start = GoodUpdateBase(round["anna"]);
  const std::string first_adapter = HexOf(round["anna"].plan().adapter(1));
  Sha256Digest weights = zo::DigestOfWeights(aggregation::WeightsOf(start, 1e-3)->parameters);
  std::vector<std::string> digests, ledgers;
  for (int i = 0; i < 4; ++i) {
    const v1::ReportResponse verdict = Tell("anna", round["anna"], weights, 0.5F + static_cast<float>(i));
    ASSERT_EQ(verdict.verdict(), v1::REPORT_VERDICT_ACCEPTED) << verdict.refusal().message();
    round = NextRound();
    EXPECT_EQ(HexOf(round["anna"].plan().adapter(1)), first_adapter) << "the adapter itself is never sent again";
    digests.push_back(HexOf(round["anna"].plan().adapter(2)));
    ledgers.push_back(LedgerBytes(round["anna"]));
    const zo::Ledger ledger = Pki::Value(zo::DecodeLedger(Bytes(ledgers.back())));
    EXPECT_EQ(ledger.head.start.ToHex(), first_adapter);
    EXPECT_TRUE(aggregation::ReplayLedger(start, ledger, 1).ok());
    weights = ledger.weights;
  }
  for (size_t from = 0; from < 3; ++from) {
    const HttpResponse patch = Get("/v1/blobs/" + digests[3] + "/from/" + digests[from]);
    ASSERT_EQ(patch.status, 200U);
    EXPECT_LT(patch.body.size(), ledgers[3].size());
    const zo::Ledger earlier = Pki::Value(zo::DecodeLedger(Bytes(ledgers[from])));
    EXPECT_EQ(zo::EncodeLedger(Pki::Value(zo::ApplyPatch(earlier, Bytes(patch.body)))), ledgers[3]);
  }
}

// Two steps of three directions each, new ones in each round.
class DeComFlLedgersTest : public LedgersTest {
 protected:
  DeComFlLedgersTest() : LedgersTest({{"name", "\"DeComFL\""}}, "num_perturbations = 3\n") {}

  // What a device keeps between rounds.
  struct Kept {
    aggregation::Weights weights;
    zo::Ledger ledger;
    std::string digest;  // of the ledger's bytes
  };
  // By the patch alone, to the ledger of the assignment. How long the patch was.
  size_t CatchUp(const v1::TaskAssignment& assignment, Kept* kept) {
    const std::string digest = HexOf(assignment.plan().adapter(2));
    const HttpResponse patch = Get("/v1/blobs/" + digest + "/from/" + kept->digest);
    EXPECT_EQ(patch.status, 200U);
    const zo::Ledger next = Pki::Value(zo::ApplyPatch(kept->ledger, Bytes(patch.body)));
    EXPECT_EQ(Sha256(zo::EncodeLedger(next)).ToHex(), digest);
    Pki::Check(zo::ApplyMoves(next.head.distribution, zo::MovesBetween(kept->ledger, next), kept->weights.parameters));
    kept->ledger = next;
    kept->digest = digest;
    return patch.body.size();
  }
};

TEST_F(DeComFlLedgersTest, ADeviceThatSkipsThreeRoundsGetsEveryBitOfTheOthersByOnePatch) {
  auto round = NextRound();
  const StateDict start = GoodUpdateBase(round["anna"]);
  Sha256Digest weights = zo::DigestOfWeights(aggregation::WeightsOf(start, 1e-3)->parameters);
  const auto tell = [&](const std::string& device, uint64_t number) {
    std::vector<zo::Scalar> steps;
    for (uint64_t i = 0; i < 6; ++i) steps.push_back({(number - 1) * 6 + i, 3.7F - static_cast<float>(i + number)});
    const auto verdict = TellSteps(device, round[device], weights, std::move(steps), zo::ScalarFormat::kFloat32);
    EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_ACCEPTED) << verdict.refusal().message();
    round = NextRound();
  };
  tell("anna", 1);
  Kept anna, bert;
  for (Kept* kept : {&anna, &bert}) {
    kept->ledger = Pki::Value(zo::DecodeLedger(Bytes(LedgerBytes(round["anna"]))));
    kept->digest = HexOf(round["anna"].plan().adapter(2));
    kept->weights = Pki::Value(aggregation::WeightsOf(start, zo::LargestScale(kept->ledger.head)));
    const zo::Ledger nothing = zo::EmptyLedger(kept->ledger.head);
    Pki::Check(zo::ApplyMoves(kept->ledger.head.distribution, zo::MovesBetween(nothing, kept->ledger),
                              kept->weights.parameters));
  }
  // Rounds 2, 3 and 4 without bert.
  for (uint64_t number = 2; number <= 4; ++number) {
    weights = zo::DigestOfWeights(anna.weights.parameters);
    tell("anna", number);
    CatchUp(round["anna"], &anna);
  }
  EXPECT_NE(anna.weights.memory, bert.weights.memory);
  EXPECT_LT(CatchUp(round["bert"], &bert), LedgerBytes(round["bert"]).size());
  EXPECT_EQ(anna.weights.memory, bert.weights.memory) << "0 ulp";
  weights = zo::DigestOfWeights(bert.weights.parameters);
  EXPECT_EQ(weights, bert.ledger.weights);
  tell("bert", 5);
  EXPECT_EQ(CommittedRounds(), 5);
}

// FedKSeed as published: a pool of 4096, 200 directions a device, 20 devices a round; all that crosses the device's
// connection for a round, heads and bodies of its HTTP messages. The paper's layout is 4 K + 8 tau + 4 = 17 988 bytes
// of payload.
TEST_F(LedgerBytesTest, ARoundCostsADeviceLessThanSixKilobytes) {
  auto round = NextRound();
  const StateDict start = GoodUpdateBase(round["anna"]);
  Sha256Digest weights = zo::DigestOfWeights(aggregation::WeightsOf(start, 1e-3)->parameters);
  PhiloxStream random(1);
  const auto scalars = [&] {
    std::vector<zo::Scalar> steps;
    for (int i = 0; i < 200; ++i) {
      const float gradient = 3 * (random.NextUniform() + random.NextUniform() + random.NextUniform() - 1.5F);
      steps.push_back({random.NextBelow(4096),
                       zo::TravellingScalar(static_cast<double>(gradient), 100, zo::ScalarFormat::kBfloat16)});
    }
    std::sort(steps.begin(), steps.end(), [](const auto& a, const auto& b) { return a.ref < b.ref; });
    return steps;
  };
  std::string have;
  for (int i = 0; i < 3; ++i) {
    HttpClient& anna = Device("anna");
    const uint64_t before = anna.bytes_in() + anna.bytes_out();
    // What the device fetches, sends and hears after its check-in was answered.
    uint64_t payload_down = 0;
    if (!have.empty()) {
      const std::string target = "/v1/blobs/" + HexOf(round["anna"].plan().adapter(2)) + "/from/" + have;
      const HttpResponse patch = Get(target);
      ASSERT_EQ(patch.status, 200U);
      payload_down = patch.body.size();
    }
    const auto verdict = TellSteps("anna", round["anna"], weights, scalars(), zo::ScalarFormat::kBfloat16);
    ASSERT_EQ(verdict.verdict(), v1::REPORT_VERDICT_ACCEPTED) << verdict.refusal().message();
    const uint64_t spent = anna.bytes_in() + anna.bytes_out() - before + round["anna"].ByteSizeLong();
    if (!have.empty()) {
      // This round changed the entries of one device; the mean of twenty changes more of them, by less.
      zo::Ledger of_twenty = Pki::Value(zo::DecodeLedger(Bytes(LedgerBytes(round["anna"]))));
      const zo::Ledger earlier = of_twenty;
      const uint8_t bits = earlier.head.resolution_bits;
      const double rate = std::ldexp(768, -bits);  // of the 512 to 1023 that a scalar of 1 is
      std::map<uint64_t, int64_t> sums;
      for (int device = 0; device < 20; ++device) {
        for (const zo::Scalar& one : scalars()) {
          sums[one.ref] += Pki::Value(zo::StepOf(rate, one.gradient, bits));
        }
      }
      for (zo::LedgerEntry& entry : of_twenty.entries) sums[entry.ref] += 20 * entry.n;
      of_twenty.entries.clear();
      for (const auto& [ref, sum] : sums) {
        if (sum / 20 != 0) of_twenty.entries.push_back({ref, sum / 20});
      }
      const uint64_t patch = zo::EncodePatch(earlier, of_twenty).size();
      const uint64_t total = spent - payload_down + patch;
      RecordProperty("bytes_on_the_connection", std::to_string(total));
      RecordProperty("patch_bytes", std::to_string(patch));
      EXPECT_LT(total, 6000U) << "of them " << patch << " of the patch";
      EXPECT_GT(of_twenty.entries.size(), 2000U);
    }
    round = NextRound();
    have = HexOf(round["anna"].plan().adapter(2));
    const std::string ledger = LedgerBytes(round["anna"]);
    weights = Pki::Value(zo::DecodeLedger(Bytes(ledger))).weights;
    // The next round's ledger is patched from this one.
    ASSERT_EQ(TellSteps("bert", round["bert"], weights, scalars(), zo::ScalarFormat::kBfloat16).verdict(),
              v1::REPORT_VERDICT_ACCEPTED);
    round = NextRound();
    weights = Pki::Value(zo::DecodeLedger(Bytes(LedgerBytes(round["anna"])))).weights;
  }
}

TEST_F(LedgersTest, ThereIsNoPatchButBetweenLedgersOfTheRun) {
  auto round = NextRound();
  const std::string adapter = HexOf(round["anna"].plan().adapter(1));
  const Sha256Digest weights =
      zo::DigestOfWeights(aggregation::WeightsOf(GoodUpdateBase(round["anna"]), 1e-3)->parameters);
  ASSERT_EQ(Tell("anna", round["anna"], weights, 1).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  round = NextRound();
  const std::string ledger = HexOf(round["anna"].plan().adapter(2));
  for (const std::string& target : {ledger + "/from/" + adapter, adapter + "/from/" + ledger,
                                    ledger + "/from/" + std::string(64, 'a'), std::string(64, 'a') + "/from/" + ledger,
                                    ledger + "/from/", ledger + "/from/../" + ledger, ledger + "/from/" + ledger}) {
    const HttpResponse answer = Get("/v1/blobs/" + target);
    if (target == ledger + "/from/" + ledger) {
      EXPECT_EQ(answer.status, 200U) << "nothing has changed, which is short to say";
    } else {
      ExpectRefused(answer, v1::REFUSAL_REASON_NOT_FOUND);
    }
  }
}

TEST_F(LedgersTest, ADeviceWithOtherWeightsIsRefusedAndItsScalarsChangeNothing) {
  auto round = NextRound();
  const v1::ReportResponse verdict = Tell("anna", round["anna"], Sha256("other"), 1);
  EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_INVALID);
  EXPECT_EQ(protocol::ReasonName(verdict.refusal().reason()), "WRONG_STATE");
  EXPECT_THAT(verdict.refusal().message(), HasSubstr("rebuilt weights"));
  EXPECT_EQ(CommittedRounds(), 0);
  EXPECT_THAT(Admin("GET", "/metrics").body, HasSubstr("\nheddle_refusals_total{reason=\"WRONG_STATE\"} 1\n"));
  const Sha256Digest weights =
      zo::DigestOfWeights(aggregation::WeightsOf(GoodUpdateBase(round["bert"]), 1e-3)->parameters);
  EXPECT_EQ(Tell("bert", round["bert"], weights, 2000).refusal().reason(), v1::REFUSAL_REASON_OUT_OF_BOUNDS);
}

}  // namespace
}  // namespace heddle::coordinator
