// A run with shared seeds as devices meet it: the ledger beside the first adapter, scalars with the proof of the
// weights, patches from earlier ledgers.
#include <gmock/gmock.h>

#include <algorithm>
#include <map>

#include "aggregation/ledger/ledger_model.h"
#include "common/file.h"
#include "common/safetensors.h"
#include "protocol/validate.h"
#include "tests/support/ledger_device.h"
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

// A ledger's weights are a blob that a device may fetch in place of the replay, as long as its round may be under way.
TEST_F(LedgersTest, TheWeightsOfALedgerCanBeFetchedInPlaceOfItsReplay) {
  auto round = NextRound();
  const StateDict start = GoodUpdateBase(round["anna"]);
  const std::string first_adapter = HexOf(round["anna"].plan().adapter(1));
  Sha256Digest weights = zo::DigestOfWeights(aggregation::WeightsOf(start, 1e-3)->parameters);
  std::vector<std::string> ledgers;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(Tell("anna", round["anna"], weights, 0.5F + static_cast<float>(i)).verdict(),
              v1::REPORT_VERDICT_ACCEPTED);
    round = NextRound();
    ledgers.push_back(HexOf(round["anna"].plan().adapter(2)));
    const zo::Ledger ledger = Pki::Value(zo::DecodeLedger(Bytes(LedgerBytes(round["anna"]))));
    const HttpResponse answer = Get("/v1/blobs/" + ledgers.back() + "/weights");
    ASSERT_EQ(answer.status, 200U);
    const auto ref = Pki::Value(protocol::ParseMessage<v1::BlobRef>(answer.body));
    const std::string bytes = Get("/v1/blobs/" + HexOf(ref)).body;
    EXPECT_EQ(bytes.size(), ref.size_bytes());
    const auto file = Pki::Value(ParseSafetensors(Bytes(bytes), nullptr));
    for (const auto& [name, tensor] : Pki::Value(aggregation::ReplayLedger(start, ledger, 1))) {
      ASSERT_TRUE(file.tensors.contains(name)) << name;
      const auto given = file.tensors.at(name).values<float>(), replayed = tensor.values<float>();
      EXPECT_TRUE(std::equal(given.begin(), given.end(), replayed.begin(), replayed.end())) << name;
    }
    weights = ledger.weights;
  }
  for (const std::string& target : {ledgers[0], first_adapter, std::string(64, 'a'), std::string("..")}) {
    ExpectRefused(Get("/v1/blobs/" + target + "/weights"), v1::REFUSAL_REASON_NOT_FOUND);
  }
}

class ProLedgersTest : public LedgersTest {
 protected:
  ProLedgersTest() : LedgersTest({{"name", "\"FedKSeed-Pro\""}, {"pool_size", "512"}}) {}
};

// Whose state is more than weights: how large the scalars of each seed were.
TEST_F(ProLedgersTest, AStateWithMoreThanWeightsIsForNoDevice) {
  auto round = NextRound();
  const Sha256Digest weights =
      zo::DigestOfWeights(aggregation::WeightsOf(GoodUpdateBase(round["anna"]), 1e-3)->parameters);
  ASSERT_EQ(Tell("anna", round["anna"], weights, 1).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  round = NextRound();
  ASSERT_EQ(round["anna"].plan().adapter_size(), 3);
  ExpectRefused(Get("/v1/blobs/" + HexOf(round["anna"].plan().adapter(2)) + "/weights"), v1::REFUSAL_REASON_NOT_FOUND);
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

// What crosses a device's socket: TLS, heads and bodies of HTTP, from the check-in to the answered report.
class LedgerBytes : public ServiceTest {
 protected:
  // So many devices that each take part in each round.
  void Begin(int count, std::map<std::string, std::string> strategy, const std::string& tables) {
    strategy["cohort_size"] = std::to_string(count);
    strategy["over_selection"] = "1";
    strategy["bf16_scalars"] = "1";
    SubmitRun(strategy, "[zo]\ndistribution = \"rademacher\"\n" + tables);
    for (int i = 0; i < count; ++i) {
      const std::string name = "device-" + std::to_string(i);
      Device(name);  // enrols it
      protocol::ClientTlsOptions tls;
      tls.ca_pem = Pki::Value(ReadFile(config_.pki() / "ca.crt"));
      tls.certificate = temp_.path() / (name + ".crt");
      tls.key = temp_.path() / (name + ".key");
      protocol::ClientOptions options;
      options.host = "127.0.0.1";
      options.port = service_->device_port();
      options.tls = Pki::Value(protocol::MakeClientTls(tls));
      devices_.push_back(std::make_unique<wire::LedgerDevice>(threads_.io().get_executor(), options,
                                                              temp_.path() / name, static_cast<uint64_t>(i)));
    }
  }
  // One round of all; the bytes of the first device.
  uint64_t Round() {
    const uint64_t before = devices_[0]->socket_bytes();
    std::vector<std::future<Status>> done;
    for (auto& device : devices_) {
      done.push_back(boost::asio::co_spawn(threads_.io(), device->Round(), boost::asio::use_future));
    }
    for (std::future<Status>& one : done) Pki::Check(one.get());
    return devices_[0]->socket_bytes() - before;
  }

  std::vector<std::unique_ptr<wire::LedgerDevice>> devices_;
};

// FedKSeed as published: a pool of 4096, 200 directions a device, 20 devices a round. The paper's layout is
// 4 K + 8 tau + 4 = 17 988 bytes of payload.
TEST_F(LedgerBytes, ARoundOfFedKSeedCostsADeviceLessThanSixKilobytes) {
  Begin(20, {{"name", "\"FedKSeed\""}, {"pool_size", "4096"}}, "num_perturbations = 100\n");
  for (int round = 1; round <= 4; ++round) {
    const uint64_t bytes = Round();
    RecordProperty("bytes_of_round_" + std::to_string(round), std::to_string(bytes));
    if (round == 1) continue;  // the handshake and the first adapter
    EXPECT_LT(bytes, 6000U) << round;
  }
  EXPECT_EQ(CommittedRounds(), 4);
}

// Of ten directions a round; a thousand such rounds are below a megabyte, the first adapter and the handshake included.
TEST_F(LedgerBytes, ARoundOfDeComFlCostsADeviceLessThanNineHundredBytes) {
  Begin(5, {{"name", "\"DeComFL\""}}, "estimator = \"spsa_one_sided\"\nnum_perturbations = 5\n");
  for (int round = 1; round <= 20; ++round) {
    const uint64_t bytes = Round();
    RecordProperty("bytes_of_round_" + std::to_string(round), std::to_string(bytes));
    if (round <= 2) continue;  // the handshake, the first adapter and ledger
    EXPECT_LT(bytes, 900U) << round;
  }
  EXPECT_EQ(CommittedRounds(), 20);
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

// Of a round whose ledger starts from weights that are gone there is no checkpoint; everything else is told.
TEST_F(LedgersTest, ALostStartKeepsNothingFromTheFolderButItsCheckpoint) {
  namespace fs = std::filesystem;
  auto round = NextRound();
  const StateDict start = GoodUpdateBase(round["anna"]);
  const std::string first_adapter = HexOf(round["anna"].plan().adapter(1));
  const fs::path folder(std::string(Run().at("folder").as_string()));
  fs::remove(folder / "checkpoints");
  ASSERT_TRUE(WriteFileAtomically(folder / "checkpoints", "in the way").ok());
  const Sha256Digest weights = zo::DigestOfWeights(aggregation::WeightsOf(start, 1e-3)->parameters);
  ASSERT_EQ(Tell("anna", round["anna"], weights, 0.5F).verdict(), v1::REPORT_VERDICT_ACCEPTED);
  NextRound();
  EXPECT_TRUE(Run().contains("folder_error"));
  EXPECT_EQ(Metric("heddle_run_folders_incomplete"), 1);
  size_t removed = 0;
  for (const auto& entry : fs::recursive_directory_iterator(config_.state_dir)) {
    if (entry.path().filename() == first_adapter) removed += fs::remove(entry.path()) ? 1 : 0;
  }
  ASSERT_EQ(removed, 1U);
  fs::remove(folder / "checkpoints");
  fs::create_directory(folder / "checkpoints");
  ASSERT_TRUE(admin().Post("/v1/runs/" + run_id_ + ":stop", "").ok());
  EXPECT_FALSE(Run().contains("folder_error"));
  EXPECT_EQ(Metric("heddle_run_folders_incomplete"), 0);
  EXPECT_FALSE(fs::exists(folder / "checkpoints" / "round-1"));
  EXPECT_THAT(Pki::Value(ReadFile(folder / "run.json")), HasSubstr("stopped"));
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
