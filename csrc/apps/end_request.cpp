#include "end_request.h"

#include <csignal>

#include <c10/util/StringUtil.h>

namespace it3::apps {
namespace {

volatile std::sig_atomic_t asked_by = 0;

void ask_to_end(int signal) {
  asked_by = signal;
  std::signal(signal, SIG_DFL);
}

}  // namespace

void listen_for_end_requests() {
  std::signal(SIGINT, ask_to_end);
  std::signal(SIGTERM, ask_to_end);
}

bool is_asked_to_end() { return asked_by != 0; }

void check_not_asked_to_end(const char* consequence) {
  if (is_asked_to_end()) throw EndRequested(c10::str("interrupted by the signal ", int{asked_by}, "; ", consequence));
}

}  // namespace it3::apps
