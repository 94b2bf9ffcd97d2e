// A run with shared seeds as devices meet it: the ledger beside the first adapter, scalars with the proof of the
// weights, patches from earlier ledgers.
#include <gmock/gmock.h>

#include "aggregation/ledger/ledger_model.h"
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
  LedgersTest() {
    SubmitRun({{"name", "\"FedKSeed\""}, {"pool_size", "512"}}, "[zo]\nzo_eps = 1e-3\ndistribution = \"rademacher\"\n");
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
    zo::Scalars scalars{.steps = {{1, gradient}, {77, -gradient}}, .weights = weights, .skipped = 0};
    const std::string bytes =
        SerializeSafetensors({{std::string(aggregation::kScalarsName),
                               aggregation::ByteTensor(zo::EncodeScalars(scalars, zo::ScalarFormat::kFloat32))}});
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
  const Sha256Digest weights =
      zo::DigestOfWeights(aggregation::WeightsOf(GoodUpdateBase(round["bert"]), 1e-3)->parameters);
  EXPECT_EQ(Tell("bert", round["bert"], weights, 2000).refusal().reason(), v1::REFUSAL_REASON_OUT_OF_BOUNDS);
}

}  // namespace
}  // namespace heddle::coordinator
