#include <it3/backend/interrupts.h>

namespace it3 {
namespace {

Interrupts& interrupts() {
  static Interrupts all;
  return all;
}

}  // namespace

void set_interrupts(const Interrupts& of_program) { interrupts() = of_program; }

namespace detail {

void check_interrupts() {
  if (interrupts().check != nullptr) interrupts().check();
}

void rethrow_interrupt(const std::exception& caught) {
  if (interrupts().are != nullptr && interrupts().are(caught)) throw;
}

void raise_pending_interrupt() {
  if (interrupts().raise_pending != nullptr) interrupts().raise_pending();
}

}  // namespace detail
}  // namespace it3
