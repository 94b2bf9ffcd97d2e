// The two ways to less than a whole ledger, a patch from an earlier one and the weights that it stands for: asked for
// by strangers, by names that are none, for blobs that are no ledgers, and from ledgers that a device has made up.
#include <sys/resource.h>

#include <thread>

#include "protocol/validate.h"
#include "tests/integration/attacks/attack_world.h"
#include "tests/integration/attacks/certificates.h"
#include "tests/unit/common/sanitized.h"
#include "zo_optim/ledger/bits.h"
#include "zo_optim/ledger/ledger.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;
using protocol::Pki;

std::string HexOf(const v1::BlobRef& ref) { return Pki::Value(protocol::DigestOf(ref)).ToHex(); }
std::string PatchOf(const std::string& to, const std::string& from) { return "/v1/blobs/" + to + "/from/" + from; }
std::string WeightsOf(const std::string& ledger) { return "/v1/blobs/" + ledger + "/weights"; }

constexpr uint64_t kPool = 512;

class LedgerWorld : public AttackWorld {
 public:
  LedgerWorld()
      : AttackWorld({}, {{"name", "\"FedKSeed\""}, {"pool_size", std::to_string(kPool)}},
                    "[zo]\nzo_eps = 1e-3\ndistribution = \"rademacher\"\n") {}

  HttpResponse Get(const std::string& device, const std::string& target) {
    return SendAs(device, HttpRequest("GET", target));
  }
  // Of the open round; empty in the first.
  std::string Ledger() {
    const auto& files = TaskOf("mallory").plan().adapter();
    return files.size() == 3 ? HexOf(files.Get(2)) : "";
  }
  // What devices may fetch and is no ledger.
  std::string Adapter() { return HexOf(TaskOf("mallory").plan().adapter(1)); }
  // The bytes lie in the store afterwards, as mallory's update; their name.
  std::string UploadAsUpdate(const std::string& bytes) {
    const HttpResponse uploaded = SendAs("mallory", UploadRequest(TaskOf("mallory").assignment_id(), bytes));
    EXPECT_EQ(uploaded.Header("Upload-Complete"), "1") << uploaded.status;
    return Sha256(bytes).ToHex();
  }
};

// Each table once in each round; what needs a ledger from the second on.
std::vector<Attack> InEachRound(const std::vector<Attack>& rows) {
  std::vector<Attack> attacks;
  for (int round = 0; round < kRounds; ++round) {
    for (const Attack& row : rows) attacks.push_back(row);
  }
  return attacks;
}

// ---- who ----

TEST(Attacks, PatchesAndWeightsOfLedgersAreForDevicesOnly) {
  LedgerWorld world;
  const fs::path forged = world.temp_.path() / "forged.crt", key = world.temp_.path() / "mallory.key";
  Forge({.device = "anna", .not_before = -86'400, .not_after = 86'400, .authority = world.config_.pki(), .key = key},
        forged);
  protocol::ClientTlsOptions tls;
  tls.ca_pem = Pki::Value(ReadFile(world.config_.pki() / "ca.crt"));
  tls.certificate = forged;
  tls.key = key;
  int served = 0;
  const auto by_role = [&] {
    const auto impostor = world.Connect(tls);
    const std::string ledger = world.Ledger(), known = ledger.empty() ? world.Adapter() : ledger;
    for (const std::string& target : {PatchOf(known, known), WeightsOf(known)}) {
      SCOPED_TRACE(target);
      const HttpResponse device = world.Get("mallory", target);
      EXPECT_EQ(device.status, ledger.empty() ? 404U : 200U);
      served += device.status == 200 ? 1 : 0;
      ExpectRefused(world.Get("", target), v1::REFUSAL_REASON_UNAUTHENTICATED);
      ExpectRefused(Pki::Value(world.TrySend(*impostor, HttpRequest("GET", target))),
                    v1::REFUSAL_REASON_UNAUTHENTICATED);
      for (const char* method : {"POST", "PUT", "DELETE", "PATCH"}) {
        ExpectRefused(world.SendAs("mallory", HttpRequest(method, target)), v1::REFUSAL_REASON_UNSUPPORTED);
        ExpectRefused(world.SendAs("", HttpRequest(method, target)), v1::REFUSAL_REASON_UNAUTHENTICATED);
      }
      const unsigned head = world.SendAs("mallory", HttpRequest("HEAD", target)).status;
      EXPECT_TRUE(head == 404 || head == 405) << head;
      EXPECT_EQ(world.SendAs("", HttpRequest("HEAD", target)).status, 401U);
      EXPECT_EQ(world.Admin("GET", target).status, 404U) << "the loopback listener has none of it";
    }
  };
  world.Withstand(InEachRound({{"patches and weights, by role", by_role}}));
  EXPECT_EQ(served, 4) << "two in each round that had a ledger";
}

// ---- of what ----

TEST(Attacks, OfWhatIsNoLedgerThereIsNeitherPatchNorWeights) {
  LedgerWorld world;
  const auto targets = [&world] {
    const std::string ledger = world.Ledger().empty() ? world.Adapter() : world.Ledger(), adapter = world.Adapter();
    const std::string config = HexOf(world.TaskOf("mallory").plan().adapter(0));
    const std::string base = HexOf(world.TaskOf("mallory").plan().base_model(0)), none(64, 'a');
    const std::string model(world.Run().at("model_sha256").as_string());  // which holds the ledger, and is no device's
    std::vector<std::string> out;
    for (const std::string& other : {adapter, config, base, none, model}) {
      if (other != adapter) out.push_back(PatchOf(adapter, other));
      out.push_back(PatchOf(other, other));
      out.push_back(PatchOf(other, ledger));
      out.push_back(PatchOf(ledger, other));
      out.push_back(WeightsOf(other));
    }
    for (const std::string& name :
         {std::string(), std::string("."), std::string(".."), std::string("../") + ledger, ledger + "/..",
          ledger.substr(1), ledger + "0", std::string(64, 'g'), std::string(1800, 'a'), ledger + "%00",
          std::string("%2e%2e%2f") + ledger, std::string("..%2f..%2fpki%2fca.key"), ledger + "/from/" + ledger,
          ledger + "/weights", std::string("/"), std::string("weights"), std::string("from")}) {
      out.push_back(PatchOf(name, ledger));
      if (name != ledger + "/weights") out.push_back(PatchOf(ledger, name));
      out.push_back(WeightsOf(name));
    }
    return out;
  };
  const auto ask = [&] {
    for (const std::string& target : targets()) {
      const HttpResponse answer = world.Get("mallory", target);
      EXPECT_TRUE(answer.status == 404 || answer.status == 400) << target << ": " << answer.status;
      EXPECT_EQ(answer.body.find(world.config_.state_dir), std::string::npos) << target;
      EXPECT_EQ(world.Get("", target).status, answer.status == 400 ? 400U : 401U) << target;
    }
  };
  world.Withstand(InEachRound({{"blobs that are no ledgers, and names that are none", ask}}));
}

// ---- from what ----

long PeakKilobytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

void ExpectLittleMemory(long before) {
  if (kSanitized) return;  // what is freed stays for a while
  EXPECT_LT(PeakKilobytes() - before, 96 << 10) << "KiB";
}

// The beginning of a ledger of the run, up to the number of its entries.
std::string HeadOf(const zo::LedgerHead& head) {
  zo::Ledger empty = zo::EmptyLedger(head);
  const std::string bytes = zo::EncodeLedger(empty);
  return bytes.substr(0, bytes.size() - 4);  // no entries, two lists of none, no importance
}

struct MadeUp {
  const char* name;
  std::function<std::string(const zo::Ledger& known)> bytes;
};

std::vector<MadeUp> MadeUpLedgers() {
  const auto claims = [](uint64_t count, const std::string& rest) {
    return [count, rest](const zo::Ledger& known) {
      std::string out = HeadOf(known.head);
      zo::PutVarint(count, &out);
      return out + rest;
    };
  };
  return {
      {"as many entries as there may be, and no bytes for them", claims(zo::kMaxLedgerEntries, "")},
      {"as many entries as there may be, and a thousand bytes", claims(zo::kMaxLedgerEntries, std::string(1000, '\0'))},
      {"more entries than there may be", claims(zo::kMaxLedgerEntries + 1, std::string(1000, '\0'))},
      {"2^64 - 1 entries", claims(~uint64_t{0}, std::string(1000, '\0'))},
      {"numbers of 64 bits throughout", claims(100, '\x28' + std::string(2000, '\xff'))},
      {"a list of numbers with an unknown parameter", claims(100, '\xff' + std::string(2000, '\0'))},
      {"another run's ledger",
       [](const zo::Ledger& known) {
         zo::Ledger other = known;
         ++other.head.seed;
         return zo::EncodeLedger(other);
       }},
      {"the magic and nothing else", [](const zo::Ledger&) { return std::string("HDLG"); }},
      {"bytes behind the ledger", [](const zo::Ledger& known) { return zo::EncodeLedger(known) + "x"; }},
      {"a ledger that is cut off",
       [](const zo::Ledger& known) {
         const std::string whole = zo::EncodeLedger(known);
         return whole.substr(0, whole.size() - 1);
       }},
      {"a ledger of directions that have moved as far as they can",
       [](const zo::Ledger& known) {
         zo::Ledger far = known;
         far.entries.clear();
         for (uint64_t ref = 0; ref < 200; ++ref) far.entries.push_back({ref, -((int64_t{1} << 40) - 1)});
         return zo::EncodeLedger(far);
       }},
  };
}

// They must decide nothing: there is no patch, or one that leads its maker to the ledger that it may fetch anyway.
TEST(Attacks, PatchesFromLedgersThatADeviceMadeUpCostLittle) {
  LedgerWorld world;
  const auto made_up = [&world] {
    if (world.Ledger().empty()) return;
    const std::string bytes = world.Get("mallory", "/v1/blobs/" + world.Ledger()).body;
    const zo::Ledger known = Pki::Value(zo::DecodeLedger(std::as_bytes(std::span(bytes))));
    for (const MadeUp& row : MadeUpLedgers()) {
      SCOPED_TRACE(row.name);
      const std::string from = row.bytes(known), name = world.UploadAsUpdate(from);
      for (int i = 0; i < 20; ++i) {
        ExpectRefused(world.Get("mallory", PatchOf(world.Ledger(), name)), v1::REFUSAL_REASON_NOT_FOUND);
      }
      ExpectRefused(world.Get("mallory", PatchOf(world.Adapter(), name)), v1::REFUSAL_REASON_NOT_FOUND);
      ExpectRefused(world.Get("mallory", PatchOf(name, world.Ledger())), v1::REFUSAL_REASON_NOT_FOUND);
      ExpectRefused(world.Get("mallory", PatchOf(name, name)), v1::REFUSAL_REASON_NOT_FOUND);
      ExpectRefused(world.Get("mallory", WeightsOf(name)), v1::REFUSAL_REASON_NOT_FOUND);
      // Nor as the newest one that a device says it has.
      v1::CheckinRequest checkin;
      EXPECT_TRUE(checkin.ParseFromString(AttackWorld::CheckinRequestOf().body));
      checkin.set_short_forms(true);
      checkin.set_ledger_sha256(std::string(Sha256(from).raw()));
      const HttpResponse answer =
          world.SendAs("mallory", HttpRequest("POST", "/v1/checkin", checkin.SerializeAsString()));
      v1::CheckinResponse response;
      EXPECT_TRUE(answer.status == 200 && response.ParseFromString(answer.body)) << answer.status;
      EXPECT_TRUE(response.has_assignment() && response.assignment().ledger_patch().empty());
    }
  };
  const long before = PeakKilobytes();
  world.Withstand(InEachRound({{"ledgers of a device's own making", made_up}}));
  ExpectLittleMemory(before);
}

// As long as `bytes`: most entries for a byte, each of which is 32 bytes while it is read.
std::string DenseLedger(uint64_t bytes) {
  std::string out = HeadOf({.pool_size = 0});
  const uint64_t entries = (bytes - 200) / 3 * 8;
  zo::PutVarint(entries, &out);
  out += '\0';  // one bit each: the next direction
  out.append(entries / 8, '\0');
  out += '\1';  // two bits each: a step down
  out.append(entries / 4, '\xaa');
  return out + '\0';
}

// Where there are no ledgers an update may be large, and as a ledger it would be many times larger.
TEST(Attacks, InARunWithoutLedgersNoUpdateIsReadAsOne) {
  const std::string small = DenseLedger(2000);
  EXPECT_TRUE(zo::DecodeLedger(std::as_bytes(std::span(small))).ok()) << "it is one";
  AttackWorld world([](CoordinatorConfig& config) { config.max_upload_bytes = 4 << 20; }, {},
                    "[lora.rank_pattern]\nq_proj = 160\n");
  const auto ask = [&world] {
    const v1::TaskAssignment& task = world.TaskOf("mallory");
    const std::string adapter = HexOf(task.plan().adapter(1));
    const std::string bytes = DenseLedger(task.plan().max_update_bytes());
    EXPECT_GT(bytes.size(), 800'000U);
    EXPECT_EQ(world.SendAs("mallory", world.UploadRequest(task.assignment_id(), bytes)).Header("Upload-Complete"), "1");
    const std::string name = Sha256(bytes).ToHex();
    std::vector<std::thread> crowd;
    for (int i = 0; i < 4; ++i) {
      crowd.emplace_back([&] {
        const auto client = world.ClientOf("mallory");
        for (int j = 0; j < 5; ++j) {
          const auto answer = world.TrySend(*client, HttpRequest("GET", PatchOf(adapter, name)));
          ExpectRefused(Pki::Value(answer), v1::REFUSAL_REASON_NOT_FOUND);
        }
      });
    }
    for (std::thread& one : crowd) one.join();
    ExpectRefused(world.SendAs("mallory", HttpRequest("GET", PatchOf(name, name))), v1::REFUSAL_REASON_NOT_FOUND);
    ExpectRefused(world.SendAs("mallory", HttpRequest("GET", WeightsOf(name))), v1::REFUSAL_REASON_NOT_FOUND);
  };
  const long before = PeakKilobytes();
  world.Withstand(InEachRound({{"an update that is a ledger, as large as it may be", ask}}));
  ExpectLittleMemory(before);
}

}  // namespace
}  // namespace heddle::coordinator
