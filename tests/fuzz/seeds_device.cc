// Seeds of what a device reads: tokens, its journal, the coordinator's answers, client.toml, the run folder's report.
#include "common/digest.h"
#include "protocol/refusal.h"
#include "protocol/short_form.h"
#include "protocol/validate.h"
#include "tests/fuzz/seeds.h"

namespace heddle::fuzz {
namespace {

const std::string kAssignment = "0123456789abcdef0123456789abcdef";

v1::ReportRequest Report(std::string_view update) {
  v1::ReportRequest report;
  report.set_assignment_id(kAssignment);
  report.set_outcome(v1::TASK_OUTCOME_COMPLETED);
  *report.mutable_update() = protocol::MakeBlobRef(Sha256(update), update.size(), "update.safetensors");
  report.mutable_metrics()->set_num_examples(40);
  report.mutable_metrics()->set_steps(10);
  report.mutable_metrics()->set_train_loss(2.5);
  return report;
}

v1::CheckinResponse Assignment() {
  v1::CheckinResponse answer;
  v1::TaskAssignment* assignment = answer.mutable_assignment();
  assignment->set_assignment_id(kAssignment);
  assignment->set_run_id("bible-01234567");
  assignment->set_round(3);
  assignment->set_attempt(1);
  assignment->set_deadline_unix_us(1'700'000'000'000'000);
  v1::TaskPlan* plan = assignment->mutable_plan();
  plan->set_local_task("lora_sft");
  *plan->add_base_model() = protocol::MakeBlobRef(Sha256(std::string_view("x")), 1, "model.safetensors");
  *plan->add_adapter() = protocol::MakeBlobRef(Sha256(std::string_view("y")), 1, "adapter_model.safetensors");
  v1::TrainPlan* train = plan->mutable_train();
  train->set_local_steps(10);
  train->set_batch_size(4);
  train->set_sequence_length(64);
  train->set_learning_rate(1e-3);
  train->set_beta1(0.9);
  train->set_beta2(0.999);
  train->set_epsilon(1e-8);
  train->set_threads(1);
  train->set_optimizer("SGD");
  train->set_momentum(0.9);
  train->set_lr_scheduler_type("cosine");
  train->set_gradient_accumulation_steps(4);
  train->set_base_dtype("nf4");
  train->set_gradient_checkpointing(true);
  train->mutable_rules()->add_kept("lora_B");
  train->mutable_rules()->set_correction("scaffold");
  train->mutable_rules()->set_proximal_mu(0.01);
  train->mutable_rules()->add_upload("clip:0.5");
  train->mutable_rules()->add_upload("noise:1");
  train->mutable_zo()->set_estimator("spsa");
  train->mutable_zo()->set_zo_eps(1e-3);
  train->mutable_zo()->set_num_perturbations(4);
  train->mutable_zo()->set_distribution("rademacher");
  train->mutable_zo()->set_clip_projected_grad(100);
  train->mutable_zo()->set_layer_groups(3);
  train->mutable_zo()->set_layer_group(2);
  train->mutable_zo()->set_kept_front_mb(64);
  plan->set_max_update_bytes(1 << 20);
  plan->set_max_num_examples(1000);
  plan->set_memory_bytes(uint64_t{256} << 20);
  return answer;
}

// An event of fuzz_session: its number, and an answer's length and bytes.
std::string Event(int kind) { return std::string(1, static_cast<char>(kind)); }
std::string Event(int kind, const std::string& answer) { return Event(kind) + Number(answer.size(), 2) + answer; }
std::string Event(int kind, const google::protobuf::MessageLite& answer) {
  return Event(kind, answer.SerializeAsString());
}

void Sessions() {
  const std::string begin = Event(0, "") + Event(1) + Event(7), assigned = Event(8, Assignment());
  v1::ReportResponse verdict;
  verdict.set_verdict(v1::REPORT_VERDICT_ACCEPTED);
  const std::string trained = Event(10) + std::string(1, '\0') + Number(0, 2) + std::string(1, '\0');
  Write("fuzz_session", "whole", begin + assigned + Event(9) + trained + Event(11) + Event(12, verdict) + Event(3));
  verdict.set_verdict(v1::REPORT_VERDICT_INVALID);
  *verdict.mutable_refusal() = protocol::MakeRefusal(v1::REFUSAL_REASON_NOT_FINITE, "the update holds NaN");
  Write("fuzz_session", "refused-update",
        begin + assigned + Event(9) + trained + Event(11) + Event(12, verdict) + Event(5) + assigned);
  v1::CheckinResponse later;
  later.mutable_rejection()->set_reason(v1::REJECTION_REASON_POLL_AGAIN);
  later.mutable_rejection()->set_retry_after_ms(1500);
  v1::CheckinResponse small = later;
  small.mutable_rejection()->set_reason(v1::REJECTION_REASON_TOO_LITTLE_MEMORY);
  const std::string busy =
      protocol::MakeRefusal(v1::REFUSAL_REASON_OVERLOADED, "later", Seconds(1)).SerializeAsString();
  const std::string revoked = protocol::MakeRefusal(v1::REFUSAL_REASON_REVOKED, "go away").SerializeAsString();
  Write("fuzz_session", "later",
        begin + Event(8, later) + Event(5) + Event(13, Number(503, 2) + "\n" + busy) + Event(5));
  Write("fuzz_session", "too-little-memory", begin + Event(8, small) + Event(5) + assigned + Event(2));
  Write("fuzz_session", "retry-after",
        begin + Event(13, Number(503, 2) + "99999999999999999999\n") + Event(5) +
            Event(13, Number(500, 2) + "86400\n<html>") + Event(5));
  Write("fuzz_session", "revoked", begin + Event(13, Number(403, 2) + "\n" + revoked) + Event(1));
  Write("fuzz_session", "restart", Event(0, Report("update")) + Event(11) + Event(12, verdict) + Event(1) + Event(7));
  Write("fuzz_session", "broken", begin + Event(14) + Event(13) + Event(5) + assigned + Event(2) + Event(9) + Event(4));
  Write("fuzz_session", "failed-task",
        begin + assigned + Event(9) + Event(10) + "\x02" + Number(3, 2) + "\xff\xfe!" + std::string(1, '\0'));
  Write("fuzz_session", "out-of-memory",
        begin + assigned + Event(9) + Event(10) + "\x01" + Number(4, 2) + "full\x01" + Event(12, verdict) + Event(5) +
            assigned);
}

// A coordinator that knows short forms: a whole assignment, and the next round's without what the device was told.
void ShortForms() {
  const std::string begin = Event(0, "") + Event(1) + Event(7);
  const std::string trained = Event(9) + Event(10) + std::string(1, '\0') + Number(0, 2) + std::string(1, '\0');
  v1::ReportResponse verdict;
  verdict.set_verdict(v1::REPORT_VERDICT_ACCEPTED);
  const std::string accepted = trained + Event(11) + Event(12, verdict) + Event(5);
  v1::CheckinResponse first = Assignment(), second, rejected;
  first.mutable_assignment()->set_short_forms(true);
  v1::SharedSeeds* seeds = first.mutable_assignment()->mutable_plan()->mutable_train()->mutable_seeds();
  seeds->set_seed(7);
  seeds->set_resolution_bits(16);
  second = first;
  v1::TaskAssignment* next = second.mutable_assignment();
  next->set_round(4);
  next->set_deadline_unix_us(1'700'000'001'000'000);
  next->mutable_plan()->set_seed(8);
  const uint64_t key = protocol::LastingKey(protocol::LastingPart(first.assignment()));
  protocol::Shorten(key, next);
  if (next->lasting_key() != key) Fail("the assignment has no short form");
  next->set_ledger_patch("what leads to the next ledger");
  Write("fuzz_session", "short", begin + Event(8, first) + accepted + Event(8, second) + accepted);
  Write("fuzz_session", "short-of-nothing", begin + Event(8, second) + Event(5) + Event(8, first));
  rejected.mutable_rejection()->set_reason(v1::REJECTION_REASON_UNSUPPORTED_TASK);
  Write("fuzz_session", "short-then-another-task",
        begin + Event(8, first) + accepted + Event(8, rejected) + Event(5) + Event(8, second));
  // What is sent beside the key is joined to what is kept: a file more than there was.
  *next->mutable_plan()->add_base_model() = protocol::MakeBlobRef(Sha256(std::string_view("z")), 1, "z.safetensors");
  next->set_lasting_key(key ^ 1);
  Write("fuzz_session", "short-of-another", begin + Event(8, first) + accepted + Event(8, second) + Event(5));
  Write("fuzz_session", "short-and-more", begin + Event(8, first) + accepted + Event(15, second) + accepted);
  next->mutable_plan()->mutable_train()->set_threads(0xFFFFFFFF);
  Write("fuzz_session", "short-out-of-range", begin + Event(8, first) + accepted + Event(15, second) + Event(5));
}

}  // namespace

void DeviceSeeds() {
  const std::string fingerprint = Sha256(std::string_view("ca")).ToHex();
  Write("fuzz_enrolment_token", "good", "cmFuZG9tLWJ5dGVz." + fingerprint);
  Write("fuzz_enrolment_token", "dots", "a.b.c." + fingerprint);
  Write("fuzz_enrolment_token", "upper", "a." + std::string(64, 'A'));
  Write("fuzz_enrolment_token", "empty", "." + fingerprint);
  Write("fuzz_enrolment_token", "long", std::string(300, 'x') + "." + fingerprint);

  const std::string update = "update";
  Write("fuzz_journal", "good", Number(update.size(), 2) + update + Report(update).SerializeAsString());
  Write("fuzz_journal", "changed", Number(update.size(), 2) + "udpate" + Report(update).SerializeAsString());
  Write("fuzz_journal", "short", Number(3, 2) + "upd" + Report(update).SerializeAsString());
  v1::ReportRequest failed;
  failed.set_assignment_id(kAssignment);
  failed.set_outcome(v1::TASK_OUTCOME_FAILED);
  failed.set_message("no memory");
  Write("fuzz_journal", "failed", Number(0, 2) + failed.SerializeAsString());
  Write("fuzz_journal", "nothing", "");
  Sessions();
  ShortForms();

  const std::string client =
      "[coordinator]\nhost = \"c.example\"\nport = 7443\nretry_base_s = 0.5\n[device]\nstate_dir = \"state\"\n"
      "[log]\nlevel = \"warning\"\n";
  Write("fuzz_settings", "client", "\x01" + client);
  Write("fuzz_settings", "client-name", "\x01" + Replace(client, "[device]\n", "[device]\nname = \"Phone 1\"\n"));
  Write("fuzz_settings", "client-times", "\x01" + Replace(client, "0.5", "1e300"));

  const std::string nul(1, '\0');
  const std::string run =
      R"({"run_id":"demo-<b>","state":"complete","seed":7,"rounds":2,"committed_rounds":2,"started_at":1.5,)"
      R"("ended_at":9,"bytes_down":1e6,"bytes_up":5,"adapter_sha256":"00ff","recipe":{"name":"demo"}})";
  const std::string line =
      R"({"round":1,"attempt":1,"phase":"committed","num_accepted":1,"num_assigned":2,"train_loss":2.5,)"
      R"("devices":[{"device":"a","first_loss":3,"last_loss":2,"state":"accepted"},{"device":"<script>"}]})";
  const std::string summary = R"({"base_perplexity":9.5,"federated_perplexity":8,"local_only_perplexity":null})";
  Write("fuzz_report", "whole", run + nul + line + "\n" + line + "\n" + nul + summary);
  Write("fuzz_report", "bare", "{}" + nul + nul);
  Write("fuzz_report", "odd",
        R"({"run_id":["x"],"recipe":"<img>","ended_at":1e308,"started_at":-1e308})" + nul +
            R"({"round":-1,"devices":{"a":1},"train_loss":"NaN"})" + nul + "[1]");
}

}  // namespace heddle::fuzz
