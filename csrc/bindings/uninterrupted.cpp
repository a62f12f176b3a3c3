#include "uninterrupted.h"

#include <c10/core/impl/TorchDispatchModeTLS.h>

namespace it3::python {
namespace {

/// Python runs handlers of signals in its main thread only, and lets only that one set them.
bool is_main_thread() {
  const py::module_ threading = py::module_::import("threading");
  return threading.attr("get_ident")().equal(threading.attr("main_thread")().attr("ident"));
}

}  // namespace

Uninterrupted::Uninterrupted() {
  const py::module_ signal = py::module_::import("_signal");
  const bool is_main = is_main_thread();
  PyEval_SetTrace(nullptr, nullptr);
  try {
    const py::cpp_function wait([come = come_](int number, const py::object&) { come->push_back(number); });
    for (int number = 1; is_main && number < signal.attr("NSIG").cast<int>(); ++number) {
      const py::object handler = signal.attr("getsignal")(number);
      if (PyCallable_Check(handler.ptr()) == 0) continue;  // the system's
      signal.attr("signal")(number, wait);
      handlers_.emplace_back(number, handler);
    }
  } catch (...) {  // a signal that came before
    give_back();
    throw;
  }
  c10::impl::TorchDispatchModeTLS::set_state({});
}

Uninterrupted::~Uninterrupted() { give_back(); }

void Uninterrupted::give_back() noexcept {
  at::ThreadLocalState::setThreadLocalState(before_);
  const py::error_scope pending;
  const auto is_called = [](PyObject* result) {
    if (result == nullptr) PyErr_Clear();
    Py_XDECREF(result);
    return result != nullptr;
  };
  PyObject* const signal = PyImport_AddModule("_signal");
  for (const auto& [number, handler] : handlers_) {
    const auto set = [&, &number = number, &handler = handler] {
      return is_called(PyObject_CallMethod(signal, "signal", "iO", number, handler.ptr()));
    };
    // A handler that is back already may raise for a second signal, which then comes once more in the end.
    if (!set() && set()) come_->push_back(handlers_.front().first);
  }
  PyEval_SetTrace(tracer_.function, tracer_.object.ptr());
  for (const int number : *come_) PyErr_SetInterruptEx(number);
}

}  // namespace it3::python
