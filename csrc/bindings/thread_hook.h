#pragma once

#include <torch/csrc/utils/pybind.h>

namespace it3::python {

/// What Python calls at the events of a thread: a profiler, or a tracer.
///
/// It is kept as C knows it. Those that are written in C, such as cProfile's before Python 3.12 and coverage's, cannot
/// be put back with what sys.getprofile() and sys.gettrace() return, which may be no function at all, or another one.
/// Tools of sys.monitoring are no such hooks, and stay on.
struct ThreadHook {
  Py_tracefunc function;
  py::object object;
};

inline ThreadHook profiler_of_thread() {
  const PyThreadState* const state = PyThreadState_Get();
  return {state->c_profilefunc, py::reinterpret_borrow<py::object>(state->c_profileobj)};
}

inline ThreadHook tracer_of_thread() {
  const PyThreadState* const state = PyThreadState_Get();
  return {state->c_tracefunc, py::reinterpret_borrow<py::object>(state->c_traceobj)};
}

/// Puts the profiler back that was there, whatever ends the code that has another one meanwhile.
class KeptProfiler {
 public:
  KeptProfiler() = default;
  ~KeptProfiler() {
    const py::error_scope pending;
    PyEval_SetProfile(before_.function, before_.object.ptr());
  }
  KeptProfiler(const KeptProfiler&) = delete;
  KeptProfiler& operator=(const KeptProfiler&) = delete;

 private:
  const ThreadHook before_ = profiler_of_thread();
};

}  // namespace it3::python
