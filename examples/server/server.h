#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include <httplib.h>

#include "arguments.h"
#include "job.h"
#include "metrics.h"
#include "model.h"

namespace serving {

/// Speaks HTTP: reads requests, hands them to workers by a queue, and answers each of them once.
class Server {
 public:
  Server(const Arguments& arguments, const Model& model, Jobs& jobs, Metrics& metrics);

  /// Takes the port, and starts the connections' threads. Raises c10::Error if it cannot. Returns the port's number.
  int bind();

  /// Answers until stop(). False if the port was lost.
  bool listen();

  /// From now on readiness is gone; connections are closed by the next answer on them.
  void begin_to_drain() { is_draining_ = true; }
  /// From now on inference is refused.
  void refuse_requests() { refuses_ = true; }
  /// How many inference requests wait for their answers.
  int open_requests() const { return open_requests_; }
  /// Ends listen().
  void stop();

 private:
  struct Reply {
    int status;
    std::string body;
  };

  void add_paths();
  void add_refusals();
  void add_errors();
  /// Reads a body, of which more than the limit is let go. False, with a status, if it is too large or not whole.
  bool read_body(httplib::Response& response, const httplib::ContentReader& read, std::string& body) const;
  /// Reads the body of a request to infer, and answers it.
  void infer(const httplib::Request& request, httplib::Response& response, const httplib::ContentReader& read);
  Reply reply_to(const std::string& body);
  /// 429 or 503, counted.
  Reply turn_away(int status, const char* reason, const std::string& text);
  void respond(httplib::Response& response, int status, const std::string& body, const char* type) const;

  const Arguments& arguments_;
  const Model& model_;
  Jobs& jobs_;
  Metrics& metrics_;
  std::string infer_path_;
  std::atomic<bool> is_draining_ = false, refuses_ = false, has_listened_ = false;
  std::atomic<int> open_requests_ = 0;
  httplib::Server http_;
};

}  // namespace serving
