#pragma once

#include <vector>

#include <torch/csrc/utils/pybind.h>

#include <it3/options.h>

namespace it3::python {

/// Options from a dictionary, checked. Raises what Options::set and Options::validate raise.
Options options_from(const py::dict& values);

/// Options from dictionaries of which most are like the last one.
class RecentOptions {
 public:
  /// See options_from().
  Options of(const py::dict& values);

 private:
  /// Of the last dictionary of values that cannot change; none before, as options_ is by default. They live, so that
  /// none of the next takes their place in memory.
  std::vector<py::object> items_;
  Options options_;
};

/// A dictionary of options with others in place of some, see Options::override_with.
py::dict overridden(const py::dict& values, const py::dict& others);

/// The dictionary of options that are set.
py::dict to_python(const Options& options);

}  // namespace it3::python
