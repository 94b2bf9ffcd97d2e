#include "coordinator/admin/admin_client.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/json.hpp>
#include <charconv>

#include "common/file.h"
#include "protocol/transport/client.h"

namespace heddle::coordinator {
namespace {

namespace json = boost::json;
namespace asio = boost::asio;

Code CodeOfName(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(Code::kUnauthenticated); ++i) {
    if (CodeName(static_cast<Code>(i)) == name) return static_cast<Code>(i);
  }
  return Code::kUnknown;
}

Status StatusOf(const protocol::HttpResponse& response) {
  if (response.status >= 200 && response.status < 300) return OkStatus();
  json::error_code error;
  const json::value value = json::parse(response.body, error);
  if (const json::object* object = error ? nullptr : value.if_object()) {
    const json::value* code = object->if_contains("code");
    const json::value* detail = object->if_contains("detail");
    if (code != nullptr && code->is_string() && detail != nullptr && detail->is_string()) {
      const Code known = CodeOfName(std::string_view(code->get_string().data(), code->get_string().size()));
      return {known == Code::kOk ? Code::kUnknown : known, json::value_to<std::string>(*detail)};
    }
  }
  return Internal("the coordinator answered with HTTP status " + std::to_string(response.status));
}

Result<json::object> ObjectOf(const protocol::HttpResponse& response) {
  HEDDLE_RETURN_IF_ERROR(StatusOf(response));
  json::error_code error;
  json::value value = json::parse(response.body, error);
  if (error || !value.is_object()) return Internal("the coordinator's answer is not a JSON object");
  return std::move(value.get_object());
}

}  // namespace

struct AdminClient::Impl {
  asio::io_context io;
  std::unique_ptr<protocol::HttpClient> client;
  std::string token;

  Result<protocol::HttpResponse> Send(protocol::HttpRequest request) {
    std::optional<Result<protocol::HttpResponse>> answer;
    auto call = [&]() -> protocol::Awaitable<void> { answer.emplace(co_await client->Send(request)); };
    io.restart();
    asio::co_spawn(io, call(), asio::detached);
    while (!answer && io.run_one() > 0) {
    }
    if (!answer) return Internal("the call to the coordinator ended without an answer");
    if (answer->status().code() == Code::kUnavailable) {
      return Unavailable(
          "no coordinator answers on this machine; is heddle-coordinator running with this "
          "configuration?");
    }
    return *std::move(answer);
  }
};

AdminClient::AdminClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AdminClient::~AdminClient() = default;

Result<std::unique_ptr<AdminClient>> AdminClient::Make(const CoordinatorConfig& config) {
  uint64_t port = config.admin_port;
  if (port == 0) {
    if (config.admin_port_file.empty()) {
      return InvalidArgument(
          "admin.port is 0 and admin.port_file is empty, so nothing says where to call: set one of them");
    }
    auto text = ReadFile(config.admin_port_file, 64);
    if (!text.ok()) return Unavailable("no coordinator runs with this configuration: " + text.status().message());
    auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), port);
    if (error != std::errc() || port == 0 || port > 65535) {
      return InvalidArgument(config.admin_port_file +
                             " does not hold a port; restart heddle-coordinator, which writes it");
    }
  }
  auto impl = std::make_unique<Impl>();
  if (auto token = ReadFile(config.admin_token(), 4096); token.ok()) {
    impl->token = token->substr(0, token->find_last_not_of(" \r\n") + 1);
  }
  protocol::ClientOptions options;
  options.host = config.admin_address;
  options.port = static_cast<uint16_t>(port);
  impl->client = std::make_unique<protocol::HttpClient>(impl->io.get_executor(), options);
  return std::unique_ptr<AdminClient>(new AdminClient(std::move(impl)));
}

Result<json::object> AdminClient::Get(const std::string& target) {
  HEDDLE_ASSIGN_OR_RETURN(const auto response, impl_->Send(protocol::HttpRequest("GET", target)));
  return ObjectOf(response);
}

Result<json::object> AdminClient::Post(const std::string& target, const std::string& body) {
  protocol::HttpRequest request("POST", target, body);
  request.content_type = "application/json";
  request.headers.emplace_back("Authorization", "Bearer " + impl_->token);
  request.answer_timeout = Seconds(600);  // a submission copies the base model
  HEDDLE_ASSIGN_OR_RETURN(const auto response, impl_->Send(std::move(request)));
  return ObjectOf(response);
}

Result<std::string> AdminClient::GetText(const std::string& target) {
  HEDDLE_ASSIGN_OR_RETURN(auto response, impl_->Send(protocol::HttpRequest("GET", target)));
  HEDDLE_RETURN_IF_ERROR(StatusOf(response));
  return std::move(response.body);
}

}  // namespace heddle::coordinator
