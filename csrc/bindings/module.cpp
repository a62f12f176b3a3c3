#include "bindings.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "The C++ core of it3.";
  it3::python::bind_embedder(module);
  it3::python::bind_files(module);
  it3::python::bind_options(module);
  it3::python::bind_engine(module);
  it3::python::bind_compiled(module);
  it3::python::bind_memory(module);
  it3::python::listen_for_interrupts();
}
