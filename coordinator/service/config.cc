#include "coordinator/service/config.h"

#include <algorithm>
#include <thread>

#include "protocol/limits.h"

namespace heddle::coordinator {
namespace {

// What one peer may ask for, before and after it is known.
void BindPeerLimits(ConfigSchema* schema, CoordinatorConfig* c) {
  schema->Bind("limits.max_connections_per_address", &c->max_connections_per_address,
               {.help = "connections from one IPv4 address or IPv6 /64; 0: no limit", .max = 1e6});
  schema->Bind("limits.max_handshakes", &c->max_handshakes,
               {.help = "TLS handshakes at one time; further peers wait", .min = 1, .max = 1e6});
  schema->Bind("limits.handshake_timeout_s", &c->handshake_timeout_s,
               {.help = "a TLS handshake that takes longer is ended", .min = 0.01, .max = 3600});
  schema->Bind("limits.header_timeout_s", &c->header_timeout_s,
               {.help = "a request's head that takes longer is ended", .min = 0.01, .max = 3600});
  schema->Bind("limits.keep_alive_timeout_s", &c->keep_alive_timeout_s,
               {.help = "a connection without a request for this long is closed", .min = 0.01, .max = 86400});
  schema->Bind("limits.body_idle_timeout_s", &c->body_idle_timeout_s,
               {.help = "a body without a byte for this long is ended", .min = 0.01, .max = 3600});
  schema->Bind("limits.min_body_bytes_per_s", &c->min_body_bytes_per_s,
               {.help = "a body slower than this after one body_idle_timeout_s is ended; 0: no limit", .max = 1e9});
  schema->Bind("limits.device_requests_per_s", &c->device_requests_per_s,
               {.help = "requests of one device, on average; 0: no limit", .min = 0, .max = 1e6});
  schema->Bind("limits.device_request_burst", &c->device_request_burst,
               {.help = "requests that a quiet device may make at once", .min = 1, .max = 1e6});
  schema->Bind("limits.device_bytes_in_flight", &c->device_bytes_in_flight,
               {.help = "bytes of one device's bodies in memory at one time", .min = 2 << 20});
  schema->Bind("limits.max_device_uploads", &c->max_device_uploads,
               {.help = "unfinished uploads of one device; older ones make room; 0: no limit", .max = 1e6});
  schema->Bind("limits.max_device_upload_bytes", &c->max_device_upload_bytes,
               {.help = "declared sizes of one device's unfinished uploads together; 0: no limit"});
  schema->Bind("limits.bad_tokens_per_minute", &c->bad_tokens_per_minute,
               {.help = "enrolments with bad tokens from one address; 0: no limit", .min = 0, .max = 1e6});
}

void Bind(ConfigSchema* schema, CoordinatorConfig* c) {
  schema->Bind("listen.address", &c->listen_address, {.help = "address of the devices' listener", .min = 1});
  schema->Bind("listen.port", &c->listen_port, {.help = "its TCP port; 0: any free one", .max = 65535});
  schema->Bind("listen.server_names", &c->server_names,
               {.help = "names and addresses in the server's certificate", .min = 1, .max = 64});
  schema->Bind("listen.port_file", &c->listen_port_file,
               {.help = "file that gets the port's number once it is open", .is_path = true});
  schema->Bind("admin.address", &c->admin_address,
               {.help = "address of the loopback listener", .choices = {"127.0.0.1", "::1"}});
  schema->Bind("admin.port", &c->admin_port, {.help = "its TCP port; 0: any free one", .max = 65535});
  schema->Bind("admin.port_file", &c->admin_port_file,
               {.help = "file that gets the port's number once it is open", .is_path = true});
  schema->Bind("storage.state_dir", &c->state_dir,
               {.help = "folder of database, blobs, keys and runs", .min = 1, .is_path = true});
  schema->Bind("storage.keep_update_rounds", &c->keep_update_rounds,
               {.help = "committed rounds whose updates are kept, to check the chain of models again; 0: all",
                .max = protocol::kMaxRounds});
  schema->Bind("storage.min_free_bytes", &c->min_free_bytes,
               {.help = "free space on the disk that uploads leave for everything else"});
  schema->Bind("limits.max_connections", &c->max_connections,
               {.help = "devices connected at one time", .min = 1, .max = 1e6});
  BindPeerLimits(schema, c);
  schema->Bind("limits.max_upload_bytes", &c->max_upload_bytes, {.help = "size of one upload", .min = 1});
  schema->Bind("limits.max_pending_upload_bytes", &c->max_pending_upload_bytes,
               {.help = "declared sizes of all unfinished uploads together", .min = 1});
  schema->Bind("limits.stale_upload_hours", &c->stale_upload_hours,
               {.help = "an unfinished upload that has not grown for this long is discarded", .min = 0.01, .max = 1e5});
  schema->Bind("limits.device_certificate_days", &c->device_certificate_days,
               {.help = "validity of devices' certificates", .min = 0.001, .max = 36500});
  schema->Bind("limits.token_hours", &c->token_hours,
               {.help = "validity of enrolment tokens", .min = 0.001, .max = 8760});
  schema->Bind("limits.shutdown_grace_s", &c->shutdown_grace_s,
               {.help = "seconds that open requests get at SIGTERM", .min = 0, .max = 3600});
  schema->Bind("limits.validation_bytes_in_flight", &c->validation_bytes_in_flight,
               {.help = "bytes of updates looked at at one time; bounds memory", .min = 1});
  schema->Bind("log.level", &c->log.level,
               {.help = "least severity that is logged", .choices = {"debug", "info", "warning", "error"}});
  schema->Bind("log.format", &c->log.format, {.help = "lines for people or machines", .choices = {"text", "json"}});
  schema->Bind("log.file", &c->log.file, {.help = "empty: standard error", .is_path = true});
  schema->Bind("threads", &c->threads, {.help = "io threads; 0: the machine's cores, at most 8", .max = 256});
  schema->Bind("aggregation_threads", &c->aggregation_threads,
               {.help = "threads that fold updates; 0: the machine's cores, at most 8", .max = 256});
}

uint64_t Cores() { return std::clamp(std::thread::hardware_concurrency(), 1U, 8U); }

}  // namespace

Result<CoordinatorConfig> CoordinatorConfig::Load(const std::filesystem::path& path,
                                                  const std::map<std::string, std::string>& overrides) {
  CoordinatorConfig config;
  ConfigSchema schema("coordinator");
  Bind(&schema, &config);
  HEDDLE_RETURN_IF_ERROR(schema.LoadFile(path, overrides));
  config.resolved = schema.ShowResolved();
  if (config.threads == 0) config.threads = Cores();
  if (config.aggregation_threads == 0) config.aggregation_threads = Cores();
  return config;
}

std::string CoordinatorConfig::Describe() {
  CoordinatorConfig config;
  ConfigSchema schema("coordinator");
  Bind(&schema, &config);
  return schema.Describe();
}

}  // namespace heddle::coordinator
