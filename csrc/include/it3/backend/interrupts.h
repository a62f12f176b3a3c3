#pragma once

#include <exception>

#include <it3/backend/export.h>

namespace it3 {

/// How a program, such as Python's interpreter, ends a call that is under way. All may be null. They are called by any
/// thread that adapts.
struct Interrupts {
  /// Raises an exception if the call is to end, as after Ctrl-C. Asked before each step: what adapts is as it was
  /// before the call then.
  void (*check)() = nullptr;

  /// Whether an exception asks for the end of the call, as Python's KeyboardInterrupt does. No other one is raised in
  /// its place, and no other way is tried, as it is where a network fails.
  bool (*are)(const std::exception&) = nullptr;

  /// Raises the exception that a function of the program's has left behind, where a TorchScript interpreter lost it.
  void (*raise_pending)() = nullptr;
};

/// For all calls from now on; to be set before the first one.
IT3_API void set_interrupts(const Interrupts& interrupts);

namespace detail {

/// See Interrupts. The second is called in a catch block, and raises what was caught there.
IT3_API void check_interrupts();
IT3_API void rethrow_interrupt(const std::exception& caught);
IT3_API void raise_pending_interrupt();

}  // namespace detail
}  // namespace it3
