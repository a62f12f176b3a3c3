// it3-server: adapts a saved engine to requests over HTTP.
#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <thread>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <it3/error_text.h>

#include "arguments.h"
#include "job.h"
#include "metrics.h"
#include "model.h"
#include "server.h"
#include "workers.h"

namespace serving {
namespace {

using namespace std::chrono_literals;

/// How long clients that send or read slowly can hold up the end.
constexpr auto for_slow_clients = 10s;

/// The signals that end the server. Threads that begin from now on leave them to wait_for_end().
sigset_t block_end_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

void run(const Arguments& arguments, const sigset_t& end_signals) {
  at::set_num_threads(arguments.threads);
  end_calls_after_deadlines();
  Model model(arguments.engine, arguments.device, arguments.options);
  const std::string why_not = arguments.batch > 1 ? model.why_not_together() : "";
  TORCH_CHECK_VALUE(why_not.empty(), "--batch ", arguments.batch, " cannot be: ", why_not);
  try {
    model.warm_up();
  } catch (const std::exception& error) {
    std::cerr << "it3-server: warning: the engine does not adapt to zeros: " << it3::error_text(error) << '\n';
  }
  Metrics metrics;
  Jobs jobs(arguments.queue);
  Server server(arguments, model, jobs, metrics);
  const int port = server.bind();
  Workers workers(model, jobs, metrics, {arguments.workers, arguments.threads, arguments.batch, arguments.wait});
  std::atomic<bool> is_port_lost = false;
  std::thread listener([&] {
    is_port_lost = !server.listen();
    if (is_port_lost) kill(getpid(), SIGTERM);
  });
  std::cout << "it3-server: http://" << arguments.host << ':' << port << "/v2/models/" << arguments.name << std::endl;

  int signal = 0;
  sigwait(&end_signals, &signal);
  pthread_sigmask(SIG_UNBLOCK, &end_signals, nullptr);  // the next one ends all at once
  std::cout << "it3-server: answers what it has taken, and ends" << std::endl;
  server.begin_to_drain();
  std::this_thread::sleep_for(arguments.grace);
  server.refuse_requests();
  std::thread([last = Clock::now() + arguments.deadline + for_slow_clients] {
    std::this_thread::sleep_until(last);
    std::cerr << "it3-server: ends without clients that still send or read" << std::endl;
    std::_Exit(0);
  }).detach();
  while (server.open_requests() > 0) std::this_thread::sleep_for(5ms);
  server.stop();
  listener.join();
  jobs.close();
  TORCH_CHECK(!is_port_lost, "the port ", port, " was lost");
}

}  // namespace
}  // namespace serving

int main(int argc, char** argv) {
  // Keeps memory that a step has freed for the next one; glibc would give it back and fault it in anew.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  const sigset_t end_signals = serving::block_end_signals();
  try {
    const auto [arguments, exit_code] = serving::parse_arguments(argc, argv);
    if (exit_code) return *exit_code;
    serving::run(arguments, end_signals);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "it3-server: " << it3::error_text(error) << '\n';
    return 1;
  }
}
