// Writes the seeds of every fuzz target: make_fuzz_corpus tests/fuzz/corpus. The same bytes in every run, so that a
// change of a format shows as a change of these files.
#include <cstdio>
#include <filesystem>

#include "common/file.h"
#include "common/safetensors.h"
#include "coordinator/audit/audit_head.h"
#include "coordinator/audit/audit_record.h"
#include "coordinator/store/run_spec_json.h"
#include "coordinator/store/upload_name.h"
#include "model/architectures/architectures.h"
#include "model/config/registry.h"
#include "model/tokenizer/bpe_trainer.h"
#include "peft/adapter/adapter.h"
#include "peft/adapter/prompt_generator.h"
#include "peft/adapter/prompt_projection.h"
#include "protocol/refusal.h"
#include "protocol/short_form.h"
#include "protocol/validate.h"
#include "tests/fuzz/seeds.h"

namespace heddle::fuzz {
namespace {

namespace fs = std::filesystem;

fs::path root;
bool failed = false;

}  // namespace

void Fail(const std::string& sentence) {
  failed = true;
  std::fprintf(stderr, "%s\n", sentence.c_str());
}

void Write(const std::string& target, const std::string& name, std::string_view bytes) {
  Status status = MakeDirectories(root / target);
  if (status.ok()) status = WriteFileAtomically(root / target / name, bytes);
  if (!status.ok()) Fail(status.ToString());
}

std::string Number(uint64_t value, size_t bytes) {
  std::string out;
  for (size_t i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}

std::string Replace(std::string text, std::string_view what, std::string_view with) {
  const size_t at = text.find(what);
  if (at == std::string::npos) {
    Fail("the text to replace is not there: " + std::string(what));
    return text;
  }
  return text.replace(at, what.size(), with);
}

namespace {

std::string Frame(const google::protobuf::MessageLite& message) {
  const std::string body = message.SerializeAsString();
  return Number(body.size(), 4) + body;
}

std::string WithHeader(std::string_view header, size_t data_bytes) {
  return Number(header.size(), 8) + std::string(header) + std::string(data_bytes, 'x');
}

void Safetensors() {
  StateDict dict;
  const float values[] = {1.0F, -2.5F, 0.0F, 3e38F, 1e-40F, 7.0F};
  dict["a.weight"] = Tensor::FromFloats({2, 3}, values);
  dict["b"] = Tensor::FromFloats({}, std::span(values, 1));
  dict["empty"] = Tensor::FromFloats({0, 4}, {});
  Write("fuzz_safetensors", "three", SerializeSafetensors(dict));
  Write("fuzz_safetensors", "no-metadata", SerializeSafetensors(dict, {}));
  Write("fuzz_safetensors", "nothing", SerializeSafetensors({}, {}));
  for (const char* dtype : {"BOOL", "U8", "I8", "I16", "I32", "I64", "F16", "BF16", "F64"}) {
    const size_t bytes = 2 * DTypeSize(*DTypeFromName(dtype));
    Write("fuzz_safetensors", std::string("type-") + dtype,
          WithHeader(std::string(R"({"t":{"dtype":")") + dtype + R"(","shape":[2],"data_offsets":[0,)" +
                         std::to_string(bytes) + "]}}  ",
                     bytes));
  }
  Write(
      "fuzz_safetensors", "escapes",
      WithHeader(
          R"({"__metadata__":{"k\u00e9\"\n":"\ud83d\ude00/\\"},"a\/b":{"shape":[1],"dtype":"U8","data_offsets":[0,1]}})",
          1));
  Write(
      "fuzz_safetensors", "odd-alignment",
      WithHeader(
          R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
          5));
  Write("fuzz_safetensors", "overflow",
        WithHeader(R"({"a":{"dtype":"F64","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0));
}

void Config() {
  Write("fuzz_config", "whole",
        "name = \"x\"\nkind = 'two'\n[listen]\nflag = true\nport = 80\n[limits]\nmax-bytes = 5\nrate = 1e-3\n"
        "[data]\npath = \"a/../b\"\nnames = [\"a\", \"b,c\"]\nsizes = [1, -2, 0x10]\n");
  Write("fuzz_config", "free", "[settings]\na = 1\nb = [1, \"x\"]\nc = {d = 2.5}\n");
  Write("fuzz_config", "wrong",
        "nmae = 1\nlisten = 3\n[limits]\nrate = \"fast\"\nmax_bytes = -1\n[[data]]\npath = 1\n");
  Write("fuzz_config", "odd",
        "name = \"\"\"\n\\u0001\\u007f\\U0001F600\\b\\f\\\"/\"\"\"\nlimits.rate = -inf\nlimits.max_bytes = 9_223_372\n"
        "data.names = ['', '\\', \"\\t\"]\n");
  Write("fuzz_config", "nan", "limits.rate = nan\n");
  Write("fuzz_config", "broken", "a = [[[[[[[[[[[[[[[[[[[[1");
}

std::string Tokenizer(const std::vector<std::string>& special, int64_t size) {
  model::BpeTrainer trainer;
  trainer.Add("In the beginning God created the heaven and the earth. And the earth was without form.");
  model::BpeTrainerOptions options;
  options.vocab_size = size;
  options.special_tokens = special;
  const auto json = trainer.Train(options);
  if (!json.ok()) {
    Fail(json.status().ToString());
    return {};
  }
  return *json;
}

void Tokenizers() {
  const std::string plain = Tokenizer({}, 264), special = Tokenizer({"<|endoftext|>", "<s>"}, 270);
  Write("fuzz_tokenizer_json", "plain", plain);
  Write("fuzz_tokenizer_json", "special", special);
  Write("fuzz_tokenizer_json", "beside",
        R"({"bos_token":"<s>","eos_token":{"content":"<|endoftext|>"},"model_max_length":1e30})");
  Write("fuzz_tokenizer_json", "empty-merge", Replace(plain, "\"merges\": [", "\"merges\": [\" b\", "));
  Write("fuzz_tokenizer_json", "no-bytes",
        R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"ByteLevel"}})");
  const char* texts[][2] = {
      {"english", "In the beginning God created the heaven's 1234 earths,\n\n  and  <|endoftext|><|end"},
      {"unicode", "caf\xC3\xA9 \xE4\xB8\xAD\xE6\x96\x87 \xF0\x9F\x98\x80\xE2\x80\x83\xC2\xA0 e\xCC\x81 \xD9\xA3"},
      {"broken", "\xFF\xC3 \xE2\x80 \xF0\x9F\x98 \xED\xA0\x80 \xC0\xAF"},
      {"spaces", " \t\n\r\n   x   \n"},
      {"contractions", "it's we're I'VE 'llama 'd''t"}};
  for (const auto& [name, text] : texts) Write("fuzz_tokenizer_text", name, text);
}

void Models() {
  const std::string tiny =
      R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":16,"intermediate_size":32,)"
      R"("num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":300,"max_position_embeddings":64,"rms_norm_eps":1e-5,"rope_theta":10000.0,)"
      R"("tie_word_embeddings":true,"bos_token_id":1,"eos_token_id":2,"torch_dtype":"float32"})";
  Write("fuzz_model_config", "tiny", tiny);
  const auto config = model::ParseModelConfig(tiny);
  if (config.ok()) Write("fuzz_model_config", "written", model::LlamaConfigJson(*config));
  if (!config.ok()) Fail(config.status().ToString());
  Write("fuzz_model_config", "rope",
        Replace(tiny, "\"rope_theta\":10000.0", R"("rope_parameters":{"rope_type":"default","rope_theta":5e5})"));
  Write("fuzz_model_config", "scaled",
        Replace(tiny, "\"rope_theta\":10000.0", R"("rope_scaling":{"rope_type":"llama3","factor":8.0})"));
  Write("fuzz_model_config", "large",
        Replace(Replace(tiny, "\"hidden_size\":16", "\"hidden_size\":1048576"), ":300", ":2097152"));
  for (const std::string name :
       {"llama-llama3", "llama-yarn", "mistral", "qwen2", "gpt2", "opt", "opt-post", "gpt-neox"}) {
    const auto text = ReadFile(root / ".." / ".." / "data" / "models" / name / "config.json");
    if (!text.ok()) Fail(text.status().ToString());
    Write("fuzz_model_config", name, *text);
  }
  Write("fuzz_model_config", "no-kv",
        Replace(tiny, "\"num_key_value_heads\":2", "\"head_dim\":6,\"eos_token_id\":[1,2]"));

  peft::AdapterConfig adapter;
  adapter.target_modules = {"v_proj", "q_proj"};
  Write("fuzz_adapter_config", "list", adapter.ToJson());
  adapter.use_rslora = true;
  adapter.lora_alpha = 0.1;
  adapter.lora_dropout = 0.05;
  adapter.exclude_modules = {"lm_head"};
  adapter.target_modules_regex = R"(.*\.(self_attn|mlp)\.(q|up)_proj)";
  Write("fuzz_adapter_config", "pattern", adapter.ToJson());
  adapter.target_modules_regex = "all-linear";
  Write("fuzz_adapter_config", "all-linear", adapter.ToJson());
  // A pattern that a backtracking matcher takes exponential time for.
  adapter.target_modules_regex = "((.*.*)*)*x";
  Write("fuzz_adapter_config", "slow-pattern", adapter.ToJson());
  for (const char* name : {"lora-patterns", "lora-layer", "ia3", "prompt-classes", "prefix", "p-tuning", "key-value",
                           "bitfit", "layers"}) {
    const auto text = ReadFile(root / ".." / ".." / "data" / "tuning" / name / "adapter_config.json");
    if (!text.ok()) Fail(text.status().ToString());
    Write("fuzz_adapter_config", name, *text);
  }
  // Of a kind that has no such key: it was obeyed, and lost when written.
  Write(
      "fuzz_adapter_config", "ia3-layers",
      R"({"peft_type":"IA3","target_modules":["down_proj","k_proj"],"layers_to_transform":[0],"task_type":"CAUSAL_LM"})");
  Write(
      "fuzz_adapter_config", "expressions",
      R"({"peft_type":"IA3","target_modules":["down_proj","k_proj"],"exclude_modules":".*0.*k_proj","feedforward_modules":".*(down|up)_proj","task_type":"IMAGE_CLS"})");
  Write("fuzz_adapter_config", "unsupported",
        R"({"peft_type":"LORA","r":8,"target_modules":["q"],"use_dora":true,"rank_pattern":{"q":4}})");
}

void Prompts() {
  StateDict model = peft::PromptProjection{3, 4, 5, 0.5}.InitialModel(1);
  const std::vector<float> values = {0.5F, -1, 2, 0, 3};
  model.insert_or_assign(std::string(peft::kPromptCoordinates), Tensor::FromFloats({5}, values));
  Write("fuzz_prompt_projection", "small", SerializeSafetensors(model));
  const std::vector<float> form = {4096, 1048576, 1};
  model.insert_or_assign(std::string(peft::kPromptProjection), Tensor::FromFloats({3}, form));
  Write("fuzz_prompt_projection", "huge", SerializeSafetensors(model));
  StateDict generator = peft::PromptGenerator{3, 4, 2, 2, 0.5}.InitialModel(1);
  const std::vector<float> output = {0.5F, -1, 2, 0, 3, 1, -0.25F, 30};
  generator.insert_or_assign(std::string(peft::kGeneratorOutput), Tensor::FromFloats({4, 2}, output));
  Write("fuzz_prompt_projection", "generator", SerializeSafetensors(generator));
  generator.insert_or_assign(std::string(peft::kPromptProjection), Tensor::FromFloats({3}, form));
  Write("fuzz_prompt_projection", "generator_and_form", SerializeSafetensors(generator));
}

void Coordinator() {
  coordinator::UploadSpec upload;
  upload.device = DeviceId("phone-1");
  upload.assignment = AssignmentId("0123456789abcdef0123456789abcdef");
  upload.size_bytes = 4711;
  upload.digest = Sha256(std::string_view("update"));
  Write("fuzz_upload_name", "name", coordinator::UploadFileName(upload));
  Write("fuzz_upload_name", "fields", Number(4711, 8) + "update\n" + upload.assignment.value() + "\nphone-1");
  Write("fuzz_upload_name", "escape", Number(1, 8) + "u\n" + upload.assignment.value() + "\n../../phone~1");

  coordinator::RunSpec spec;
  spec.id = RunId("bible-01234567");
  spec.seed = ~uint64_t{0};
  spec.local_task = "lora_sft";
  spec.over_selection = 1.3;
  spec.max_update_bytes = 1 << 20;
  const std::string json = coordinator::RunSpecToJson(spec);
  Write("fuzz_run_spec", "good", json);
  Write("fuzz_run_spec", "infinite", Replace(json, "\"1.3\"", "\"inf\""));
  spec.first_stage_rounds = 15;
  spec.later_cohort_size = spec.later_min_available_devices = 20;
  spec.later_min_reports = 19;
  Write("fuzz_run_spec", "stages", coordinator::RunSpecToJson(spec));
  Write("fuzz_run_spec", "half-a-stage",
        Replace(coordinator::RunSpecToJson(spec), "\"later_cohort_size\"", "\"latter_cohort_size\""));
  Write("fuzz_run_spec", "missing", Replace(json, "\"seed\"", "\"sed\""));
}

void Audit() {
  coordinator::AuditRecord record;
  record.time = FromUnixMicros(1'764'000'000'123'456);
  record.event.since = record.time;
  record.event.actor = "admin";
  record.event.object = "\"\\ \n\xff";
  for (int kind = 0; kind < 9; ++kind) {
    record.event.kind = static_cast<coordinator::AuditKind>(kind);
    record.previous = record.hash;
    ++record.sequence;
    Write("fuzz_audit_record", "line-" + std::string(coordinator::AuditKindName(record.event.kind)),
          coordinator::FormatRecord(&record));
  }
  std::string early = coordinator::FormatRecord(&record);  // found by fuzzing: an hour that is a very large number
  early.replace(early.find('T') + 1, 2, "-6");
  Write("fuzz_audit_record", "line-hour-below-zero", early);
  const std::string slot = coordinator::FormatSlot({.write = 7, .sequence = 9, .hash = record.hash});
  Write("fuzz_audit_record", "head",
        coordinator::FormatSlot({.write = 6, .sequence = 8, .hash = record.previous}) + slot);
  Write("fuzz_audit_record", "head-torn", std::string(256, ' ') + slot);
  Write("fuzz_audit_record", "fields",
        Number(3, 8) + Number(1'764'000'000'000'000, 8) + Number(~uint64_t{0}, 8) + "\x03" + Number(5, 8) +
            "phone\n192.0.2.0/24\n/v1/enroll\nBAD_TOKEN\nwhy\x7f");
}

void Http() {
  Write("fuzz_http_request", "get",
        "GET /v1/blobs/00ff?x=%20y HTTP/1.1\r\nHost: c:7443\r\nRange: bytes=5-\r\nIf-None-Match: \"ab\"\r\n\r\n");
  Write(
      "fuzz_http_request", "post",
      "POST /v1/checkin HTTP/1.1\r\nHost: c\r\nContent-Type: application/x-protobuf\r\nContent-Length: 5\r\n\r\nhello");
  Write("fuzz_http_request", "patch",
        "PATCH /v1/uploads/0a HTTP/1.1\r\nHost: c\r\nUpload-Offset: 7\r\nContent-Length: 0\r\nExpect: "
        "100-continue\r\n\r\n");
  Write("fuzz_http_request", "old", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  Write("fuzz_http_request", "smuggled",
        "POST / HTTP/1.1\r\nHost: c\r\nContent-Length: 4\r\nContent-Length: 04\r\nTransfer-Encoding : chunked\r\n\r\n");
  Write("fuzz_http_request", "folded",
        "GET /a%2Fb%C3%A9//../ HTTP/1.1\r\nHost: c\r\nX-A: one\r\n two\r\nX-A:\t\r\nConnection: close, "
        "upgrade\r\n\r\nGET");
  Write("fuzz_http_request", "long-target", "GET /" + std::string(2100, 'a') + " HTTP/1.1\r\nHost: c\r\n\r\n");
  Write("fuzz_http_request", "many-headers", [] {
    std::string head = "GET / HTTP/1.1\r\nHost: c\r\n";
    for (int i = 0; i < 100; ++i) head += "X-" + std::to_string(i) + ": v\r\n";
    return head + "\r\n";
  }());
  Write("fuzz_http_response", "ok",
        "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: "
        "application/x-protobuf\r\nContent-Length: 12\r\nETag: \"ab\"\r\n\r\n");
  Write("fuzz_http_response", "created",
        "HTTP/1.1 201 Created\r\nLocation: /v1/uploads/0a\r\nUpload-Offset: 0\r\nContent-Length: 0\r\n\r\n");
  Write("fuzz_http_response", "no-content",
        "HTTP/1.1 204 No Content\r\nUpload-Complete: 1\r\nConnection: close\r\n\r\n");
  Write("fuzz_http_response", "refused",
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 12\r\nContent-Length: 40\r\n\r\n");
  Write("fuzz_http_response", "chunks", "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n");
  Write("fuzz_http_response", "continue", "HTTP/1.1 100 Continue\r\n\r\n");

  const char* ranges[][2] = {{"open", "bytes=5-"},
                             {"closed", "bytes=0-99"},
                             {"suffix", "BYTES= -7"},
                             {"several", "bytes=0-1,3-4"},
                             {"huge", "bytes=18446744073709551615-99999999999999999999"}};
  for (const auto& [name, text] : ranges)
    Write("fuzz_http_target", std::string("range-") + name, Number(100, 8) + "a\n" + text);
  Write("fuzz_http_target", "query", Number(0, 8) + "b\na=1&b=%41+%2B&&c&=x&b=2&%");
  Write("fuzz_http_target", "escapes", Number(~uint64_t{0}, 8) + "a\n%00%2f%C3%a9+%zz%");
}

v1::TrainPlan Train() {
  v1::TrainPlan plan;
  plan.set_local_steps(10);
  plan.set_batch_size(4);
  plan.set_sequence_length(64);
  plan.set_learning_rate(1e-3);
  plan.set_beta1(0.9);
  plan.set_beta2(0.999);
  plan.set_epsilon(1e-8);
  plan.set_max_grad_norm(1);
  plan.set_threads(1);
  plan.set_optimizer("AdamW8bit");
  plan.set_lr_scheduler_type("linear");
  plan.set_gradient_accumulation_steps(2);
  plan.set_base_dtype("bfloat16");
  plan.set_bf16(true);
  plan.mutable_rules()->add_frozen("lora_A");
  plan.mutable_rules()->add_kept("classifier");
  plan.mutable_rules()->set_correction("feddyn");
  plan.mutable_rules()->set_feddyn_alpha(0.1);
  plan.mutable_rules()->add_upload("int8");
  plan.mutable_zo()->set_estimator("spsa");
  plan.mutable_zo()->set_zo_eps(1e-3);
  plan.mutable_zo()->set_num_perturbations(4);
  plan.mutable_zo()->set_distribution("rademacher");
  plan.mutable_zo()->set_clip_projected_grad(100);
  plan.mutable_zo()->set_layer_groups(3);
  plan.mutable_zo()->set_layer_group(2);
  plan.mutable_zo()->set_kept_front_mb(64);
  plan.mutable_pseudo_labels()->set_label_now(true);
  plan.mutable_pseudo_labels()->set_samples(5);
  plan.mutable_pseudo_labels()->set_min_logit(0.5);
  plan.mutable_pseudo_labels()->set_neighbours(8);
  plan.mutable_prompt()->set_pattern("{text} It was {mask}.");
  plan.mutable_prompt()->add_words("great");
  plan.mutable_prompt()->add_words("terrible");
  return plan;
}

v1::TaskMetrics Metrics() {
  v1::TaskMetrics metrics;
  metrics.set_num_examples(40);
  metrics.set_steps(10);
  metrics.set_train_loss(2.5);
  metrics.set_train_seconds(0.25);
  return metrics;
}

// The order of kChecks in protocol/messages.cc.
void Messages() {
  const v1::BlobRef blob = protocol::MakeBlobRef(Sha256(std::string_view("x")), 1, "model.safetensors");
  const std::string id = "0123456789abcdef0123456789abcdef";
  const auto add = [](const char* name, int index, const google::protobuf::MessageLite& message) {
    Write("fuzz_messages", name, std::string(1, static_cast<char>(index)) + message.SerializeAsString());
  };
  v1::CheckinRequest checkin;
  checkin.set_protocol_version(protocol::kProtocolVersion);
  checkin.set_software_version("0.1.0");
  checkin.add_local_tasks("lora_sft");
  checkin.set_memory_bytes(uint64_t{2} << 30);
  add("checkin", 0, checkin);
  v1::CheckinResponse answer;
  v1::TaskAssignment* assignment = answer.mutable_assignment();
  assignment->set_assignment_id(id);
  assignment->set_run_id("bible-01234567");
  assignment->set_round(3);
  assignment->set_attempt(1);
  assignment->set_deadline_unix_us(1'700'000'000'000'000);
  v1::TaskPlan* plan = assignment->mutable_plan();
  plan->set_local_task("lora_sft");
  *plan->add_base_model() = blob;
  *plan->add_adapter() = blob;
  *plan->mutable_train() = Train();
  plan->set_seed(7);
  plan->set_max_update_bytes(1 << 20);
  plan->set_max_num_examples(1000);
  plan->set_memory_bytes(uint64_t{256} << 20);
  add("checkin-assignment", 1, answer);
  add("assignment", 8, *assignment);
  add("plan", 9, *plan);
  add("train", 10, Train());
  protocol::Shorten(protocol::LastingKey(protocol::LastingPart(*assignment)), assignment);
  add("checkin-short", 1, answer);
  v1::Rejection rejection;
  rejection.set_reason(v1::REJECTION_REASON_POLL_AGAIN);
  rejection.set_retry_after_ms(1500);
  add("rejection", 7, rejection);
  *answer.mutable_rejection() = rejection;
  add("checkin-rejection", 1, answer);
  v1::EnrollRequest enroll;
  enroll.set_token("a-token");
  enroll.set_csr_der("\x30\x03\x02\x01");
  add("enroll", 2, enroll);
  v1::EnrollResponse enrolled;
  enrolled.set_certificate_pem("-----BEGIN CERTIFICATE-----");
  enrolled.set_ca_certificate_pem("-----BEGIN CERTIFICATE-----");
  enrolled.set_device_id("phone-1");
  add("enrolled", 3, enrolled);
  v1::ReportRequest report;
  report.set_assignment_id(id);
  report.set_outcome(v1::TASK_OUTCOME_COMPLETED);
  *report.mutable_update() = blob;
  *report.mutable_metrics() = Metrics();
  report.set_message("caf\xC3\xA9");
  add("report", 4, report);
  const v1::Refusal refusal =
      protocol::MakeRefusal(v1::REFUSAL_REASON_NOT_FINITE, "the update holds NaN", Seconds(1.5));
  v1::ReportResponse verdict;
  verdict.set_verdict(v1::REPORT_VERDICT_INVALID);
  *verdict.mutable_refusal() = refusal;
  add("verdict", 5, verdict);
  add("refusal", 6, refusal);
  add("metrics", 11, Metrics());
  add("blob", 12, blob);
  v1::WorkerCommand command;
  v1::WorkerRun* run = command.mutable_run();
  run->set_local_task("lora_sft");
  *run->mutable_train() = Train();
  run->set_base_model_dir("base");
  run->set_adapter_dir("adapter");
  run->set_data_path("data.jsonl");
  run->set_update_path("update");
  run->mutable_data_fields()->add_columns("stars");
  run->mutable_data_fields()->add_text("review");
  run->mutable_data_fields()->set_label("stars");
  add("command-run", 13, command);
  add("run", 15, *run);
  command.mutable_cancel();
  add("command-cancel", 13, command);
  v1::WorkerEvent event;
  event.mutable_ready()->add_local_tasks("lora_sft");
  event.mutable_ready()->set_software_version("0.1.0");
  add("event-ready", 14, event);
  add("ready", 17, event.ready());
  event.mutable_progress()->set_step(3);
  event.mutable_progress()->set_total_steps(10);
  event.mutable_progress()->set_loss(2.5);
  add("event-progress", 14, event);
  add("progress", 18, event.progress());
  event.mutable_done()->set_message("done");
  *event.mutable_done()->mutable_metrics() = Metrics();
  add("event-done", 14, event);
  add("done", 19, event.done());
  const std::string events = Frame(event);
  event.mutable_progress()->set_step(1);
  Write("fuzz_worker_frames", "two", Frame(event) + events);
  Write("fuzz_worker_frames", "command", Frame(command));
  Write("fuzz_worker_frames", "cut", events.substr(0, events.size() - 1));
  Write("fuzz_worker_frames", "too-long", Number((1 << 20) + 1, 4) + "x");
  Write("fuzz_worker_frames", "empty", Number(0, 4));
  const std::string head = Number(40, 2) + "\x05\x08";
  Write("fuzz_text", "plain", head + "the upload is at another offset");
  Write("fuzz_text", "broken",
        head + "\xFF\xC3 caf\xC3\xA9 \xE2\x80 \xF0\x9F\x98\x80\xED\xA0\x80\xC0\xAF\xF4\x90\x80\x80");
  Write("fuzz_text", "cut", Number(9, 2) + std::string("\x01\x01") + "12345678\xC3\xA9");
}

}  // namespace
}  // namespace heddle::fuzz

int main(int argc, char** argv) {
  using namespace heddle::fuzz;
  if (argc != 2 || argv[1][0] == '-') {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  root = argv[1];
  Safetensors();
  Config();
  Tokenizers();
  Models();
  Prompts();
  Coordinator();
  Audit();
  Http();
  Messages();
  CertificateSeeds();
  DeviceSeeds();
  CoordinatorSeeds();
  TokenizerSeeds();
  DataSeeds();
  EncodedUpdateSeeds();
  LedgerSeeds();
  PartSeeds();
  SplitSeeds();
  return failed ? 1 : 0;
}
