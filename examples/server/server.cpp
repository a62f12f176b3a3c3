#include "server.h"

#include <sys/socket.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>
#include <variant>

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>
#include <it3/error_text.h>

#include "connections.h"
#include "protocol.h"

namespace serving {
namespace {

constexpr const char* json = "application/json";

/// Whether the request that this thread is at counts as open, until its answer is written.
thread_local bool has_open_request = false;

/// What to do about a status that the HTTP library has given.
std::string explained(int status, std::size_t max_body) {
  switch (status) {
    case 400: return "the request is no complete HTTP request";
    case 404: return "there is no such path, or it takes another method; see /v2 and /v2/models/NAME";
    case 413: return c10::str("the body has more than ", max_body, " MiB; send fewer samples in a request");
    default: return c10::str("the request cannot be served: HTTP status ", status);
  }
}

/// Why the library would not read a body as it should, if so: it takes that of GET for the next request on the
/// connection, and waits for the end of one of unknown length.
const char* unreadable(const httplib::Request& request) {
  const bool is_chunked = request.has_header("Transfer-Encoding");
  const std::string length = request.get_header_value("Content-Length");
  if (request.method == "GET" || request.method == "HEAD" || request.method == "OPTIONS") {
    return is_chunked || (!length.empty() && length != "0") ? "a request of this method must have no body" : nullptr;
  }
  if (!is_chunked && length.empty()) return "the request must tell the length of its body by Content-Length";
  return request.is_multipart_form_data() ? "the body must be JSON, not a form" : nullptr;
}

/// Has the whole answer sent, whatever part a request asks for: the library would send what lies in memory behind it.
void ignore_ranges(const httplib::Request& request) { const_cast<httplib::Request&>(request).ranges.clear(); }

/// Text as a regular expression that matches it alone.
std::string literal(const std::string& text) {
  std::string pattern;
  for (const char c : text) {
    if (std::string_view("\\^$.|?*+()[]{}").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

}  // namespace

Server::Server(const Arguments& arguments, const Model& model, Jobs& jobs, Metrics& metrics)
    : arguments_(arguments),
      model_(model),
      jobs_(jobs),
      metrics_(metrics),
      infer_path_("/v2/models/" + arguments.name + "/infer") {
  http_.set_payload_max_length(arguments.max_body << 20);
  http_.set_keep_alive_max_count(std::numeric_limits<std::size_t>::max());
  http_.set_tcp_nodelay(true);  // else the kernel holds the second part of an answer back
  add_paths();
  add_refusals();
  add_errors();
}

int Server::bind() {
  int socket = -1;
  http_.set_socket_options([&socket](int of_server) {
    // Not SO_REUSEPORT, the library's own choice, by which a second server would get a share of the requests.
    const int yes = 1;
    setsockopt(of_server, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    socket = of_server;
  });
  const bool is_any = arguments_.port == 0;
  const int port = is_any ? http_.bind_to_any_port(arguments_.host) : arguments_.port;
  const bool is_bound = is_any ? port > 0 : http_.bind_to_port(arguments_.host, port);
  TORCH_CHECK(is_bound, "cannot listen at ", arguments_.host, ":", arguments_.port, "; is the port in use?");
  // The library has five connections wait to be accepted at most, so that some of many that come at once are reset.
  TORCH_CHECK(::listen(socket, SOMAXCONN) == 0, "cannot listen at port ", port);
  // Made here, where an error is told; the library deletes them.
  http_.new_task_queue = [connections = new Connections(arguments_.connections)] { return connections; };
  return port;
}

bool Server::listen() {
  const bool is_stopped = http_.listen_after_bind();
  has_listened_ = true;
  return is_stopped;
}

void Server::stop() {
  // Before it runs, the library does not hear it.
  while (!http_.is_running() && !has_listened_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  http_.stop();
}

void Server::add_paths() {
  const auto get = [this](const std::string& path, auto reply) {
    http_.Get(literal(path), [this, reply](const httplib::Request&, httplib::Response& response) {
      const Reply made = reply();
      respond(response, made.status, made.body, json);
    });
  };
  const std::string model = "/v2/models/" + arguments_.name;
  const auto readiness = [this] { return is_draining_ ? 503 : 200; };
  get("/v2", [] { return Reply{200, server_metadata()}; });
  get("/v2/health/live", [] { return Reply{200, "{\"live\":true}"}; });
  get("/v2/health/ready",
      [this, readiness] { return Reply{readiness(), is_draining_ ? "{\"ready\":false}" : "{\"ready\":true}"}; });
  get(model, [this] { return Reply{200, model_metadata(arguments_.name, model_.inputs(), model_.outputs())}; });
  get(model + "/ready",
      [this, readiness] { return Reply{readiness(), model_readiness(arguments_.name, !is_draining_)}; });
  http_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
    respond(response, 200, metrics_.text(jobs_.size()), "text/plain; version=0.0.4; charset=utf-8");
  });
  http_.Post(
      literal(infer_path_),
      [this](const httplib::Request& request, httplib::Response& response, const httplib::ContentReader& read) {
        ++open_requests_;
        has_open_request = true;
        infer(request, response, read);
      });
}

void Server::add_refusals() {
  http_.set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
    ignore_ranges(request);
    const char* const why = unreadable(request);
    if (why == nullptr) return httplib::Server::HandlerResponse::Unhandled;
    response.set_header("Connection", "close");
    respond(response, 400, error_body(why), json);
    return httplib::Server::HandlerResponse::Handled;
  });
  // What is sent elsewhere is let go, as the library would keep all of it in memory.
  const auto elsewhere = [this](
                             const httplib::Request&, httplib::Response& response, const httplib::ContentReader& read) {
    std::string body;
    if (read_body(response, read, body)) response.status = 404;
  };
  http_.Post(".*", elsewhere).Put(".*", elsewhere).Patch(".*", elsewhere).Delete(".*", elsewhere);
}

void Server::add_errors() {
  const httplib::Server::HandlerWithResponse tell = [this](
                                                        const httplib::Request& request, httplib::Response& response) {
    ignore_ranges(request);
    if (!response.body.empty() || response.content_provider_) return httplib::Server::HandlerResponse::Unhandled;
    response.set_header("Connection", "close");  // as the rest of the request may still be on it
    respond(response, response.status, error_body(explained(response.status, arguments_.max_body)), json);
    return httplib::Server::HandlerResponse::Handled;
  };
  http_.set_error_handler(tell);
  http_.set_exception_handler([this](const httplib::Request&, httplib::Response& response, std::exception_ptr caught) {
    response.set_header("Connection", "close");
    try {
      std::rethrow_exception(caught);
    } catch (const std::exception& error) {
      respond(response, 500, error_body(it3::error_text(error)), json);
    } catch (...) {
      respond(response, 500, error_body("an error without words"), json);
    }
  });
  // Here all answers come by, those of the library too.
  http_.set_post_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
    if (request.path == infer_path_ && request.method == "POST") metrics_.answered(response.status);
  });
  http_.set_logger([this](const httplib::Request&, const httplib::Response&) {
    if (std::exchange(has_open_request, false)) --open_requests_;
  });
}

bool Server::read_body(httplib::Response& response, const httplib::ContentReader& read, std::string& body) const {
  const std::size_t limit = arguments_.max_body << 20;
  std::size_t length = 0;
  const bool is_read = read([&](const char* data, std::size_t count) {
    length += count;
    if (length <= limit) body.append(data, count);
    return length <= 16 * limit;  // read on beyond the limit, so that the client gets to read the answer
  });
  if (length > limit) response.status = 413;
  return is_read && length <= limit;
}

void Server::infer(const httplib::Request& request, httplib::Response& response, const httplib::ContentReader& read) {
  std::string body;
  if (!read_body(response, read, body)) return;  // the error handler tells
  if (request.has_header("Inference-Header-Content-Length")) {
    return respond(response, 400, error_body("binary tensors are not supported; send \"data\" as JSON"), json);
  }
  const Reply reply = reply_to(body);
  if (reply.status == 429 || reply.status == 503) response.set_header("Retry-After", "1");
  respond(response, reply.status, reply.body, json);
}

Server::Reply Server::reply_to(const std::string& body) {
  const auto arrival = Clock::now();
  if (refuses_) return turn_away(503, "shutting_down", "the server is shutting down; ask another one");
  if (Connections::is_above_limit()) {
    return turn_away(503, "connections", c10::str("more than ", arguments_.connections, " connections are open"));
  }
  const std::string is_full = c10::str("the queue is full: ", arguments_.queue, " requests wait already");
  if (jobs_.is_full()) return turn_away(429, "queue_full", is_full);  // before any work on it
  InferRequest request;
  try {
    request = parse_infer_request(body, model_.inputs());
  } catch (const BadRequest& error) {
    return {400, error_body(error.what())};
  }
  std::chrono::microseconds limit = arguments_.deadline;
  if (request.timeout) limit = std::min(limit, *request.timeout);
  const auto job = std::make_shared<Job>(Job{std::move(request.inputs), request.wants_uncertainty(), arrival + limit});
  std::future<Outcome> future = job->outcome.get_future();
  if (!jobs_.push(job)) return turn_away(429, "queue_full", is_full);
  const bool is_late = future.wait_until(job->deadline) != std::future_status::ready;
  if (is_late) jobs_.remove(job);  // makes room; what a worker has begun on it comes to nothing
  const Outcome outcome = is_late ? Failure{504, "the deadline has passed"} : future.get();
  if (const auto* const failure = std::get_if<Failure>(&outcome)) {
    if (failure->status != 504) return {failure->status, error_body(failure->text)};
    return turn_away(
        504, "deadline", c10::str("there was no answer within the request's ", limit.count(), " microseconds"));
  }
  const Answer& answer = std::get<Answer>(outcome);
  std::vector<std::pair<std::string, at::Tensor>> outputs;
  for (const auto& name : request.outputs) {
    outputs.emplace_back(name, name == prediction_name ? answer.prediction : answer.uncertainty);
  }
  Reply reply{200, infer_response(arguments_.name, request.id, outputs)};
  metrics_.took(std::chrono::duration<double>(Clock::now() - arrival).count());
  return reply;
}

Server::Reply Server::turn_away(int status, const char* reason, const std::string& text) {
  metrics_.rejected(reason);
  return {status, error_body(text)};
}

void Server::respond(httplib::Response& response, int status, const std::string& body, const char* type) const {
  response.status = status;
  const bool is_marked = response.has_header("Connection");
  const bool ends = is_marked || is_draining_ || Connections::is_above_limit();
  if (ends && !is_marked) response.set_header("Connection", "close");
  // Not set_content(), which compresses for clients that accept it: 10 MB by Brotli take a minute. A connection is
  // closed whose content ends by false; the library has no other way to.
  response.set_content_provider(
      body.size(), type, [body, ends](std::size_t offset, std::size_t length, httplib::DataSink& sink) {
        sink.write(body.data() + offset, length);
        return !ends;
      });
}

}  // namespace serving
