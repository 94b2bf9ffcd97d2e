// Updates that say they are more than they are: numbers of stages, places, values and scalars that their bytes do not
// hold, tensors larger than any memory. Each is refused with its reason before room is made for it, and the round goes
// on without it.
#include <sys/resource.h>

#include <cstring>
#include <limits>

#include "aggregation/compression/compressor.h"
#include "aggregation/ledger/ledger_model.h"
#include "common/safetensors.h"
#include "protocol/validate.h"
#include "tests/unit/common/sanitized.h"
#include "tests/unit/coordinator/service/service_fixture.h"
#include "zo_optim/ledger/bits.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::coordinator {
namespace {

using protocol::Pki;

struct Forgery {
  const char* claim;
  std::function<std::string(const std::string& good)> bytes;
  v1::RefusalReason reason = v1::REFUSAL_REASON_BAD_UPDATE;
};

class EncodedAttacks : public ServiceTest {
 protected:
  // A round each: the first device sends the forgery, the other one commits the round with its own update.
  void Refuse(const std::vector<Forgery>& forgeries) {
    rusage before{}, after{};
    ::getrusage(RUSAGE_SELF, &before);
    double rounds = 0;
    for (const Forgery& forgery : forgeries) {
      SCOPED_TRACE(forgery.claim);
      auto round = NextRound();
      const v1::ReportRequest forged = Carrying(round["anna"], forgery.bytes(GoodBytes(round["anna"])));
      const v1::ReportResponse verdict = VerdictOn("anna", forged);
      EXPECT_EQ(verdict.verdict(), v1::REPORT_VERDICT_INVALID);
      EXPECT_EQ(protocol::ReasonName(verdict.refusal().reason()), protocol::ReasonName(forgery.reason))
          << verdict.refusal().message();
      EXPECT_EQ(VerdictOn("anna", forged).refusal().reason(), verdict.refusal().reason()) << "the same answer again";
      ASSERT_EQ(VerdictOn("bert", Carrying(round["bert"], GoodBytes(round["bert"]))).verdict(),
                v1::REPORT_VERDICT_ACCEPTED);
      ++rounds;
      ASSERT_TRUE(protocol::Eventually([&] { return CommittedRounds() == rounds; }));
    }
    ::getrusage(RUSAGE_SELF, &after);
    if (kSanitized) return;  // what is freed stays for a while
    EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 128 << 10) << "KiB";
  }

  v1::ReportResponse VerdictOn(const std::string& device, const v1::ReportRequest& report) {
    const HttpResponse response = Report(device, report);
    EXPECT_EQ(response.status, 200U) << response.body;
    v1::ReportResponse verdict;
    EXPECT_TRUE(verdict.ParseFromString(response.body));
    return verdict;
  }

  // As a device makes it that follows its plan.
  virtual std::string GoodBytes(const v1::TaskAssignment& assignment) {
    const auto& words = assignment.plan().train().rules().upload();
    if (words.empty()) return SerializeSafetensors(Update(assignment));
    const auto stages = compression::Pipeline::Parse(std::vector<std::string>(words.begin(), words.end()));
    return Pki::Value(compression::Compressor(Pki::Value(stages), assignment.plan().seed())
                          .Encode(Update(assignment), nullptr))
        .bytes;
  }
  virtual v1::ReportRequest Carrying(const v1::TaskAssignment& assignment, const std::string& bytes) {
    v1::ReportRequest report = ReportOf(assignment, bytes);
    report.set_inline_update(bytes);
    return report;
  }
  // Of values that differ, so that every stage has something to write.
  StateDict Update(const v1::TaskAssignment& assignment) {
    StateDict update;
    for (const auto& [name, tensor] : GoodUpdateBase(assignment)) {
      std::vector<float> values(static_cast<size_t>(tensor.numel()));
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = 0.001F * static_cast<float>(static_cast<int>(i * 37 % 101) - 50 + round_);
      }
      update.emplace(name, Tensor::FromFloats(tensor.shape(), values));
    }
    return update;
  }
};

std::string Put(std::string bytes, size_t at, const std::string& what) { return bytes.replace(at, what.size(), what); }
template <typename T>
std::string Raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

constexpr size_t kStages = 5;  // where the header says how many there are; each takes five bytes
constexpr size_t HeaderBytes(size_t stages) { return kStages + 1 + 5 * stages + 16; }

// What any header may claim. `header`: its length.
std::vector<Forgery> OfHeaders(size_t header) {
  return {
      {"255 stages", [](const std::string& good) { return Put(good, kStages, "\xff"); }},
      {"no stage", [](const std::string& good) { return Put(good, kStages, std::string(1, '\0')); }},
      {"a stage that keeps four thousand times what there is",
       [](const std::string& good) { return Put(good, kStages + 2, "\xff\xff\xff\xff"); }},
      {"a stage that does not exist", [](const std::string& good) { return Put(good, kStages + 1, "\x7f"); }},
      {"a tensor of 2^62 values",
       [header](const std::string& good) {
         const StateDictSpec huge = {{"w", {DType::kF32, {int64_t{1} << 31, int64_t{1} << 31}}}};
         return Put(good, header - 8, compression::Compressor::Fingerprint(huge));
       }},
      {"the header alone", [header](const std::string& good) { return good.substr(0, header); }},
      {"half a header", [header](const std::string& good) { return good.substr(0, header / 2); }},
      {"sixty thousand bytes behind the end", [](const std::string& good) { return good + std::string(60'000, 'x'); }},
      {"nothing but ones", [header](const std::string& good) {
         return good.substr(0, header) + std::string(good.size() - header, '\xff');
       }}};
}

TEST_F(EncodedAttacks, PlacesThatAreNotThere) {
  SubmitRun({}, "[compression]\nupload = [\"top_k:0.03\", \"int8\"]\n");
  constexpr size_t kPlaces = HeaderBytes(2);
  std::vector<Forgery> rows = OfHeaders(kPlaces);
  const std::vector<Forgery> places = {
      {"a place behind 2^34 others",
       [](const std::string& good) { return Put(good, kPlaces, "\x02\xff\xff\xff\xff\x7f"); }},
      {"a place behind 2^42 others",
       [](const std::string& good) { return Put(good, kPlaces, "\x02\xff\xff\xff\xff\xff\x7f"); }},
      {"a gap without an end",
       [](const std::string& good) { return Put(good, kPlaces + 1, std::string(good.size() - kPlaces - 1, '\x80')); }},
      {"a gap of zero in two bytes",
       [](const std::string& good) { return Put(good, kPlaces + 1, std::string("\x80\0", 2)); }},
      {"every place, in a bitmap",
       [](const std::string& good) {
         return Put(good, kPlaces, '\x01' + std::string(good.size() - kPlaces - 1, '\xff'));
       }},
      {"no place, in a bitmap",
       [](const std::string& good) {
         return Put(good, kPlaces, '\x01' + std::string(good.size() - kPlaces - 1, '\0'));
       }},
      {"places of an unknown form", [](const std::string& good) { return Put(good, kPlaces, "\x03"); }},
      {"no places at all", [](const std::string& good) { return good.substr(0, kPlaces) + good.substr(kPlaces + 5); }},
  };
  rows.insert(rows.end(), places.begin(), places.end());
  Refuse(rows);
}

TEST_F(EncodedAttacks, BlocksThatAreNotThere) {
  SubmitRun({}, "[compression]\nupload = [\"blocks:0.5\", \"bf16\"]\n");
  constexpr size_t kBlocks = HeaderBytes(2);
  std::vector<Forgery> rows = OfHeaders(kBlocks);
  rows.push_back({"every block", [](const std::string& good) { return Put(good, kBlocks, "\xff"); }});
  rows.push_back({"no block, and the values of one",
                  [](const std::string& good) { return Put(good, kBlocks, std::string(1, '\0')); }});
  rows.push_back({"a block behind the last", [](const std::string& good) { return Put(good, kBlocks, "\x80"); }});
  Refuse(rows);
}

TEST_F(EncodedAttacks, CodesThatAreNotThere) {
  SubmitRun({}, "[compression]\nupload = [\"nnadq:0.5\"]\n");
  constexpr size_t kRange = HeaderBytes(1), kHalf = kRange + sizeof(float);
  using Limits = std::numeric_limits<float>;
  std::vector<Forgery> rows = OfHeaders(kRange);
  rows.pop_back();  // ones are no finite range
  const auto half = [](float value) {
    return [value](const std::string& good) { return Put(good, kHalf, Raw(value)); };
  };
  rows.push_back({"a range of so many levels that the codes are cut off", half(Limits::max())});
  rows.push_back({"a range without codes, and codes", half(0.0F)});
  rows.push_back({"a negative range", half(-1.0F)});
  rows.push_back({"a range that is no number", half(Limits::quiet_NaN()), v1::REFUSAL_REASON_NOT_FINITE});
  rows.push_back({"a range without an end", half(Limits::infinity()), v1::REFUSAL_REASON_NOT_FINITE});
  Refuse(rows);
}

// ---- without compression ----

std::string SafetensorsOf(const std::string& header, size_t data = 64) {
  return Raw(static_cast<uint64_t>(header.size())) + header + std::string(data, '\0');
}

TEST_F(EncodedAttacks, TensorsThatAreNotThere) {
  SubmitRun();
  const auto file = [](const std::string& shape, const std::string& offsets) {
    return [=](const std::string&) {
      return SafetensorsOf(R"({"w":{"dtype":"F32","shape":[)" + shape + R"(],"data_offsets":[)" + offsets + "]}}");
    };
  };
  std::string ones = "1", empty;
  for (int i = 0; i < 10'000; ++i) ones += ",1";
  for (int i = 0; i < 800; ++i) {
    empty +=
        (i == 0 ? "{" : ",") + ("\"" + std::to_string(i)) + R"(":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  }
  Refuse({
      {"a header of 2^63 bytes", [](const std::string& good) { return Put(good, 0, Raw(uint64_t{1} << 63)); }},
      {"a header of 2^64 - 1 bytes", [](const std::string& good) { return Put(good, 0, Raw(~uint64_t{0})); }},
      {"a header of 100 MB", [](const std::string& good) { return Put(good, 0, Raw(uint64_t{100'000'000})); }},
      {"a header a byte longer than the file",
       [](const std::string& good) { return Put(good, 0, Raw(static_cast<uint64_t>(good.size() - 7))); }},
      {"2^62 values", file("2147483648,2147483648", "0,64")},
      {"2^64 values", file("4294967296,4294967296", "0,64")},
      {"2^62 values and as many bytes", file("4611686018427387904", "0,18446744073709551615")},
      {"values behind the end", file("16", "4611686018427387904,4611686018427387968")},
      {"values that end before they begin", file("16", "64,0")},
      {"fewer than no values", file("-16", "0,64")},
      {"a size that is no number", file("1e400", "0,64")},
      {"half a value", file("0.5", "0,64")},
      {"ten thousand dimensions", file(ones, "0,4")},
      {"lists in one another", [](const std::string&) { return SafetensorsOf(std::string(50'000, '[')); }},
      {"eight hundred tensors of nothing", [empty](const std::string&) { return SafetensorsOf(empty + "}", 0); },
       v1::REFUSAL_REASON_WRONG_TENSORS},
  });
}

// ---- scalars ----

class ForgedScalars : public EncodedAttacks {
 protected:
  std::string GoodBytes(const v1::TaskAssignment& assignment) override {
    const auto& files = assignment.plan().adapter();
    Sha256Digest weights;
    if (files.size() == 2) {
      weights = zo::DigestOfWeights(Pki::Value(aggregation::WeightsOf(GoodUpdateBase(assignment), 1e-3)).parameters);
    } else {
      const std::string hex = Pki::Value(protocol::DigestOf(files.Get(2))).ToHex();
      const std::string bytes = Send(Device("bert"), HttpRequest("GET", "/v1/blobs/" + hex)).body;
      weights = Pki::Value(zo::DecodeLedger(std::as_bytes(std::span(bytes)))).weights;
    }
    const float gradient = 0.5F + static_cast<float>(round_);
    return zo::EncodeScalars({.steps = {{1, gradient}, {77, -gradient}}, .weights = weights, .skipped = 0},
                             zo::ScalarFormat::kFloat32);
  }
  // In the short form and, in every other round, as an update.
  v1::ReportRequest Carrying(const v1::TaskAssignment& assignment, const std::string& packed) override {
    const std::string update = zo::UpdateOfScalars(packed);
    v1::ReportRequest report = ReportOf(assignment, update);
    report.set_parent_sha256(assignment.plan().adapter().rbegin()->sha256());
    if (round_ % 2 == 0 && !packed.empty()) {
      report.clear_update();
      report.set_scalars(packed);
    } else {
      report.set_inline_update(update);
    }
    return report;
  }
};

TEST_F(ForgedScalars, ScalarsThatAreNotThere) {
  SubmitRun({{"name", "\"FedKSeed\""}, {"pool_size", "512"}}, "[zo]\nzo_eps = 1e-3\ndistribution = \"rademacher\"\n");
  constexpr size_t kFormat = 6, kProof = 7, kCounts = 39;  // skipped and count, in a byte each where they are small
  constexpr auto kBounds = v1::REFUSAL_REASON_OUT_OF_BOUNDS, kBad = v1::REFUSAL_REASON_BAD_UPDATE;
  const auto counts = [](uint64_t skipped, uint64_t count, const std::string& rest) {
    return [=](const std::string& good) {
      std::string out = good.substr(0, kCounts);
      zo::PutVarint(skipped, &out);
      zo::PutVarint(count, &out);
      return out + rest;
    };
  };
  const std::string room(3000, '\0');
  const std::vector<Forgery> rows = {
      {"2^64 - 1 scalars", counts(0, ~uint64_t{0}, room), kBounds},
      {"2^20 scalars", counts(0, 1 << 20, room), kBounds},
      {"a scalar more than were asked for", counts(0, 3, room), kBounds},
      {"two scalars, and no bytes", counts(0, 2, ""), kBad},
      {"2^63 steps that were left out", counts(uint64_t{1} << 63, 0, room), kBounds},
      {"a count in eleven bytes",
       [](const std::string& good) { return good.substr(0, kCounts) + std::string(11, '\xff'); }, kBad},
      {"a list whose parameter is 255", counts(0, 2, '\xff' + room), kBad},
      {"directions of 64 bits", counts(0, 2, '\x28' + std::string(3000, '\xff')), kBounds},
      {"bits behind the last direction", counts(0, 2, '\x0a' + std::string(3000, '\x7f')), kBad},
      {"three thousand bytes behind the end", [room](const std::string& good) { return good + room; }, kBad},
      {"an unknown format", [](const std::string& good) { return Put(good, kFormat, "\x02"); }, kBad},
      {"bfloat16, in the bytes of float32", [](const std::string& good) { return Put(good, kFormat, "\x01"); }, kBad},
      {"a scalar that is no number",
       [](const std::string& good) { return Put(good, good.size() - 4, Raw(std::numeric_limits<float>::quiet_NaN())); },
       v1::REFUSAL_REASON_NOT_FINITE},
      {"a scalar larger than any",
       [](const std::string& good) { return Put(good, good.size() - 4, Raw(std::numeric_limits<float>::max())); },
       kBounds},
      {"weights that are not the round's",
       [](const std::string& good) { return Put(good, kProof, std::string(32, 'w')); }, v1::REFUSAL_REASON_WRONG_STATE},
      {"nothing", [](const std::string&) { return std::string(); }, kBad},
      {"one byte", [](const std::string&) { return std::string("H"); }, kBad},
  };
  std::vector<Forgery> twice;  // in both forms
  for (const Forgery& row : rows) twice.insert(twice.end(), {row, row});
  Refuse(twice);
}

}  // namespace
}  // namespace heddle::coordinator
