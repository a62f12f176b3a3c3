#include <chrono>

#include <it3/backend/interrupts.h>
#include <torch/csrc/Exceptions.h>

#include "bindings.h"

namespace it3::python {
namespace {

/// Python runs handlers of signals in its main thread alone.
unsigned long main_thread = 0;

/// Gives Python its turn to handle a signal, such as that of Ctrl-C, now and then.
void check() {
  using Clock = std::chrono::steady_clock;
  static Clock::time_point next = {};
  if (PyThread_get_thread_ident() != main_thread || Clock::now() < next) return;
  next = Clock::now() + std::chrono::milliseconds(50);
  const py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

/// Whether it is none of Python's errors, as KeyboardInterrupt and SystemExit; or MemoryError, behind which no other
/// way is to be tried.
bool are_interrupts(const std::exception& error) {
  const auto* const of_pybind = dynamic_cast<const py::error_already_set*>(&error);
  const auto* const of_torch = dynamic_cast<const python_error*>(&error);
  if (of_pybind == nullptr && of_torch == nullptr) return false;
  const py::gil_scoped_acquire gil;
  PyObject* type = PyErr_Occurred();
  if (of_pybind != nullptr) type = of_pybind->type().ptr();
  if (of_torch != nullptr && of_torch->type != nullptr) type = of_torch->type;
  if (type == nullptr) return false;
  const bool are = PyErr_GivenExceptionMatches(type, PyExc_Exception) == 0 ||
                   PyErr_GivenExceptionMatches(type, PyExc_MemoryError) != 0;
  if (!are) PyErr_Clear();  // torch leaves what it throws pending, and this one is not going on to Python
  return are;
}

/// torch's interpreter takes Python's exceptions for others, without text, and leaves them pending.
void raise_pending() {
  const py::gil_scoped_acquire gil;
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
}

}  // namespace

void listen_for_interrupts() {
  main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  set_interrupts({.check = check, .are = are_interrupts, .raise_pending = raise_pending});
}

}  // namespace it3::python
