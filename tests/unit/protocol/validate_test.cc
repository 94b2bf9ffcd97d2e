// Every message: one good example, and each of its fields just inside and just outside its bounds.
#include "protocol/validate.h"

#include <gmock/gmock.h>
#include <rapidcheck.h>

#include <cmath>
#include <functional>
#include <limits>

namespace heddle::protocol {
namespace {

using testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

v1::BlobRef GoodBlob(const std::string& name = "model.safetensors") {
  return MakeBlobRef(Sha256(std::string_view("x")), 1, name);
}

v1::TrainPlan GoodTrain() {
  v1::TrainPlan plan;
  plan.set_local_steps(10);
  plan.set_batch_size(4);
  plan.set_sequence_length(64);
  plan.set_learning_rate(1e-3);
  plan.set_beta1(0.9);
  plan.set_beta2(0.999);
  plan.set_epsilon(1e-8);
  plan.set_threads(1);
  return plan;
}

v1::TaskAssignment GoodAssignment() {
  v1::TaskAssignment assignment;
  assignment.set_assignment_id("0123456789abcdef0123456789abcdef");
  assignment.set_run_id("bible-01234567");
  assignment.set_round(1);
  assignment.set_attempt(1);
  assignment.set_deadline_unix_us(1);
  v1::TaskPlan* plan = assignment.mutable_plan();
  plan->set_local_task("lora_sft");
  *plan->add_base_model() = GoodBlob();
  *plan->add_adapter() = GoodBlob("adapter_model.safetensors");
  *plan->mutable_train() = GoodTrain();
  plan->set_max_update_bytes(1 << 20);
  plan->set_max_num_examples(1000);
  return assignment;
}

v1::ReportRequest GoodReport() {
  v1::ReportRequest report;
  report.set_assignment_id("0123456789abcdef0123456789abcdef");
  report.set_outcome(v1::TASK_OUTCOME_COMPLETED);
  *report.mutable_update() = GoodBlob("update.safetensors");
  report.mutable_metrics()->set_num_examples(40);
  return report;
}

v1::CheckinRequest GoodCheckin() {
  v1::CheckinRequest checkin;
  checkin.set_protocol_version(kProtocolVersion);
  checkin.set_software_version("heddle-client 0.1.0");
  checkin.add_local_tasks("lora_sft");
  return checkin;
}

v1::WorkerRun GoodRun() {
  v1::WorkerRun run;
  run.set_local_task("lora_sft");
  *run.mutable_train() = GoodTrain();
  run.set_base_model_dir("/a");
  run.set_adapter_dir("/b");
  run.set_data_path("/c");
  run.set_update_path("/d");
  return run;
}

// Changes a good message and says whether it must still be good, and which field the complaint names.
template <typename Message>
struct Change {
  std::function<void(Message&)> apply;
  bool good;
  std::string names = {};
};

template <typename Message>
void Check(const Message& good, const std::vector<Change<Message>>& changes) {
  ASSERT_TRUE(Validate(good).ok()) << Validate(good);
  for (size_t i = 0; i < changes.size(); ++i) {
    Message changed = good;
    changes[i].apply(changed);
    const Status status = Validate(changed);
    EXPECT_EQ(status.ok(), changes[i].good) << "change " << i << ": " << status;
    if (changes[i].good) continue;
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << "change " << i;
    EXPECT_THAT(status.message(), HasSubstr(changes[i].names)) << "change " << i;
  }
}

TEST(Validate, BlobRef) {
  using M = v1::BlobRef;
  Check<M>(GoodBlob(), {
                           {[](M& m) { m.set_size_bytes(0); }, true},
                           {[](M& m) { m.set_size_bytes(kMaxBlobBytes); }, true},
                           {[](M& m) { m.set_size_bytes(kMaxBlobBytes + 1); }, false, "size_bytes"},
                           {[](M& m) { m.set_sha256(std::string(31, 'x')); }, false, "sha256"},
                           {[](M& m) { m.set_sha256(std::string(33, 'x')); }, false, "sha256"},
                           {[](M& m) { m.set_name(std::string(kMaxBlobNameBytes, 'a')); }, true},
                           {[](M& m) { m.set_name(std::string(kMaxBlobNameBytes + 1, 'a')); }, false, "name"},
                           {[](M& m) { m.set_name(""); }, false, "name"},
                           {[](M& m) { m.set_name("."); }, false, "name"},
                           {[](M& m) { m.set_name(".hidden"); }, false, "name"},
                           {[](M& m) { m.set_name("a/b"); }, false, "name"},
                           {[](M& m) { m.set_name("a\\b"); }, false, "name"},
                           {[](M& m) { m.set_name("a b"); }, false, "name"},
                           {[](M& m) { m.set_name(std::string("a\0b", 3)); }, false, "name"},
                       });
}

TEST(Validate, TrainPlan) {
  using M = v1::TrainPlan;
  Check<M>(GoodTrain(), {
                            {[](M& m) { m.set_local_steps(0); }, false, "local_steps"},
                            {[](M& m) { m.set_local_steps(kMaxLocalSteps); }, true},
                            {[](M& m) { m.set_local_steps(kMaxLocalSteps + 1); }, false, "local_steps"},
                            {[](M& m) { m.set_batch_size(0); }, false, "batch_size"},
                            {[](M& m) { m.set_batch_size(kMaxBatchSize + 1); }, false, "batch_size"},
                            {[](M& m) { m.set_sequence_length(0); }, false, "sequence_length"},
                            {[](M& m) { m.set_sequence_length(kMaxSequenceLength + 1); }, false, "sequence_length"},
                            {[](M& m) { m.set_learning_rate(0); }, true},
                            {[](M& m) { m.set_learning_rate(-1e-9); }, false, "learning_rate"},
                            {[](M& m) { m.set_learning_rate(kNan); }, false, "learning_rate"},
                            {[](M& m) { m.set_weight_decay(kInf); }, false, "weight_decay"},
                            {[](M& m) { m.set_beta1(0); }, true},
                            {[](M& m) { m.set_beta1(1); }, false, "beta1"},
                            {[](M& m) { m.set_beta2(1); }, false, "beta2"},
                            {[](M& m) { m.set_beta2(kNan); }, false, "beta2"},
                            {[](M& m) { m.set_epsilon(-1e-8); }, false, "epsilon"},
                            {[](M& m) { m.set_max_grad_norm(0); }, true},
                            {[](M& m) { m.set_max_grad_norm(-1); }, false, "max_grad_norm"},
                            {[](M& m) { m.set_warmup_steps(kMaxLocalSteps + 1); }, false, "warmup_steps"},
                            {[](M& m) { m.set_optimizer("AdamW8bit"); }, true},
                            {[](M& m) { m.set_optimizer(std::string(64, 'a')); }, true},
                            {[](M& m) { m.set_optimizer(std::string(65, 'a')); }, false, "optimizer"},
                            {[](M& m) { m.set_optimizer("a\nb"); }, false, "optimizer"},
                            {[](M& m) { m.set_lr_scheduler_type("constant_with_warmup"); }, true},
                            {[](M& m) { m.set_lr_scheduler_type("a b"); }, false, "lr_scheduler_type"},
                            {[](M& m) { m.set_base_dtype("nf4"); }, true},
                            {[](M& m) { m.set_base_dtype("/"); }, false, "base_dtype"},
                            {[](M& m) { m.set_momentum(0.9); }, true},
                            {[](M& m) { m.set_momentum(1); }, false, "momentum"},
                            {[](M& m) { m.set_momentum(kNan); }, false, "momentum"},
                            {[](M& m) { m.set_gradient_accumulation_steps(kMaxBatchSize / 4); }, true},
                            {[](M& m) { m.set_gradient_accumulation_steps(kMaxBatchSize / 4 + 1); }, false,
                             "gradient_accumulation_steps"},
                            {[](M& m) { m.set_gradient_checkpointing(true); }, true},
                            {[](M& m) { m.set_bf16(true); }, true},
                            {[](M& m) { m.set_threads(0); }, false, "threads"},
                            {[](M& m) { m.set_threads(kMaxThreads + 1); }, false, "threads"},
                            {[](M& m) { m.add_layers(0); }, true},
                            {[](M& m) { m.add_layers(kMaxLayers - 1); }, true},
                            {[](M& m) { m.add_layers(kMaxLayers); }, false, "train.layers"},
                            {[](M& m) { m.add_layers(3), m.add_layers(3); }, false, "train.layers"},
                            {[](M& m) { m.add_layers(3), m.add_layers(2); }, false, "train.layers"},
                            {[](M& m) { m.mutable_rules()->set_correction("not yet known"); }, false, "correction"},
                            {[](M& m) { m.mutable_zo()->set_zo_eps(-1); }, false, "zo_eps"},
                            {[](M& m) { m.mutable_pseudo_labels(); }, true},
                            {[](M& m) { m.mutable_prompt(); }, false, "prompt.pattern"},
                        });
}

TEST(Validate, PseudoLabels) {
  using M = v1::PseudoLabels;
  M good;
  good.set_samples(kMaxPseudoLabels);
  good.set_min_logit(-3);
  Check<M>(good, {
                     {[](M& m) { m.Clear(); }, true},
                     {[](M& m) { m.set_samples(kMaxPseudoLabels + 1); }, false, "samples"},
                     {[](M& m) { m.set_min_logit(kNan); }, false, "min_logit"},
                 });
}

TEST(Validate, PromptTemplate) {
  using M = v1::PromptTemplate;
  M good;
  good.set_pattern("{text} C'était {mask}.");
  good.add_words("bien");
  good.add_words("mal");
  Check<M>(good, {
                     {[](M& m) { m.clear_pattern(); }, false, "pattern"},
                     {[](M& m) { m.mutable_words()->RemoveLast(); }, false, "words"},
                     {[](M& m) { m.add_label_names(std::string(kMaxNameBytes + 1, 'a')); }, false, "label_names"},
                 });
}

TEST(Validate, ZerothOrder) {
  using M = v1::ZerothOrder;
  M good;
  good.set_zo_eps(1e-3);
  good.set_layer_groups(4);
  good.set_layer_group(3);
  Check<M>(good, {
                     {[](M& m) { m.Clear(); }, true},
                     {[](M& m) { m.set_estimator("of a later version"); }, false, "zo.estimator"},
                     {[](M& m) { m.set_distribution("a\n"); }, false, "zo.distribution"},
                     {[](M& m) { m.set_optimizer(std::string(kMaxSettingBytes + 1, 'a')); }, false, "zo.optimizer"},
                     {[](M& m) { m.set_zo_eps(kNan); }, false, "zo.zo_eps"},
                     {[](M& m) { m.set_zo_eps(-1); }, false, "zo.zo_eps"},
                     {[](M& m) { m.set_clip_projected_grad(kInf); }, false, "zo.clip_projected_grad"},
                     {[](M& m) { m.set_max_loss_difference(-1); }, false, "zo.max_loss_difference"},
                     {[](M& m) { m.set_sparse_fraction(1); }, true},
                     {[](M& m) { m.set_sparse_fraction(1.01); }, false, "zo.sparse_fraction"},
                     {[](M& m) { m.set_projection_scale(kNan); }, false, "zo.projection_scale"},
                     {[](M& m) { m.set_num_perturbations(kMaxPerturbations); }, true},
                     {[](M& m) { m.set_num_perturbations(kMaxPerturbations + 1); }, false, "zo.num_perturbations"},
                     {[](M& m) { m.set_anchor_interval(kMaxLocalSteps + 1); }, false, "zo.anchor_interval"},
                     {[](M& m) { m.set_anchor_perturbations(~0U); }, false, "zo.anchor_perturbations"},
                     {[](M& m) { m.set_layer_groups(~0U); }, false, "zo.layer_groups"},
                     {[](M& m) { m.set_layer_group(4); }, false, "zo.layer_group"},
                     {[](M& m) { m.set_layer_groups(0); }, false, "zo.layer_group"},
                     {[](M& m) { m.set_intrinsic_dim(~0U); }, false, "zo.intrinsic_dim"},
                     {[](M& m) { m.set_population(~0U); }, false, "zo.population"},
                     {[](M& m) { m.set_kept_front_mb(kMaxKeptFrontMb); }, true},
                     {[](M& m) { m.set_kept_front_mb(kMaxKeptFrontMb + 1); }, false, "zo.kept_front_mb"},
                 });
}

TEST(Validate, DeviceRules) {
  using M = v1::DeviceRules;
  M good;
  good.add_frozen("lora_A");
  good.add_kept("classifier");
  good.add_upload("top_k:0.01");
  good.set_correction("scaffold");
  Check<M>(good, {
                     {[](M& m) { m.Clear(); }, true},
                     {[](M& m) { m.add_frozen(""); }, false, "frozen"},
                     {[](M& m) { m.add_kept(std::string(kMaxPatternBytes + 1, 'a')); }, false, "kept"},
                     {[](M& m) { m.add_kept("\x01"); }, false, "kept"},
                     {[](M& m) {
                        for (int i = 0; i < kMaxPatterns; ++i) m.add_frozen("a");
                      },
                      false, "frozen"},
                     {[](M& m) {
                        for (int i = 0; i < kMaxUploadSteps; ++i) m.add_upload("int8");
                      },
                      false, "upload"},
                     {[](M& m) { m.set_feddyn_alpha(-1); }, false, "feddyn_alpha"},
                     {[](M& m) { m.set_proximal_mu(kNan); }, false, "proximal_mu"},
                     {[](M& m) { m.set_prune_gamma(1); }, false, "prune_gamma"},
                     {[](M& m) { m.set_prune_gamma(0.99); }, true},
                     {[](M& m) { m.set_prune_lambda(kInf); }, false, "prune_lambda"},
                 });
}

TEST(Validate, TaskAssignment) {
  using M = v1::TaskAssignment;
  Check<M>(GoodAssignment(),
           {
               {[](M& m) { m.set_assignment_id("0123"); }, false, "assignment_id"},
               {[](M& m) { m.set_assignment_id(std::string(32, 'A')); }, false, "assignment_id"},
               {[](M& m) { m.set_assignment_id("../../../../../../../../../../..a"); }, false, "assignment_id"},
               {[](M& m) { m.set_run_id(""); }, false, "run_id"},
               {[](M& m) { m.set_run_id("a\nb"); }, false, "run_id"},
               {[](M& m) { m.set_run_id(std::string(kMaxNameBytes + 1, 'a')); }, false, "run_id"},
               {[](M& m) { m.set_round(0); }, false, "round"},
               {[](M& m) { m.set_attempt(0); }, false, "attempt"},
               {[](M& m) { m.set_deadline_unix_us(-1); }, false, "deadline"},
               {[](M& m) { m.clear_plan(); }, false, "plan"},
               {[](M& m) { m.mutable_plan()->set_local_task(""); }, false, "local_task"},
               {[](M& m) { m.mutable_plan()->clear_base_model(); }, false, "base_model"},
               {[](M& m) { m.mutable_plan()->clear_adapter(); }, false, "adapter"},
               {[](M& m) { m.mutable_plan()->mutable_adapter(0)->set_sha256("x"); }, false, "adapter"},
               {[](M& m) { *m.mutable_plan()->add_base_model() = GoodBlob(); }, false, "twice"},
               {[](M& m) {
                  for (size_t i = 1; i < kMaxBlobsPerFolder; ++i)
                    *m.mutable_plan()->add_base_model() = GoodBlob("f" + std::to_string(i));
                },
                true},
               {[](M& m) {
                  for (size_t i = 0; i < kMaxBlobsPerFolder; ++i)
                    *m.mutable_plan()->add_base_model() = GoodBlob("f" + std::to_string(i));
                },
                false, "base_model"},
               {[](M& m) { m.mutable_plan()->clear_train(); }, false, "train"},
               {[](M& m) { m.mutable_plan()->mutable_train()->set_beta1(2); }, false, "beta1"},
               {[](M& m) { m.mutable_plan()->set_max_update_bytes(0); }, false, "max_update_bytes"},
               {[](M& m) { m.mutable_plan()->set_max_num_examples(0); }, false, "max_num_examples"},
           });
}

TEST(Validate, ReportRequest) {
  using M = v1::ReportRequest;
  Check<M>(GoodReport(),
           {
               {[](M& m) { m.set_assignment_id(""); }, false, "assignment_id"},
               {[](M& m) { m.set_outcome(v1::TASK_OUTCOME_UNSPECIFIED); }, false, "outcome"},
               {[](M& m) { m.set_outcome(static_cast<v1::TaskOutcome>(4)); }, false, "outcome"},
               {[](M& m) { m.clear_update(); }, false, "update"},
               {[](M& m) {
                  m.clear_update();
                  m.set_inline_update("x");
                },
                true},
               {[](M& m) {
                  m.clear_update();
                  m.set_scalars("x");
                },
                true},
               {[](M& m) { m.set_scalars("x"); }, false, "scalars"},
               {[](M& m) {
                  m.clear_update();
                  m.set_inline_update("x");
                  m.set_scalars("x");
                },
                false, "scalars"},
               {[](M& m) {
                  m.clear_update();
                  m.set_scalars(std::string(kMaxInlineUpdateBytes + 1, 'x'));
                },
                false, "scalars"},
               {[](M& m) { m.mutable_update()->set_name(".."); }, false, "update"},
               {[](M& m) { m.clear_metrics(); }, false, "metrics"},
               {[](M& m) { m.mutable_metrics()->set_train_seconds(-1); }, false, "train_seconds"},
               {[](M& m) { m.mutable_metrics()->set_steps(kMaxLocalSteps + 1); }, false, "steps"},
               {[](M& m) { m.mutable_metrics()->set_train_loss(kNan); }, true},
               {[](M& m) { m.mutable_metrics()->set_skipped_directions(~uint64_t{0}); }, false, "skipped_directions"},
               {[](M& m) { m.mutable_metrics()->set_forward_passes(~uint64_t{0}); }, false, "forward_passes"},
               {[](M& m) { m.mutable_metrics()->set_num_examples(0); }, true},
               {[](M& m) { m.set_message(std::string(kMaxReportMessageBytes, 'x')); }, true},
               {[](M& m) { m.set_message(std::string(kMaxReportMessageBytes + 1, 'x')); }, false, "message"},
               {[](M& m) { m.set_outcome(v1::TASK_OUTCOME_FAILED); }, false, "update"},
               {[](M& m) {
                  m.set_outcome(v1::TASK_OUTCOME_FAILED);
                  m.clear_update();
                  m.clear_metrics();
                },
                true},
           });
}

TEST(Validate, CheckinAndEnrolment) {
  using C = v1::CheckinRequest;
  Check<C>(GoodCheckin(), {
                              {[](C& m) { m.clear_local_tasks(); }, false, "local_tasks"},
                              {[](C& m) { m.set_local_tasks(0, ""); }, false, "local_tasks"},
                              {[](C& m) {
                                 for (size_t i = 1; i < kMaxLocalTasks; ++i) m.add_local_tasks("t");
                               },
                               true},
                              {[](C& m) {
                                 for (size_t i = 0; i < kMaxLocalTasks; ++i) m.add_local_tasks("t");
                               },
                               false, "local_tasks"},
                              {[](C& m) { m.set_software_version("\x1b[31m"); }, false, "software_version"},
                              {[](C& m) { m.set_ledger_sha256(std::string(32, 'x')); }, true},
                              {[](C& m) { m.set_ledger_sha256("x"); }, false, "ledger_sha256"},
                          });
  C other = GoodCheckin();
  other.set_protocol_version(kProtocolVersion + 1);
  EXPECT_EQ(Validate(other).code(), Code::kFailedPrecondition);

  using E = v1::EnrollRequest;
  E enroll;
  enroll.set_token("abc.def");
  enroll.set_csr_der("x");
  Check<E>(enroll, {
                       {[](E& m) { m.set_token(""); }, false, "token"},
                       {[](E& m) { m.set_token(std::string(kMaxTokenBytes, 'a')); }, true},
                       {[](E& m) { m.set_token(std::string(kMaxTokenBytes + 1, 'a')); }, false, "token"},
                       {[](E& m) { m.set_csr_der(""); }, false, "csr_der"},
                       {[](E& m) { m.set_csr_der(std::string(kMaxCsrBytes, 'a')); }, true},
                       {[](E& m) { m.set_csr_der(std::string(kMaxCsrBytes + 1, 'a')); }, false, "csr_der"},
                   });
  using R = v1::EnrollResponse;
  R response;
  response.set_certificate_pem("c");
  response.set_ca_certificate_pem("c");
  response.set_device_id("phone");
  Check<R>(response, {
                         {[](R& m) { m.set_certificate_pem(""); }, false, "certificate_pem"},
                         {[](R& m) { m.set_ca_certificate_pem(std::string(kMaxCertificateBytes + 1, 'c')); }, false,
                          "ca_certificate_pem"},
                         {[](R& m) { m.set_device_id(""); }, false, "device_id"},
                     });
}

TEST(Validate, Answers) {
  using C = v1::CheckinResponse;
  C assigned;
  *assigned.mutable_assignment() = GoodAssignment();
  Check<C>(assigned,
           {
               {[](C& m) { m.clear_answer(); }, false, "answer"},
               {[](C& m) { m.mutable_assignment()->set_round(0); }, false, "round"},
               {[](C& m) { m.mutable_rejection()->set_retry_after_ms(kMaxRetryAfterMs); }, true},
               {[](C& m) { m.mutable_rejection()->set_retry_after_ms(kMaxRetryAfterMs + 1); }, false, "retry"},
               {[](C& m) { m.mutable_rejection()->set_reason(static_cast<v1::RejectionReason>(99)); }, true},
           });
  using R = v1::ReportResponse;
  R accepted;
  accepted.set_verdict(v1::REPORT_VERDICT_ACCEPTED);
  Check<R>(accepted, {
                         {[](R& m) { m.clear_verdict(); }, false, "verdict"},
                         {[](R& m) { m.set_verdict(static_cast<v1::ReportVerdict>(77)); }, true},
                         {[](R& m) { m.set_verdict(v1::REPORT_VERDICT_INVALID); }, false, "refusal"},
                         {[](R& m) {
                            m.set_verdict(v1::REPORT_VERDICT_INVALID);
                            m.mutable_refusal()->set_reason(v1::REFUSAL_REASON_NOT_FINITE);
                          },
                          true},
                         {[](R& m) { m.mutable_refusal()->set_retry_after_ms(kMaxRetryAfterMs + 1); }, false, "retry"},
                         {[](R& m) { m.mutable_refusal()->set_message(std::string(kMaxRefusalMessageBytes + 1, 'x')); },
                          false, "message"},
                     });
}

TEST(Validate, WorkerMessages) {
  using C = v1::WorkerCommand;
  C command;
  *command.mutable_run() = GoodRun();
  Check<C>(
      command,
      {
          {[](C& m) { m.clear_command(); }, false, "command"},
          {[](C& m) { m.mutable_cancel(); }, true},
          {[](C& m) { m.mutable_run()->set_local_task(""); }, false, "local_task"},
          {[](C& m) { m.mutable_run()->clear_train(); }, false, "train"},
          {[](C& m) { m.mutable_run()->set_base_model_dir(""); }, false, "base_model_dir"},
          {[](C& m) { m.mutable_run()->set_adapter_dir(""); }, false, "adapter_dir"},
          {[](C& m) { m.mutable_run()->set_data_path(""); }, false, "data_path"},
          {[](C& m) { m.mutable_run()->set_update_path(std::string(kMaxPathBytes + 1, 'x')); }, false, "update_path"},
          {[](C& m) { m.mutable_run()->set_personal_path(std::string(kMaxPathBytes + 1, 'x')); }, false,
           "personal_path"},
          {[](C& m) { m.mutable_run()->set_next_personal_path(std::string(kMaxPathBytes + 1, 'x')); }, false,
           "next_personal_path"},
          {[](C& m) { m.mutable_run()->mutable_data_fields()->add_columns(""); }, true},
          {[](C& m) { m.mutable_run()->mutable_data_fields()->add_text(std::string(kMaxNameBytes + 1, 'x')); }, false,
           "data_fields"},
          {[](C& m) { m.mutable_run()->mutable_data_fields()->set_label(std::string(kMaxNameBytes + 1, 'x')); }, false,
           "data_fields"},
          {[](C& m) {
             for (size_t i = 0; i <= kMaxDataFields; ++i) m.mutable_run()->mutable_data_fields()->add_columns("c");
           },
           false, "data_fields"},
      });
  using E = v1::WorkerEvent;
  E event;
  event.mutable_ready()->add_local_tasks("lora_sft");
  Check<E>(event, {
                      {[](E& m) { m.clear_event(); }, false, "event"},
                      {[](E& m) { m.mutable_ready()->add_local_tasks(""); }, false, "local_tasks"},
                      {[](E& m) {
                         m.mutable_progress()->set_total_steps(5);
                         m.mutable_progress()->set_step(5);
                       },
                       true},
                      {[](E& m) { m.mutable_progress()->set_step(1); }, false, "step"},
                      {[](E& m) { m.mutable_done()->set_code(17); }, false, "code"},
                      {[](E& m) { m.mutable_done()->set_code(-1); }, false, "code"},
                      {[](E& m) { m.mutable_done(); }, false, "metrics"},
                      {[](E& m) { m.mutable_done()->set_code(1); }, true},
                      {[](E& m) { m.mutable_done()->mutable_metrics(); }, true},
                      {[](E& m) {
                         m.mutable_done()->set_code(1);
                         m.mutable_done()->set_message(std::string(kMaxWorkerErrorBytes + 1, 'x'));
                       },
                       false, "message"},
                  });
}

TEST(ParseMessage, RefusesWhatIsTooLargeOrNoMessage) {
  const auto large = ParseMessage<v1::CheckinRequest>(std::string(kMaxMessageBytes + 1, '\0'));
  EXPECT_EQ(large.status().code(), Code::kResourceExhausted);
  const auto rubbish = ParseMessage<v1::CheckinRequest>("\xFF\xFF\xFF");
  EXPECT_EQ(rubbish.status().code(), Code::kInvalidArgument);
  EXPECT_THAT(rubbish.status().message(), HasSubstr("CheckinRequest"));
  EXPECT_FALSE(ParseMessage<v1::CheckinRequest>("").ok());
}

TEST(ParseMessage, UnknownFieldsOfNewerPeersPass) {
  std::string bytes = GoodCheckin().SerializeAsString();
  bytes += "\xF8\x3F\x05";  // field 1023, varint 5
  EXPECT_TRUE(ParseMessage<v1::CheckinRequest>(bytes).ok());
}

TEST(ParseMessage, RoundTripsWhatItAccepts) {
  EXPECT_TRUE(rc::check("an accepted report is the report that was sent", [] {
    v1::ReportRequest report = GoodReport();
    report.mutable_metrics()->set_num_examples(*rc::gen::arbitrary<uint64_t>());
    report.mutable_metrics()->set_train_loss(*rc::gen::arbitrary<double>());
    report.set_message(*rc::gen::string<std::string>());
    const std::string bytes = report.SerializeAsString();
    const auto parsed = ParseMessage<v1::ReportRequest>(bytes);
    // Strings that are not UTF-8 are refused, everything else comes back bit for bit.
    if (parsed.ok()) RC_ASSERT(parsed->SerializeAsString() == bytes);
  }));
}

TEST(CleanText, MakesStringsThatProtobufAccepts) {
  EXPECT_EQ(CleanText("a\xFFz", 10), "a?z");
  EXPECT_EQ(CleanText("\xC3\xA4\xC3", 10), "\xC3\xA4?");
  EXPECT_EQ(CleanText("\xC0\x80\xED\xA0\x80", 10), "?????") << "overlong NUL, surrogate";
  EXPECT_EQ(CleanText("x\xF0\x9F\x98\x80", 4), "x");
  EXPECT_EQ(CleanText("x\xF0\x9F\x98\x80", 5), "x\xF0\x9F\x98\x80");
  EXPECT_TRUE(rc::check("cleaned text of any bytes passes a parser", [](const std::string& bytes) {
    v1::Refusal refusal;
    refusal.set_message(CleanText(bytes, 1000));
    RC_ASSERT(ParseMessage<v1::Refusal>(refusal.SerializeAsString()).ok());
  }));
}

TEST(Conversions, DigestsRoundTrip) {
  const Sha256Digest digest = Sha256(std::string_view("heddle"));
  const v1::BlobRef ref = MakeBlobRef(digest, 6, "x");
  ASSERT_TRUE(DigestOf(ref).ok());
  EXPECT_EQ(*DigestOf(ref), digest);
  EXPECT_FALSE(DigestOf(v1::BlobRef()).ok());
}

}  // namespace
}  // namespace heddle::protocol
