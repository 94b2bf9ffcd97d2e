#include "client/daemon/config.h"

#include "common/config.h"
#include "common/ids.h"
#include "protocol/validate.h"

namespace heddle::client {
namespace {

// The variables that keys are bound to, in the types that ConfigSchema knows.
struct Bindings {
  explicit Bindings(ClientConfig* config) {
    schema.Bind("coordinator.host", &config->host, {.help = "name or address of the coordinator", .required = true});
    schema.Bind("coordinator.port", &port, {.help = "TCP port of its device listener", .min = 1, .max = 65535});
    schema.Bind("coordinator.server_name", &config->server_name,
                {.help = "name its certificate must bear; empty: the host"});
    schema.Bind("coordinator.retry_base_s", &backoff_base_s,
                {.help = "seconds of the first pause after a failure; doubles each time", .min = 0.001, .max = 3600});
    schema.Bind("coordinator.retry_max_s", &backoff_max_s,
                {.help = "longest pause after failures", .min = 0.001, .max = 86400});
    schema.Bind("coordinator.inline_update_bytes", &config->inline_update_bytes,
                {.help = "updates up to this size travel inside their report; 0: all are uploaded before",
                 .max = protocol::kMaxInlineUpdateBytes});
    schema.Bind("device.state_dir", &state_dir,
                {.help = "folder of key, certificate, cache and journal", .required = true, .is_path = true});
    schema.Bind("device.name", &config->device_name, {.help = "name of the device, with --insecure only"});
    schema.Bind("data.path", &data_path,
                {.help = "the device's own data: a file, or a folder of images", .required = true, .is_path = true});
    schema.Bind(
        "data.columns", &columns,
        {.help = "of a CSV or TSV file without a header: its columns in order; empty: the first row names them"});
    schema.Bind("data.text_fields", &text_fields,
                {.help = "fields that make up the text, joined by a space; empty: text, sentence or sentence1"});
    schema.Bind("data.pair_field", data.mutable_pair(), {.help = "field of the second text; empty: sentence2"});
    schema.Bind("data.label_field", data.mutable_label(), {.help = "field of the label; empty: label"});
    schema.Bind("data.prompt_field", data.mutable_prompt(), {.help = "field of the prompt; empty: prompt"});
    schema.Bind("data.completion_field", data.mutable_completion(),
                {.help = "field of the completion; empty: completion"});
    schema.Bind("worker.binary", &binary,
                {.help = "the worker program; empty: heddle-worker beside this one", .is_path = true});
    schema.Bind("worker.threads", &threads, {.help = "most compute threads; 0: as the plan says", .max = 1024});
    schema.Bind("worker.device", &config->worker_device,
                {.help = "what computes: the processor, or the first GPU", .choices = {"cpu", "cuda"}});
    schema.Bind("worker.memory_limit_mb", &memory_mb,
                {.help = "tasks that need more MiB are refused, a worker that takes more is stopped; 0: no limit",
                 .max = 1 << 24});
    schema.Bind(
        "worker.keep_alive_s", &keep_alive_s,
        {.help = "seconds the worker stays, model loaded, after its work; 0: it ends at once", .min = 0, .max = 1e7});
    schema.Bind("worker.max_replayed_directions", &config->max_replayed_directions,
                {.help = "where a zeroth-order run's ledger has more directions to replay, its weights are fetched "
                         "instead: 4 bytes a trained parameter in place of so many moves of it",
                 .max = uint64_t{1} << 40});
    schema.Bind("worker.nice", &nice, {.help = "niceness of the worker", .min = 0, .max = 19});
    schema.Bind("cache.max_bytes", &config->cache_max_bytes, {.help = "limit of the blob cache", .min = 1});
    schema.Bind("eligibility.command", &config->eligibility.command,
                {.help = "shell command; exit status 0: the device may train"});
    schema.Bind("eligibility.file", &file, {.help = "file that must exist for the device to train", .is_path = true});
    schema.Bind("eligibility.check_interval_s", &interval_s,
                {.help = "seconds between checks, also while training", .min = 0.01, .max = 86400});
    schema.Bind("eligibility.time_limit_s", &time_limit_s,
                {.help = "seconds the command may take", .min = 0.01, .max = 3600});
    schema.Bind("log.level", &config->log.level,
                {.help = "least severity that is logged", .choices = {"debug", "info", "warning", "error"}});
    schema.Bind("log.format", &config->log.format, {.help = "for people or machines", .choices = {"text", "json"}});
    schema.Bind("log.file", &log_file, {.help = "file to append to; empty: standard error", .is_path = true});
  }

  void Store(ClientConfig* config) const {
    config->port = static_cast<uint16_t>(port);
    config->state_dir = state_dir;
    config->data_path = data_path;
    config->data_fields = data;
    config->data_fields.mutable_columns()->Assign(columns.begin(), columns.end());
    config->data_fields.mutable_text()->Assign(text_fields.begin(), text_fields.end());
    config->worker_binary = binary;
    config->max_threads = static_cast<uint32_t>(threads);
    config->memory_limit_bytes = memory_mb << 20;
    config->worker_keep_alive = Seconds(keep_alive_s);
    config->nice = static_cast<int>(nice);
    config->eligibility.file = file;
    config->eligibility.interval = Seconds(interval_s);
    config->eligibility.time_limit = Seconds(time_limit_s);
    config->log.file = log_file;
    config->backoff_base = Seconds(backoff_base_s);
    config->backoff_max = Seconds(backoff_max_s);
  }

  ConfigSchema schema{"client"};
  uint64_t port = 7443, threads = 0, memory_mb = 0, nice = 10;
  double keep_alive_s = 0, interval_s = 10, time_limit_s = 5, backoff_base_s = 0.5, backoff_max_s = 300;
  std::string state_dir, data_path, binary, file, log_file;
  std::vector<std::string> columns, text_fields;
  v1::DataFields data;
};

}  // namespace

Result<ClientConfig> ClientConfig::Load(const std::filesystem::path& file,
                                        const std::map<std::string, std::string>& flags) {
  ClientConfig config;
  Bindings bindings(&config);
  HEDDLE_RETURN_IF_ERROR(bindings.schema.LoadFile(file, flags));
  bindings.Store(&config);
  if (config.host.empty()) return InvalidArgument(file.string() + ": coordinator.host is empty");
  if (config.state_dir.empty()) return InvalidArgument(file.string() + ": device.state_dir is empty");
  if (!config.device_name.empty() && !IsValidDeviceName(config.device_name))
    return InvalidArgument(file.string() + ": device.name must be [a-z0-9][a-z0-9._-]{0,62}");
  HEDDLE_RETURN_IF_ERROR(protocol::Validate(config.data_fields).Annotate(file.string() + ": [data]"));
  config.resolved = bindings.schema.ShowResolved();
  return config;
}

std::string ClientConfig::Describe() {
  ClientConfig config;
  return Bindings(&config).schema.Describe();
}

std::filesystem::path DefaultWorkerBinary() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) {
    const std::filesystem::path beside = self.parent_path() / "heddle-worker";
    if (std::filesystem::exists(beside, error)) return beside;
  }
  return "heddle-worker";
}

}  // namespace heddle::client
